//go:build dpdk && cgo && linux

/* The memif driver connects and disconnects in the EAL's interrupt thread, with
 * no regard for other threads (seen in DPDK 22.11 to 26.07). Two things follow. */

#define _GNU_SOURCE
#include <semaphore.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <rte_alarm.h>
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

/* Second: a port that is closed while its peer disconnects would be torn down by
 * two threads at a time. So it is closed in the interrupt thread too. */

struct removal {
	uint16_t port;
	int ret;
	sem_t done;
};

static void remove_in_interrupt_thread(void *arg)
{
	struct removal *r = arg;

	r->ret = tpa_remove(r->port);
	sem_post(&r->done);
}

int tpa_memif_remove(uint16_t port)
{
	struct removal r = {.port = port};
	int ret;

	sem_init(&r.done, 0, 0);
	ret = rte_eal_alarm_set(1, remove_in_interrupt_thread, &r);
	if (ret == 0) {
		while (sem_wait(&r.done) != 0)
			; /* EINTR */
		ret = r.ret;
	}
	sem_destroy(&r.done);
	return ret;
}
