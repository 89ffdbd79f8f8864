//go:build dpdk && cgo && linux

/* The memif driver connects and disconnects in the EAL's interrupt thread, with
 * no regard for other threads (seen in DPDK 22.11 to 26.07). Two things follow. */

#define _GNU_SOURCE
#include <semaphore.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <rte_alarm.h>
#include <rte_ethdev.h>
#include <rte_interrupts.h>

#include "internal.h"
#include "shim.h"

/* First: when the peer goes away, the driver marks the port as disconnected and
 * unmaps the shared memory at once, under the feet of a poller that is in the
 * middle of a burst. The driver calls munmap through the dynamic linker, which
 * finds this one before libc's. In the interrupt thread it waits for the bursts
 * under way; later ones see the mark and stay out. */
__attribute__((visibility("default"))) int munmap(void *addr, size_t len)
{
	if (rte_thread_is_intr())
		tpa_quiesce();
	return syscall(SYS_munmap, addr, len);
}

/* Second: a port that is stopped while its peer connects or disconnects would be
 * torn down by two threads at a time. So that is done in the interrupt thread,
 * too. */

struct errand {
	int (*run)(uint16_t port);
	uint16_t port;
	int ret;
	sem_t done;
};

static void run_errand(void *arg)
{
	struct errand *e = arg;

	e->ret = e->run(e->port);
	sem_post(&e->done);
}

static int in_interrupt_thread(int (*run)(uint16_t port), uint16_t port)
{
	struct errand e = {.run = run, .port = port};
	int ret;

	sem_init(&e.done, 0, 0);
	ret = rte_eal_alarm_set(1, run_errand, &e);
	if (ret == 0) {
		while (sem_wait(&e.done) != 0)
			; /* EINTR */
		ret = e.ret;
	}
	sem_destroy(&e.done);
	return ret;
}

int tpa_memif_remove(uint16_t port) { return in_interrupt_thread(tpa_remove, port); }

static int restart(uint16_t port)
{
	int ret;

	tpa_quiet(true);
	(void)rte_eth_dev_stop(port);
	ret = rte_eth_dev_start(port);
	tpa_quiet(false);
	return ret;
}

int tpa_memif_restart(uint16_t port) { return in_interrupt_thread(restart, port); }
