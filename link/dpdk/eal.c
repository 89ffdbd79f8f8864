//go:build dpdk && cgo && linux

#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_lcore.h>
#include <rte_log.h>
#include <rte_malloc.h>
#include <rte_version.h>

#include "internal.h"
#include "shim.h"

const char *tpa_version(void)
{
	return rte_version();
}

bool tpa_memory(unsigned n, int *node, uint64_t *total, uint64_t *unused, bool *huge)
{
	struct rte_malloc_socket_stats s;

	if (n >= rte_socket_count())
		return false;
	*node = rte_socket_id_by_idx(n);
	if (rte_malloc_get_socket_stats(*node, &s) != 0)
		return false;
	*total = s.heap_totalsz_bytes;
	*unused = s.heap_freesz_bytes;
	*huge = rte_eal_has_hugepages() != 0;
	return true;
}

const char *tpa_strerror(int err)
{
	return rte_strerror(err < 0 ? -err : err);
}

/* The log: every message becomes one record of a SOCK_SEQPACKET socket, its
 * level first. A record that does not fit is lost: logging never blocks. */

static FILE *log_stream;

static ssize_t log_write(void *cookie, const char *buf, size_t size)
{
	int fd = *(int *)cookie;
	int level = rte_log_cur_msg_loglevel();
	char record[1024];
	size_t n = size < sizeof(record) - 1 ? size : sizeof(record) - 1;

	record[0] = level > 0 ? level : RTE_LOG_NOTICE;
	memcpy(record + 1, buf, n);
	(void)!send(fd, record, n + 1, MSG_DONTWAIT | MSG_NOSIGNAL);
	return size;
}

int tpa_log_to(int fd)
{
	static int log_fd;
	cookie_io_functions_t io = {.write = log_write};

	log_fd = fd;
	log_stream = fopencookie(&log_fd, "w", io);
	if (log_stream == NULL)
		return -errno;
	setlinebuf(log_stream);
	return rte_openlog_stream(log_stream);
}

void tpa_log_mark(const char *mark)
{
	fputs(mark, log_stream);
	fflush(log_stream);
}

/* What DPDK and the libraries under it print by themselves is sent to the log
 * while a quiet section lasts. stderr and stdout are C's variables: nothing
 * changes for Go, which writes to the file descriptors. */

void tpa_quiet(bool on)
{
	static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	static FILE *loud_stderr, *loud_stdout;
	static int sections;

	pthread_mutex_lock(&lock);
	if (on && sections++ == 0) {
		loud_stderr = stderr;
		loud_stdout = stdout;
		stderr = stdout = log_stream;
	}
	if (!on && --sections == 0) {
		fflush(log_stream);
		stderr = loud_stderr;
		stdout = loud_stdout;
	}
	pthread_mutex_unlock(&lock);
}

/* rte_eal_init pins its thread to a CPU, marks it as an lcore, and makes
 * threads that inherit its signal mask. So it gets a thread of its own, which
 * blocks all signals and ends when the work is done. */

struct eal_start {
	int argc;
	char **argv;
	const int *cpus;
	int ncpus;
	int ret;
};

static void *eal_start(void *arg)
{
	struct eal_start *s = arg;
	cpu_set_t set;
	int i;

	CPU_ZERO(&set);
	for (i = 0; i < s->ncpus; i++)
		CPU_SET(s->cpus[i], &set);
	s->ret = -pthread_setaffinity_np(pthread_self(), sizeof(set), &set);
	if (s->ret != 0)
		return NULL;
	rte_errno = 0;
	if (rte_eal_init(s->argc, s->argv) < 0)
		s->ret = rte_errno > 0 ? -rte_errno : -EINVAL;
	return NULL;
}

/* Runs f in a thread that blocks all signals and waits for its end. */
static int run_in_thread(void *(*f)(void *), void *arg)
{
	pthread_t thread;
	sigset_t all, old;
	int ret;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	ret = pthread_create(&thread, NULL, f, arg);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (ret == 0)
		ret = pthread_join(thread, NULL);
	return -ret;
}

/* The EAL keeps pointers to its arguments for good, but overwrites some in the
 * array. Not static, or the compiler would drop what nobody reads, and leak
 * checkers would miss it. */
char **tpa_eal_args[2];

int tpa_eal_start(int argc, char **argv, const int *cpus, int ncpus)
{
	struct eal_start s = {.argc = argc, .cpus = cpus, .ncpus = ncpus};
	int ret;

	tpa_eal_args[0] = argv;
	tpa_eal_args[1] = s.argv = calloc(argc + 1, sizeof(*argv));
	if (s.argv == NULL)
		return -ENOMEM;
	memcpy(s.argv, argv, argc * sizeof(*argv));

	tpa_quiet(true);
	ret = run_in_thread(eal_start, &s);
	tpa_quiet(false);
	return ret != 0 ? ret : s.ret;
}

const char *tpa_runtime_dir(void)
{
	return rte_eal_get_runtime_dir();
}

/* An lcore number gives a thread its own cache in each mempool. A goroutine has
 * no thread of its own, so the numbers belong to queues instead and are put on
 * for the time of a call: sending and receiving 64 bytes by memif costs 63 ns
 * instead of 147, 1514 bytes 155 instead of 483, for the buffers stay in
 * the processor's cache. A thread that registers and ends without unregistering
 * leaves its number reserved. */

static void *lcore_take(void *arg)
{
	int *lcore = arg;

	*lcore = rte_thread_register() == 0 ? (int)rte_lcore_id() : -rte_errno;
	return NULL;
}

int tpa_lcore_take(void)
{
	int lcore = -EAGAIN;
	int ret;

	tpa_quiet(true);
	ret = run_in_thread(lcore_take, &lcore);
	tpa_quiet(false);
	return ret != 0 ? ret : lcore;
}
