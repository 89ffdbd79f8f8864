void flowtest_play(int on, int validate, int create, int destroy, int isolate);
const char *flowtest_take(void);
