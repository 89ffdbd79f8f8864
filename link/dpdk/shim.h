/* What Go sees of DPDK. Nothing here includes a DPDK header, so that Go needs to
 * know none of its types. All functions return 0 or a count, or a negative
 * errno. */
#ifndef TPA_SHIM_H
#define TPA_SHIM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TPA_BURST 64 /* link.MaxBurst */

/* eal.c */

const char *tpa_version(void); /* such as "DPDK 22.11.11" */
int tpa_log_to(int fd);
void tpa_log_mark(const char *mark);
int tpa_eal_start(int argc, char **argv, const int *cpus, int ncpus);
const char *tpa_runtime_dir(void);
int tpa_lcore_take(void);
const char *tpa_strerror(int err);
/* Memory of the n-th NUMA node in bytes; false: there is no such node. */
bool tpa_memory(unsigned n, int *node, uint64_t *total, uint64_t *unused, bool *huge);

/* port.c */

enum tpa_offload {
	TPA_RX_IPV4_CHECKSUM = 1 << 0,
	TPA_RX_TCP_CHECKSUM = 1 << 1,
	TPA_RX_SCATTER = 1 << 2,
	TPA_TX_IPV4_CHECKSUM = 1 << 3,
	TPA_TX_TCP_CHECKSUM = 1 << 4,
	TPA_TX_TSO = 1 << 5,
	TPA_TX_MULTI_SEGS = 1 << 6,
	TPA_TX_FAST_FREE = 1 << 7,
	TPA_RX_VLAN_FILTER = 1 << 8,
	/* Not a device's: the other end sees to it that no checksum is needed. */
	TPA_NO_CHECKSUM = 1 << 9,
};

struct tpa_ring_limits {
	uint16_t min, max, align, wish; /* descriptors; wish 0: none */
};

struct tpa_info {
	char driver[64];
	uint8_t mac[6];
	int numa; /* -1: unknown */
	uint16_t max_queues;
	struct tpa_ring_limits rx, tx;
	uint16_t mtu, min_mtu, max_mtu;
	bool sets_mtu; /* the driver has a say in the MTU */
	bool pads;     /* short frames are padded by the shim */
	uint32_t offloads;
	uint16_t reta_size; /* 0: no RSS */
	uint8_t key_size;
	uint32_t if_index; /* of the kernel's interface for the device, 0: none */
};

struct tpa_setup {
	uint16_t queues, rx_ring, tx_ring, mtu;
	bool sets_mtu, promiscuous;
	uint32_t offloads;
	uint16_t vlan; /* 0: none */
};

struct tpa_link_stats {
	uint64_t rx_packets, rx_bytes, tx_packets, tx_bytes;
	uint64_t rx_missed, rx_no_buffer, rx_errors, tx_errors;
};

struct tpa_xstat {
	char name[64];
	uint64_t value;
};

int tpa_probe(const char *devargs, const char *name, uint16_t *port);
int tpa_remove(uint16_t port); /* stops, closes and detaches */
int tpa_get_info(uint16_t port, struct tpa_info *info);
int tpa_configure(uint16_t port, const struct tpa_setup *setup);
int tpa_setup_queue(uint16_t port, uint16_t queue, const struct tpa_setup *setup, void *pool);
int tpa_start(uint16_t port, const struct tpa_setup *setup);
bool tpa_link_up(uint16_t port);
uint64_t tpa_link_speed(uint16_t port); /* bits per second; 0: unknown */
int tpa_get_stats(uint16_t port, struct tpa_link_stats *stats);
/* Returns how many there are; writes them when n is not smaller. */
int tpa_get_xstats(uint16_t port, struct tpa_xstat *list, unsigned n);
/* Receive side scaling. table has as many entries as tpa_info.reta_size, key as
 * many bytes as tpa_info.key_size. */
int tpa_get_rss(uint16_t port, uint8_t *key, uint8_t key_size, uint16_t *table, uint16_t table_size);
int tpa_set_rss(uint16_t port, const uint8_t *key, uint8_t key_size, const uint16_t *table, uint16_t table_size);

void *tpa_pool_new(const char *name, unsigned n, unsigned cache, unsigned room, int numa, int *err);
unsigned tpa_pool_in_use(void *pool);
unsigned tpa_pool_size(void *pool);
void tpa_pool_free(void *pool);

/* flow.c: why is what the driver says about an error, or left as it is. */

struct tpa_rule {
	bool ipv6, has_addr;
	uint8_t addr[16];
	uint16_t port, port_mask;
	uint16_t queues; /* 1 to 256 */
	uint16_t queue[256];
};

int tpa_flow_create(uint16_t port, const struct tpa_rule *rule, void **flow, char *why, size_t size);
int tpa_flow_destroy(uint16_t port, void *flow, char *why, size_t size);
int tpa_flow_isolate(uint16_t port, bool on, char *why, size_t size);

/* memif.c */

int tpa_memif_remove(uint16_t port);
int tpa_memif_restart(uint16_t port);

/* queue.c */

struct tpa_frame {
	void *data;
	uint32_t len;
	uint32_t checksum; /* link.ChecksumStatus */
};

/* What the two sides of a queue have in common. */
struct tpa_side {
	uint16_t port, queue;
	int lcore;              /* see tpa_lcore_take; -1: none */
	uint32_t steps;         /* odd while inside the driver */
	struct tpa_side *next;  /* of all sides in the process */
};

/* The receive side of a queue. Only the poller touches it, except for the
 * counters, which anyone may read. */
struct tpa_rx {
	struct tpa_side side;
	uint32_t max_frame;
	uint32_t offloads;
	uint16_t vlan;        /* whose frames these are; 0: no tags */
	uint32_t count, next; /* frames fetched; the first that Go has not taken */
	struct tpa_frame frames[TPA_BURST];
	bool gone;            /* the device was removed */
	uint32_t nheld;
	uintptr_t held[TPA_BURST]; /* mbufs behind frames */
	uint8_t *scratch;          /* TPA_BURST buffers of max_frame for joined chains */
	uint64_t n_frames, n_bytes, n_malformed, n_other_vlan;
};

/* A frame between Commit and Flush. */
struct tpa_slot {
	uintptr_t mbuf;
	uint32_t len;
	uint16_t mss;
	uint8_t flags; /* link.TxFlags */
	bool tagged;   /* for the VLAN */
	uint8_t l2_len, l3_len, l4_len;
};

struct tpa_buffer {
	uintptr_t mbuf;
	void *room;
};

/* The transmit side of a queue. Only the holder of the transmit lock touches
 * it, except for the counters. */
struct tpa_tx {
	struct tpa_side side;
	void *pool, *big_pool; /* big_pool NULL: no TSO */
	bool pads;
	bool gone; /* the device was removed */
	uint32_t offloads;
	uint16_t vlan; /* 0: no tags */
	uint32_t depth, head, tail; /* slots; staged are head up to tail */
	struct tpa_slot *slots;
	uint32_t nstock;
	struct tpa_buffer stock[TPA_BURST]; /* used from the end */
	struct tpa_buffer big;              /* mbuf 0: none */
	uint64_t n_frames, n_bytes, n_full, n_dropped;
};

struct tpa_rx *tpa_rx_new(uint16_t port, uint16_t queue, int lcore, uint32_t max_frame, uint32_t offloads, uint16_t vlan);
void tpa_rx_burst(struct tpa_rx *rx);
void tpa_rx_release(struct tpa_rx *rx);
void tpa_rx_free(struct tpa_rx *rx);

struct tpa_tx *tpa_tx_new(uint16_t port, uint16_t queue, int lcore, void *pool, uint32_t depth, bool pads, uint32_t offloads, uint16_t vlan);
void tpa_tx_stock(struct tpa_tx *tx);
void tpa_tx_stock_big(struct tpa_tx *tx);
/* Takes back what the device has sent. -ENOTSUP: it does so only to make room for
 * more. */
int tpa_tx_reap(struct tpa_tx *tx);
bool tpa_tx_burst(struct tpa_tx *tx); /* false: the ring is full */
void tpa_tx_release(struct tpa_tx *tx);
void tpa_tx_free(struct tpa_tx *tx);

#endif
