//go:build dpdk && cgo && linux

package ringtest

// unsafe is sound here: bytes are copied from and to C within one call.

/*
#cgo pkg-config: libdpdk
#include <stdlib.h>
#include <string.h>
#include <rte_ethdev.h>
#include <rte_mbuf.h>
#include <rte_ring.h>

// Go knows neither bit fields nor inline functions.

static struct rte_mbuf *alloc(void *pool) { return rte_pktmbuf_alloc(pool); }

static void fill(struct rte_mbuf *m, const void *data, uint16_t n) {
	memcpy(rte_pktmbuf_mtod(m, void *), data, n);
	m->data_len = m->pkt_len = n;
}

static void claim(struct rte_mbuf *m, uint32_t pkt_len, uint16_t nb_segs, uint64_t flags, uint16_t refcnt) {
	m->pkt_len = pkt_len;
	m->nb_segs = nb_segs;
	m->ol_flags = flags;
	rte_mbuf_refcnt_set(m, refcnt);
}

static int put(struct rte_ring *r, struct rte_mbuf *m) { return rte_ring_enqueue(r, m); }

static struct rte_mbuf *take(struct rte_ring *r) {
	void *m = NULL;
	return rte_ring_dequeue(r, &m) == 0 ? m : NULL;
}

struct sent {
	void *data;
	uint32_t pkt_len;
	uint64_t flags, tx_offload;
};

static void look(struct rte_mbuf *m, struct sent *s) {
	s->data = rte_pktmbuf_mtod(m, void *);
	s->pkt_len = m->pkt_len;
	s->flags = m->ol_flags;
	s->tx_offload = m->tx_offload;
}

static void free_segment(struct rte_mbuf *m) {
	rte_mbuf_refcnt_set(m, 1);
	rte_pktmbuf_free_seg(m);
}

// Of ethdev's inside, for drivers: what one calls when its device is pulled out.
struct rte_eth_dev *rte_eth_dev_allocated(const char *name);
int rte_eth_dev_callback_process(struct rte_eth_dev *dev, enum rte_eth_event_type event, void *ret_param);

static int pull_out(const char *name) {
	struct rte_eth_dev *dev = rte_eth_dev_allocated(name);
	return dev == NULL ? -1 : rte_eth_dev_callback_process(dev, RTE_ETH_EVENT_INTR_RMV, NULL);
}
*/
import "C"

import (
	"errors"
	"fmt"
	"unsafe"
)

// Receive flags of mbufs.
const (
	IPv4Good = C.RTE_MBUF_F_RX_IP_CKSUM_GOOD
	IPv4Bad  = C.RTE_MBUF_F_RX_IP_CKSUM_BAD
	TCPGood  = C.RTE_MBUF_F_RX_L4_CKSUM_GOOD
	TCPBad   = C.RTE_MBUF_F_RX_L4_CKSUM_BAD
	TCPNone  = C.RTE_MBUF_F_RX_L4_CKSUM_NONE
)

// Transmit flags of mbufs.
const (
	TxIPv4         = C.RTE_MBUF_F_TX_IPV4
	TxIPv6         = C.RTE_MBUF_F_TX_IPV6
	TxIPv4Checksum = C.RTE_MBUF_F_TX_IP_CKSUM
	TxTCPChecksum  = C.RTE_MBUF_F_TX_TCP_CKSUM
	TxTCPSegment   = C.RTE_MBUF_F_TX_TCP_SEG
)

// Room is the data room of the mbufs that Put makes.
const Room = 512

// Ring is the ring of queue 0 of a net_ring port: what is sent there is received.
type Ring struct {
	ring *C.struct_rte_ring
	pool *C.struct_rte_mempool
	held []*C.struct_rte_mbuf
}

// Open finds the ring of the port with the given device name.
func Open(device string) (*Ring, error) {
	name := C.CString("ETH_RXTX0_" + device)
	defer C.free(unsafe.Pointer(name))
	r := &Ring{ring: C.rte_ring_lookup(name)}
	if r.ring == nil {
		return nil, fmt.Errorf("%s has no ring: is it an open net_ring port?", device)
	}
	poolName := C.CString("ringtest_" + device)
	defer C.free(unsafe.Pointer(poolName))
	r.pool = C.rte_pktmbuf_pool_create(poolName, 1023, 0, 0, C.RTE_PKTMBUF_HEADROOM+Room, C.SOCKET_ID_ANY)
	if r.pool == nil {
		return nil, errors.New("no memory for the ring's mbufs")
	}
	return r, nil
}

// Close frees the mbufs of Put. None may be in use.
func (r *Ring) Close() error {
	if n := r.InUse(); n != 0 {
		return fmt.Errorf("%d mbufs are still in use", n)
	}
	C.rte_mempool_free(r.pool)
	return nil
}

// InUse returns how many mbufs of Put were not freed.
func (r *Ring) InUse() int { return int(C.rte_mempool_in_use_count(r.pool)) }

// Chain is a received packet. The fields that are not 0 make it lie.
type Chain struct {
	Segments [][]byte
	Flags    uint64
	// PktLen and NbSegs are what the first mbuf claims, if not 0.
	PktLen, NbSegs int
	// DataLen is what the last segment claims, if not 0.
	DataLen int
	// DataOff is where the last segment claims to start, if not 0.
	DataOff int
	// Loop, if not 0, makes the last segment's successor segment Loop-1.
	Loop int
	// Shared leaves a second owner: Free gives its reference back.
	Shared bool
}

// Put makes a chain of mbufs and puts it where the port receives from.
func (r *Ring) Put(c Chain) error {
	var list []*C.struct_rte_mbuf
	total := 0
	for _, s := range c.Segments {
		m := C.alloc(unsafe.Pointer(r.pool))
		if m == nil {
			return errors.New("the ring's pool is empty")
		}
		if len(s) > 0 {
			C.fill(m, unsafe.Pointer(&s[0]), C.uint16_t(len(s)))
		}
		if len(list) > 0 {
			setNext(list[len(list)-1], m)
		}
		list = append(list, m)
		total += len(s)
	}
	last := list[len(list)-1]
	if c.DataLen != 0 {
		last.data_len = C.uint16_t(c.DataLen)
	}
	if c.DataOff != 0 {
		last.data_off = C.uint16_t(c.DataOff)
	}
	if c.Loop != 0 {
		setNext(last, list[c.Loop-1])
	}
	if c.PktLen == 0 {
		c.PktLen = total
	}
	if c.NbSegs == 0 {
		c.NbSegs = len(list)
	}
	references := C.uint16_t(1)
	if c.Shared {
		references = 2
		r.held = append(r.held, list[0])
	}
	C.claim(list[0], C.uint32_t(c.PktLen), C.uint16_t(c.NbSegs), C.uint64_t(c.Flags), references)
	if C.put(r.ring, list[0]) != 0 {
		return errors.New("the ring is full")
	}
	return nil
}

// Sent is a frame that the port sent.
type Sent struct {
	Data  []byte
	Flags uint64
	// TxOffload is the mbuf's field of that name: bits 0-6 l2_len, 7-15 l3_len,
	// 16-23 l4_len, 24-39 tso_segsz.
	TxOffload uint64
}

// Take takes the oldest sent frame out of the ring and holds its mbuf until Free.
func (r *Ring) Take() (Sent, bool) {
	m := C.take(r.ring)
	if m == nil {
		return Sent{}, false
	}
	r.held = append(r.held, m)
	var s C.struct_sent
	C.look(m, &s)
	return Sent{
		Data:      C.GoBytes(s.data, C.int(s.pkt_len)),
		Flags:     uint64(s.flags),
		TxOffload: uint64(s.tx_offload),
	}, true
}

// Free frees what Take and Chain.Shared hold.
func (r *Ring) Free() {
	for _, m := range r.held {
		C.free_segment(m)
	}
	r.held = nil
}

// PullOut tells everyone who asked that the device was removed.
func PullOut(device string) error {
	name := C.CString(device)
	defer C.free(unsafe.Pointer(name))
	if C.pull_out(name) != 0 {
		return fmt.Errorf("%s is no port, or nobody listens", device)
	}
	return nil
}

func setNext(m, next *C.struct_rte_mbuf) { m.next = next }
