/* Drives the package's C under valgrind, without Go, which valgrind does not
 * follow: two processes join by memif, and every frame goes there and back, in
 * one piece and in chains; then a null device for what memif cannot.
 *
 *     main DIRECTORY      of memif's socket
 *
 * `make test-valgrind` builds and runs it. */
#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../../shim.h"

#define FRAMES 2000
#define MAX_FRAME 1518
#define ROOM 256 /* of the server's buffers */
#define RING 64 /* descriptors */
#define POOL 2048
#define TIMEOUT 120000000 /* us; valgrind is slow */

static const char *who;

#define check(ok, ...) \
	do { \
		if (!(ok)) { \
			fprintf(stderr, "%s, line %d: ", who, __LINE__); \
			fprintf(stderr, __VA_ARGS__); \
			fputc('\n', stderr); \
			exit(1); \
		} \
	} while (0)

/* works checks what a function of the shim returned. */
#define works(call) \
	do { \
		int ret_ = (call); \
		check(ret_ >= 0, #call ": %s", tpa_strerror(ret_)); \
	} while (0)

static void pause_a_little(unsigned *waited, const char *what)
{
	usleep(100);
	check((*waited += 100) < TIMEOUT, "waited in vain for %s", what);
}

/* eal starts the EAL the way Go does. */
static void eal(void)
{
	static char *args[] = {"tpa", NULL, "--lcores=0", "--allow=0000:00:00.0", "-m", "128", "--no-huge",
			       "--no-shconf", "--iova-mode=va", "--no-telemetry", NULL};
	static char prefix[64];
	int pair[2], cpu;

	snprintf(prefix, sizeof(prefix), "--file-prefix=tpavalgrind%d", getpid());
	args[1] = prefix;
	works(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair));
	works(tpa_log_to(pair[0])); /* nobody reads: what does not fit is lost */
	cpu = sched_getcpu();
	works(tpa_eal_start(sizeof(args) / sizeof(args[0]) - 1, args, &cpu, 1));
	tpa_log_mark("started\n");
	rmdir(tpa_runtime_dir());
}

struct port {
	uint16_t id;
	struct tpa_info info;
	struct tpa_setup setup;
	void *pool, *big;
	struct tpa_rx *rx;
	struct tpa_tx *tx;
};

/* open_port opens a port whose buffers have that much room. The first queue is
 * driven. */
static void open_port(struct port *p, const char *devargs, const char *name, unsigned queues, unsigned room)
{
	unsigned i;
	int err;

	works(tpa_probe(devargs, name, &p->id));
	check(tpa_probe(devargs, name, &p->id) == -EEXIST, "the same device opens twice");
	works(tpa_get_info(p->id, &p->info));
	p->setup = (struct tpa_setup){.queues = queues, .rx_ring = RING, .tx_ring = RING, .mtu = p->info.mtu,
				      .sets_mtu = p->info.sets_mtu, .offloads = p->info.offloads & ~TPA_RX_SCATTER};
	works(tpa_configure(p->id, &p->setup));
	p->pool = tpa_pool_new("pool", POOL, 64, room, p->info.numa, &err);
	check(p->pool != NULL, "no mempool: %s", tpa_strerror(err));
	p->big = tpa_pool_new("big", 4, 0, 16384, p->info.numa, &err);
	check(p->big != NULL, "no mempool: %s", tpa_strerror(err));
	for (i = 0; i < queues; i++)
		works(tpa_setup_queue(p->id, i, &p->setup, p->pool));
	p->rx = tpa_rx_new(p->id, 0, tpa_lcore_take(), MAX_FRAME, p->setup.offloads, 0);
	p->tx = tpa_tx_new(p->id, 0, tpa_lcore_take(), p->pool, RING, p->info.pads, p->setup.offloads, 0);
	check(p->rx != NULL && p->tx != NULL, "no queue");
	p->tx->big_pool = p->big;
}

/* look reads all there is to read about a port. */
static void look(struct port *p)
{
	struct tpa_link_stats stats;
	struct tpa_xstat *list;
	int n = tpa_get_xstats(p->id, NULL, 0);

	works(tpa_get_stats(p->id, &stats));
	works(n);
	list = calloc(n + 1, sizeof(*list));
	check(tpa_get_xstats(p->id, list, n) == n, "the driver's counters change their number");
	free(list);
	(void)tpa_link_speed(p->id);
}

static void close_port(struct port *p, int (*remove)(uint16_t))
{
	tpa_rx_release(p->rx);
	tpa_tx_release(p->tx);
	works(remove(p->id));
	tpa_rx_free(p->rx);
	tpa_tx_free(p->tx);
	check(tpa_pool_in_use(p->pool) == 0, "%u of %u buffers did not come back", tpa_pool_in_use(p->pool), tpa_pool_size(p->pool));
	check(tpa_pool_in_use(p->big) == 0, "%u big buffers did not come back", tpa_pool_in_use(p->big));
	tpa_pool_free(p->pool);
	tpa_pool_free(p->big);
}

/* stage puts a frame into the staging area, as Reserve and Commit do. */
static bool stage(struct tpa_tx *tx, const uint8_t *frame, uint32_t len)
{
	struct tpa_slot *s = &tx->slots[tx->tail];

	if (tx->tail == tx->depth)
		return false;
	if (tx->nstock == 0)
		tpa_tx_stock(tx);
	if (tx->nstock == 0)
		return false;
	*s = (struct tpa_slot){.mbuf = tx->stock[--tx->nstock].mbuf, .len = len};
	memcpy(tx->stock[tx->nstock].room, frame, len);
	tx->tail++;
	return true;
}

static void flush(struct tpa_tx *tx)
{
	while (tx->head != tx->tail && tpa_tx_burst(tx))
		;
}

/* make writes the n-th frame and returns its length. */
static uint32_t make(uint8_t *frame, uint32_t n)
{
	uint32_t len = 14 + n * 37 % (MAX_FRAME - 14 + 1), i;

	for (i = 0; i < len; i++)
		frame[i] = n + i;
	return len;
}

/* receive fetches a burst and checks that it goes on from the n-th frame. */
static uint32_t receive(struct port *p, uint32_t n)
{
	uint8_t want[MAX_FRAME];
	uint32_t i;

	tpa_rx_burst(p->rx);
	for (i = 0; i < p->rx->count; i++, n++) {
		struct tpa_frame *f = &p->rx->frames[i];

		check(f->len == make(want, n) && memcmp(f->data, want, f->len) == 0, "frame %u of %u bytes is not what was sent", n, f->len);
	}
	return n;
}

/* cut is how much of a frame the server's buffers hold. */
static uint32_t cut(uint32_t len)
{
	return len < ROOM ? len : ROOM;
}

/* server sends back the beginning of what comes. Its buffers are small, so most
 * frames arrive in chains. */
static void server(const char *devargs, int ready)
{
	uint32_t n = 0, waited = 0;
	struct port p = {0};

	open_port(&p, devargs, "net_memif0", 1, ROOM);
	works(tpa_start(p.id, &p.setup));
	works(write(ready, "x", 1));
	while (n < FRAMES) {
		uint32_t i, next = receive(&p, n);

		if (next == n)
			pause_a_little(&waited, "frames");
		for (i = 0; i < p.rx->count; i++) {
			while (!stage(p.tx, p.rx->frames[i].data, cut(p.rx->frames[i].len))) {
				flush(p.tx);
				pause_a_little(&waited, "room in the ring");
			}
		}
		flush(p.tx);
		n = next;
	}
	while (p.tx->head != p.tx->tail) {
		flush(p.tx);
		pause_a_little(&waited, "room in the ring");
	}
	look(&p);
	while (tpa_link_up(p.id)) /* the client closes first */
		pause_a_little(&waited, "the client to go");
	receive(&p, n);
	close_port(&p, tpa_memif_remove);
}

static void client(const char *devargs)
{
	uint32_t sent = 0, back = 0, waited = 0, i;
	uint8_t frame[MAX_FRAME], want[MAX_FRAME];
	struct port p = {0};

	open_port(&p, devargs, "net_memif0", 1, 2048);
	works(tpa_start(p.id, &p.setup));
	while (!tpa_link_up(p.id))
		pause_a_little(&waited, "the server");
	while (back < FRAMES) {
		uint32_t before = sent + back;

		while (sent < FRAMES && stage(p.tx, frame, make(frame, sent)))
			sent++;
		flush(p.tx);
		tpa_rx_burst(p.rx);
		for (i = 0; i < p.rx->count; i++, back++) {
			uint32_t len = cut(make(want, back));

			check(p.rx->frames[i].len == len && memcmp(p.rx->frames[i].data, want, len) == 0, "frame %u came back otherwise", back);
		}
		if (sent + back == before)
			pause_a_little(&waited, "frames to come back");
	}
	look(&p);
	check(p.rx->n_frames == FRAMES && p.tx->n_frames == FRAMES && p.rx->n_malformed == 0, "the counters are wrong");
	/* What is staged and never sent goes back to the pool, too. */
	for (i = 0; i < 5; i++)
		stage(p.tx, frame, make(frame, i));
	tpa_tx_stock_big(p.tx);
	check(p.tx->big.mbuf != 0, "no big buffer");
	close_port(&p, tpa_memif_remove);
}

/* null opens a device that swallows what it gets and invents what it gives, which
 * has RSS, and no flow rules. */
static void null(void)
{
	struct tpa_rule rule = {.port = 80, .port_mask = 0xffff, .queues = 1};
	uint8_t key[64] = {0}, frame[MAX_FRAME];
	char why[100] = "";
	uint16_t table[512];
	struct port p = {0};
	void *flow = NULL;
	uint32_t i;

	open_port(&p, "net_null0,size=60", "net_null0", 2, 2048);
	works(tpa_start(p.id, &p.setup));
	check(p.info.reta_size <= 512 && p.info.key_size <= sizeof(key), "RSS is larger than thought");
	works(tpa_get_rss(p.id, key, p.info.key_size, table, p.info.reta_size));
	works(tpa_set_rss(p.id, key, p.info.key_size, table, p.info.reta_size));
	check(tpa_flow_create(p.id, &rule, &flow, why, sizeof(why)) < 0, "a device without flow rules takes one");
	(void)tpa_flow_isolate(p.id, true, why, sizeof(why));
	for (i = 0; i < 100; i++) {
		stage(p.tx, frame, make(frame, i));
		flush(p.tx);
		(void)tpa_tx_reap(p.tx);
		tpa_rx_burst(p.rx);
		check(p.rx->count == TPA_BURST, "%u frames in a burst", p.rx->count);
	}
	look(&p);
	close_port(&p, tpa_remove);
}

int main(int argc, char **argv)
{
	uint64_t total, unused;
	char devargs[512];
	int ready[2], status, node;
	bool huge;
	pid_t peer;
	char b;

	if (argc != 2)
		return 2;
	works(pipe(ready));
	peer = fork();
	who = peer == 0 ? "server" : "client";
	snprintf(devargs, sizeof(devargs), "net_memif0,role=%s,socket=%s/memif.sock,socket-abstract=no,rsize=6", who, argv[1]);
	if (peer == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		eal();
		server(devargs, ready[1]);
		return 0;
	}
	works(peer);
	close(ready[1]);
	eal();
	check(read(ready[0], &b, 1) == 1, "the server has ended");
	client(devargs);
	null();
	check(tpa_memory(0, &node, &total, &unused, &huge) && unused <= total, "no memory");
	works(waitpid(peer, &status, 0));
	check(WIFEXITED(status) && WEXITSTATUS(status) == 0, "the server ended with status %#x", status);
	printf("%s: %d frames there and back\n", tpa_version(), FRAMES);
	return 0;
}
