//go:build dpdk && cgo && linux

#define _GNU_SOURCE
#include <errno.h>
#include <netinet/in.h>
#include <linux/membarrier.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <rte_branch_prediction.h>
#include <rte_ethdev.h>
#include <rte_ip.h>
#include <rte_lcore.h>
#include <rte_mbuf.h>
#include <rte_prefetch.h>

#include "internal.h"
#include "shim.h"

/* link.ChecksumStatus and link.TxFlags */
enum { UNCHECKED, GOOD, BAD };
enum { TX_IPV4_CHECKSUM = 1, TX_TCP_CHECKSUM = 2, TX_IPV6 = 4 };

/* Counters have one writer; anyone may read them at any time. */
static inline void count(uint64_t *counter, uint64_t n)
{
	__atomic_store_n(counter, *counter + n, __ATOMIC_RELAXED);
}

/* Every call into a driver is between enter and leave. They put the lcore number
 * on, and let tpa_quiesce see who is inside. */
static inline unsigned enter(struct tpa_side *side)
{
	unsigned outer = RTE_PER_LCORE(_lcore_id);

	__atomic_store_n(&side->steps, side->steps + 1, __ATOMIC_RELAXED);
	rte_compiler_barrier(); /* the processor's part is tpa_quiesce's membarrier */
	if (side->lcore >= 0)
		RTE_PER_LCORE(_lcore_id) = side->lcore;
	return outer;
}

static inline void leave(struct tpa_side *side, unsigned outer)
{
	RTE_PER_LCORE(_lcore_id) = outer;
	__atomic_store_n(&side->steps, side->steps + 1, __ATOMIC_RELEASE);
}

static pthread_mutex_t sides_lock = PTHREAD_MUTEX_INITIALIZER;
static struct tpa_side *sides;

static void side_add(struct tpa_side *side, uint16_t port, uint16_t queue, int lcore)
{
	static bool registered;

	side->port = port;
	side->queue = queue;
	side->lcore = lcore;
	pthread_mutex_lock(&sides_lock);
	if (!registered) {
		(void)syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0);
		registered = true;
	}
	side->next = sides;
	sides = side;
	pthread_mutex_unlock(&sides_lock);
}

static void side_remove(struct tpa_side *side)
{
	struct tpa_side **p;

	pthread_mutex_lock(&sides_lock);
	for (p = &sides; *p != side; p = &(*p)->next)
		;
	*p = side->next;
	pthread_mutex_unlock(&sides_lock);
}

/* Returns when every call into a driver that was under way has ended. Gives up
 * after a second: a stuck poller must not take this thread with it. */
void tpa_quiesce(void)
{
	struct tpa_side *side;
	int tries = 0;

	if (syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0) != 0)
		usleep(10000); /* a kernel older than 4.14: store buffers have long drained */
	pthread_mutex_lock(&sides_lock);
	for (side = sides; side != NULL; side = side->next) {
		uint32_t steps = __atomic_load_n(&side->steps, __ATOMIC_ACQUIRE);

		while (steps % 2 == 1 && __atomic_load_n(&side->steps, __ATOMIC_ACQUIRE) == steps && tries++ < 20000)
			usleep(50);
	}
	pthread_mutex_unlock(&sides_lock);
}

/* Receiving */

struct tpa_rx *tpa_rx_new(uint16_t port, uint16_t queue, int lcore, uint32_t max_frame, uint32_t offloads, uint16_t vlan)
{
	struct tpa_rx *rx = aligned_alloc(RTE_CACHE_LINE_SIZE, RTE_ALIGN_CEIL(sizeof(*rx), RTE_CACHE_LINE_SIZE));

	if (rx == NULL)
		return NULL;
	memset(rx, 0, sizeof(*rx));
	/* Not touched, and so not resident, before the first chain arrives. */
	rx->scratch = malloc((size_t)TPA_BURST * max_frame);
	if (rx->scratch == NULL) {
		free(rx);
		return NULL;
	}
	side_add(&rx->side, port, queue, lcore);
	rx->max_frame = max_frame;
	rx->offloads = offloads;
	rx->vlan = vlan;
	return rx;
}

/* Frees a chain of which nothing is known to be true. A chain that runs into
 * itself is cut where it closes, or freeing it would never end. */
static void drop(struct rte_mbuf *m)
{
	struct rte_mbuf *slow = m, *fast = m, *last;

	while (fast != NULL && fast->next != NULL) {
		slow = slow->next;
		fast = fast->next->next;
		if (slow == fast)
			break;
	}
	if (fast != NULL && fast->next != NULL) {
		/* Where two walks, from the start and from the meeting point, meet is
		 * where the circle begins. */
		slow = m;
		while (slow != fast) {
			slow = slow->next;
			fast = fast->next;
		}
		for (last = fast; last->next != fast; last = last->next)
			;
		last->next = NULL;
	}
	while (m != NULL) {
		struct rte_mbuf *next = m->next;

		rte_pktmbuf_free_seg(m);
		m = next;
	}
}

static inline bool segment_fits(const struct rte_mbuf *m)
{
	return (uint32_t)m->data_off + m->data_len <= m->buf_len;
}

/* Copies a chain into one piece. Returns false when its lengths do not add up. */
static bool join(const struct rte_mbuf *m, uint8_t *to, uint32_t max)
{
	uint32_t left = m->pkt_len, segments = m->nb_segs;

	if (left > max)
		return false;
	for (; m != NULL; m = m->next) {
		if (segments == 0 || m->data_len > left || !segment_fits(m))
			return false;
		memcpy(to, rte_pktmbuf_mtod(m, void *), m->data_len);
		to += m->data_len;
		left -= m->data_len;
		segments--;
	}
	return left == 0 && segments == 0;
}

static bool is_ipv4(const uint8_t *frame)
{
	return frame[12] == 0x08 && frame[13] == 0x00;
}

/* Checks an IPv4 header's checksum for devices that check TCP's only. */
static bool ipv4_header_good(const uint8_t *frame, uint32_t len)
{
	uint32_t header, sum = 0, i;

	if (len < RTE_ETHER_HDR_LEN + 20)
		return false;
	frame += RTE_ETHER_HDR_LEN;
	header = (frame[0] & 0x0f) * 4;
	if (header < 20 || len < RTE_ETHER_HDR_LEN + header)
		return false;
	for (i = 0; i < header; i += 2)
		sum += frame[i] << 8 | frame[i + 1];
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return sum == 0xffff;
}

/* Fills in the TCP checksum of a frame whose sender, such as the host of a virtual
 * machine, left that to its device (RTE_MBUF_F_RX_L4_CKSUM_NONE). The field holds
 * the sum of the pseudo-header, and is a part of what is summed up here. Behind
 * this, the checksum holds for those, too, who compute it again, as the slow path
 * does. What is not a whole TCP segment stays as it is. */
static void complete(uint8_t *frame, uint32_t len)
{
	uint32_t at, size, i;
	uint64_t sum = 0;

	if (is_ipv4(frame) && len >= RTE_ETHER_HDR_LEN + 40 && frame[23] == IPPROTO_TCP &&
	    ((frame[20] & 0x3f) | frame[21]) == 0) {
		at = RTE_ETHER_HDR_LEN + (frame[14] & 0x0f) * 4;
		size = RTE_ETHER_HDR_LEN + (frame[16] << 8 | frame[17]);
	} else if (frame[12] == 0x86 && frame[13] == 0xdd && len >= RTE_ETHER_HDR_LEN + 60 && frame[20] == IPPROTO_TCP) {
		at = RTE_ETHER_HDR_LEN + 40;
		size = at + (frame[18] << 8 | frame[19]);
	} else {
		return;
	}
	if (size > len || at < RTE_ETHER_HDR_LEN + 20 || at + 20 > size)
		return;
	for (i = at; i + 1 < size; i += 2)
		sum += frame[i] << 8 | frame[i + 1];
	if (i < size)
		sum += frame[i] << 8;
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	sum = ~sum & 0xffff;
	frame[at + 16] = sum >> 8;
	frame[at + 17] = sum & 0xff;
}

/* VLANs (IEEE 802.1Q): frames have a tag behind the addresses, 0x8100 and 16 bits
 * whose lower 12 are the VLAN's number. Above the queue there are none. */

enum { ADDRESSES = 2 * RTE_ETHER_ADDR_LEN };

/* Takes the tag off a frame. Returns false for frames of other VLANs, or of none. */
static inline bool untag(struct tpa_frame *f, uint16_t vlan)
{
	uint8_t *p = f->data;

	if (f->len < RTE_ETHER_HDR_LEN + RTE_VLAN_HLEN || p[12] != 0x81 || p[13] != 0x00 ||
	    ((p[14] & 0x0f) << 8 | p[15]) != vlan)
		return false;
	memmove(p + RTE_VLAN_HLEN, p, ADDRESSES);
	f->data = p + RTE_VLAN_HLEN;
	f->len -= RTE_VLAN_HLEN;
	return true;
}

/* Puts a tag into a frame that has none, in front of which there is headroom. */
static inline void tag(struct rte_mbuf *m, uint16_t vlan)
{
	uint8_t *p;

	m->data_off -= RTE_VLAN_HLEN;
	p = rte_pktmbuf_mtod(m, uint8_t *);
	memmove(p, p + RTE_VLAN_HLEN, ADDRESSES);
	p[12] = 0x81;
	p[13] = 0x00;
	p[14] = vlan >> 8;
	p[15] = vlan & 0xff;
}

/* What the device found of the checksums of a frame of at least 14 bytes. */
static uint32_t checksum_status(uint64_t flags, uint32_t offloads, const uint8_t *frame, uint32_t len)
{
	uint64_t ip = flags & RTE_MBUF_F_RX_IP_CKSUM_MASK;
	uint64_t l4 = flags & RTE_MBUF_F_RX_L4_CKSUM_MASK;

	if (offloads & TPA_NO_CHECKSUM)
		return GOOD;
	if ((offloads & TPA_RX_TCP_CHECKSUM) == 0)
		return UNCHECKED;
	if (l4 == RTE_MBUF_F_RX_L4_CKSUM_BAD)
		return BAD;
	if ((offloads & TPA_RX_IPV4_CHECKSUM) == 0)
		ip = RTE_MBUF_F_RX_IP_CKSUM_UNKNOWN;
	else if (ip == RTE_MBUF_F_RX_IP_CKSUM_BAD)
		return BAD;
	/* NONE: the field was not filled in, but the sender vouches for the data, as a
	 * virtual machine's host does. */
	if (l4 == RTE_MBUF_F_RX_L4_CKSUM_UNKNOWN)
		return UNCHECKED;
	if (ip == RTE_MBUF_F_RX_IP_CKSUM_GOOD)
		return GOOD;
	if (is_ipv4(frame))
		return ipv4_header_good(frame, len) ? GOOD : BAD;
	if (frame[12] == 0x86 && frame[13] == 0xdd)
		return GOOD;
	return UNCHECKED;
}

void tpa_rx_release(struct tpa_rx *rx)
{
	unsigned outer = enter(&rx->side);

	if (rx->nheld > 0)
		rte_pktmbuf_free_bulk((struct rte_mbuf **)rx->held, rx->nheld);
	rx->nheld = rx->count = rx->next = 0;
	leave(&rx->side, outer);
}

/* Frees the previous burst and fetches the next. */
void tpa_rx_burst(struct tpa_rx *rx)
{
	unsigned outer = enter(&rx->side);
	struct rte_mbuf *burst[TPA_BURST];
	uint32_t kept = 0, held = 0;
	uint64_t bytes = 0;
	uint16_t n, i;

	if (rx->nheld > 0)
		rte_pktmbuf_free_bulk((struct rte_mbuf **)rx->held, rx->nheld);

	n = rte_eth_rx_burst(rx->side.port, rx->side.queue, burst, TPA_BURST);
	for (i = 0; i < n; i++)
		rte_prefetch0(rte_pktmbuf_mtod(burst[i], void *));
	for (i = 0; i < n; i++) {
		struct rte_mbuf *m = burst[i];
		struct tpa_frame *f = &rx->frames[kept];
		uint64_t flags = m->ol_flags;
		uint32_t len = m->pkt_len;

		if (unlikely(len < RTE_ETHER_HDR_LEN || len > rx->max_frame)) {
			drop(m);
			count(&rx->n_malformed, 1);
			continue;
		}
		if (likely(m->nb_segs == 1 && m->next == NULL && m->data_len == len &&
			   segment_fits(m) && rte_mbuf_refcnt_read(m) == 1)) {
			f->data = rte_pktmbuf_mtod(m, void *);
			rx->held[held++] = (uintptr_t)m;
		} else {
			/* A chain, a shared buffer (the receiver may write to its frame), or a
			 * driver's mistake. */
			bool whole = join(m, f->data = rx->scratch + (size_t)kept * rx->max_frame, rx->max_frame);

			drop(m);
			if (!whole) {
				count(&rx->n_malformed, 1);
				continue;
			}
		}
		f->len = len;
		if (rx->vlan != 0 && !untag(f, rx->vlan)) {
			/* Its buffer is among those held, and freed with them. */
			count(&rx->n_other_vlan, 1);
			continue;
		}
		len = f->len;
		if (unlikely((flags & RTE_MBUF_F_RX_L4_CKSUM_MASK) == RTE_MBUF_F_RX_L4_CKSUM_NONE))
			complete(f->data, len);
		f->checksum = checksum_status(flags, rx->offloads, f->data, len);
		bytes += len;
		kept++;
	}
	rx->nheld = held;
	rx->count = kept;
	rx->next = 0;
	if (kept > 0) {
		count(&rx->n_frames, kept);
		count(&rx->n_bytes, bytes);
	} else {
		rx->gone = tpa_port_gone(rx->side.port);
	}
	leave(&rx->side, outer);
}

void tpa_rx_free(struct tpa_rx *rx)
{
	side_remove(&rx->side);
	free(rx->scratch);
	free(rx);
}

/* Sending */

struct tpa_tx *tpa_tx_new(uint16_t port, uint16_t queue, int lcore, void *pool, uint32_t depth, bool pads, uint32_t offloads, uint16_t vlan)
{
	struct tpa_tx *tx = aligned_alloc(RTE_CACHE_LINE_SIZE, RTE_ALIGN_CEIL(sizeof(*tx), RTE_CACHE_LINE_SIZE));

	if (tx == NULL)
		return NULL;
	memset(tx, 0, sizeof(*tx));
	tx->slots = calloc(depth, sizeof(*tx->slots));
	if (tx->slots == NULL) {
		free(tx);
		return NULL;
	}
	side_add(&tx->side, port, queue, lcore);
	tx->pool = pool;
	tx->depth = depth;
	tx->pads = pads;
	tx->offloads = offloads;
	tx->vlan = vlan;
	return tx;
}

/* Fills the stock. It stays small, so that the buffers that the device gave
 * back last, which are still in the cache, are the next to be written. */
static void stock(struct tpa_tx *tx)
{
	struct rte_mbuf *mbufs[TPA_BURST];
	unsigned n = TPA_BURST - tx->nstock, i;

	/* All or nothing, so ask for less when the pool runs low. */
	while (n > 0 && rte_pktmbuf_alloc_bulk(tx->pool, mbufs, n) != 0)
		n /= 2;
	for (i = 0; i < n; i++) {
		struct tpa_buffer *b = &tx->stock[tx->nstock++];

		b->mbuf = (uintptr_t)mbufs[i];
		b->room = rte_pktmbuf_mtod(mbufs[i], void *);
	}
}

void tpa_tx_stock(struct tpa_tx *tx)
{
	unsigned outer = enter(&tx->side);

	stock(tx);
	leave(&tx->side, outer);
}

static int reap(struct tpa_tx *tx)
{
	int ret = rte_eth_tx_done_cleanup(tx->side.port, tx->side.queue, 0);

	if (ret == -ENOTSUP)
		/* mlx5 looks at its completions when it is asked for a descriptor. */
		(void)rte_eth_tx_descriptor_status(tx->side.port, tx->side.queue, 0);
	return ret;
}

int tpa_tx_reap(struct tpa_tx *tx)
{
	unsigned outer = enter(&tx->side);
	int ret = reap(tx);

	leave(&tx->side, outer);
	return ret;
}

void tpa_tx_stock_big(struct tpa_tx *tx)
{
	unsigned outer = enter(&tx->side);
	struct rte_mbuf *m = rte_pktmbuf_alloc(tx->big_pool);

	if (m == NULL) {
		(void)reap(tx);
		m = rte_pktmbuf_alloc(tx->big_pool);
	}
	if (m != NULL) {
		tx->big.mbuf = (uintptr_t)m;
		tx->big.room = rte_pktmbuf_mtod(m, void *);
	}
	leave(&tx->side, outer);
}

/* Writes what a slot says into its mbuf. Tells whether the driver must prepare
 * the burst. */
static inline bool fill(struct tpa_tx *tx, struct rte_mbuf *m, struct tpa_slot *s)
{
	uint64_t flags = 0;
	uint32_t len = s->len, l2_len = s->l2_len;

	if (tx->vlan != 0) {
		/* Once only: what a full ring has refused comes here again. */
		if (!s->tagged)
			tag(m, tx->vlan);
		s->tagged = true;
		len += RTE_VLAN_HLEN;
		l2_len += RTE_VLAN_HLEN;
	}

	if (tx->pads && unlikely(len < RTE_ETHER_MIN_LEN - RTE_ETHER_CRC_LEN)) {
		uint32_t min = RTE_ETHER_MIN_LEN - RTE_ETHER_CRC_LEN;

		memset(rte_pktmbuf_mtod_offset(m, uint8_t *, len), 0, min - len);
		len = min;
	}
	m->data_len = len;
	m->pkt_len = len;
	if (s->flags == 0 && s->mss == 0) {
		m->ol_flags = 0;
		return false;
	}
	flags = s->flags & TX_IPV6 ? RTE_MBUF_F_TX_IPV6 : RTE_MBUF_F_TX_IPV4;
	if (s->flags & TX_IPV4_CHECKSUM)
		flags |= RTE_MBUF_F_TX_IP_CKSUM;
	if (s->flags & TX_TCP_CHECKSUM)
		flags |= RTE_MBUF_F_TX_TCP_CKSUM;
	if (s->mss != 0) {
		flags |= RTE_MBUF_F_TX_TCP_SEG;
		/* Every segment needs a sum of its own. Where the device does not make them
		 * (virtio), the flag would only clear the one that is there. */
		if ((s->flags & TX_IPV6) == 0 && (tx->offloads & TPA_TX_IPV4_CHECKSUM))
			flags |= RTE_MBUF_F_TX_IP_CKSUM;
	}
	m->ol_flags = flags;
	m->tx_offload = rte_mbuf_tx_offload(l2_len, s->l3_len, s->l4_len, s->mss, 0, 0, 0);
	return true;
}

/* Hands up to TPA_BURST staged frames, of which there is at least one, to the
 * device and fills the stock. Returns false when the ring is full. */
bool tpa_tx_burst(struct tpa_tx *tx)
{
	unsigned outer = enter(&tx->side);
	struct rte_mbuf *burst[TPA_BURST];
	uint32_t n = RTE_MIN(tx->tail - tx->head, (uint32_t)TPA_BURST), i;
	uint16_t ready, sent = 0;
	bool prepare = false;
	uint64_t bytes = 0;
	bool full;

	for (i = 0; i < n; i++) {
		burst[i] = (struct rte_mbuf *)tx->slots[tx->head + i].mbuf;
		prepare |= fill(tx, burst[i], &tx->slots[tx->head + i]);
	}
	ready = n;
	if (prepare)
		ready = rte_eth_tx_prepare(tx->side.port, tx->side.queue, burst, n);
	if (ready > 0)
		sent = rte_eth_tx_burst(tx->side.port, tx->side.queue, burst, ready);
	for (i = 0; i < sent; i++)
		bytes += tx->slots[tx->head + i].len;
	tx->head += sent;
	full = sent < ready;
	if (unlikely(full)) {
		tx->gone = tpa_port_gone(tx->side.port);
		count(&tx->n_full, 1);
	} else if (unlikely(ready < n)) {
		/* The driver refuses this frame for good. */
		rte_pktmbuf_free(burst[ready]);
		count(&tx->n_dropped, 1);
		tx->head++;
	}
	if (sent > 0) {
		count(&tx->n_frames, sent);
		count(&tx->n_bytes, bytes);
	}
	if (tx->head == tx->tail) {
		tx->head = tx->tail = 0;
	} else if (tx->head > tx->depth / 2 || (tx->head > 0 && tx->tail == tx->depth)) {
		memmove(tx->slots, tx->slots + tx->head, (tx->tail - tx->head) * sizeof(*tx->slots));
		tx->tail -= tx->head;
		tx->head = 0;
	}
	if (tx->nstock < TPA_BURST / 2)
		stock(tx);
	leave(&tx->side, outer);
	return !full;
}

/* Frees all that is staged or in stock. */
void tpa_tx_release(struct tpa_tx *tx)
{
	unsigned outer = enter(&tx->side);

	count(&tx->n_dropped, tx->tail - tx->head);
	for (; tx->head < tx->tail; tx->head++)
		rte_pktmbuf_free((struct rte_mbuf *)tx->slots[tx->head].mbuf);
	tx->head = tx->tail = 0;
	while (tx->nstock > 0)
		rte_pktmbuf_free((struct rte_mbuf *)tx->stock[--tx->nstock].mbuf);
	if (tx->big.mbuf != 0)
		rte_pktmbuf_free((struct rte_mbuf *)tx->big.mbuf);
	tx->big.mbuf = 0;
	leave(&tx->side, outer);
}

void tpa_tx_free(struct tpa_tx *tx)
{
	side_remove(&tx->side);
	free(tx->slots);
	free(tx);
}
