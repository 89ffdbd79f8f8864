// Package softnic is a network card in software, for tests: several queues on
// the side of the host, one wire on the other. It spreads frames over its queues
// as real cards do, by the Toeplitz hash over their headers and a redirection
// table, obeys steering rules, verifies and fills in checksums, cuts large
// frames into segments, and lets a test change all that while traffic flows:
// stall a queue, take the link down, set another RSS key, drop the rules.
//
//	a, _ := softnic.New(softnic.Config{Queues: 4})
//	b, _ := softnic.New(softnic.Config{Queues: 1})
//	softnic.Connect(a, b)
//
// It does not lose or delay frames unless a ring is full: wrap it with package
// link/fault for that.
//
// # The way of a frame
//
// Flush runs the wire function in the goroutine of the sender, and between two
// connected cards that is Deliver of the other one: it parses the frame, picks
// the queue, and copies the frame into the queue's ring, under a lock that only
// other senders to the same queue want. The reader of the queue takes no lock.
//
// # Threads and time
//
// Any goroutine may call any method of NIC. Queues are as package link has them.
// Nothing runs in the background, waiting happens on channels and in package
// time only, so that cards work in the bubbles of testing/synctest.
package softnic

import (
	"fmt"
	"math"
	"net"
	"sync"
	"sync/atomic"

	"github.com/gotpa/tpa/internal/offload"
	"github.com/gotpa/tpa/internal/rss"
	"github.com/gotpa/tpa/link"
)

var (
	_ link.Device   = (*NIC)(nil)
	_ link.Spreader = (*NIC)(nil)
	_ link.Steerer  = (*NIC)(nil)
	_ link.Queue    = (*queue)(nil)
	_ link.Waiter   = (*queue)(nil)
)

const (
	ethernetLen = 14
	vlanLen     = 4
)

// Config describes a card.
type Config struct {
	// Name is the device's name. Default: "softnic".
	Name string
	// HardwareAddr is the MAC address. Default: 02:00:00:00:00:01. Frames are
	// received whatever their destination.
	HardwareAddr net.HardwareAddr
	// MTU is the greatest IP packet in bytes, 68 to 65535. Default: 1500.
	MTU int
	// Queues is the number of queues, 1 to 1024. Default: 1.
	Queues int
	// Ring is the number of frames in each receive and each transmit ring, a
	// power of two up to 65536. Default: 512.
	Ring int
	// RSS is the initial key and table. Default: the Microsoft key and a table of
	// 128 entries that gives each queue the same share.
	RSS link.RSS
	// StripVLAN takes the outermost VLAN tag off received frames.
	StripVLAN bool
	// Capabilities are what the card takes off the stack. Default: nothing.
	Capabilities link.Capabilities
}

// A NIC is a network card in software.
type NIC struct {
	info   link.Info
	queues []*queue

	// mu guards changes of steering; readers load the pointer.
	mu       sync.Mutex
	steering atomic.Pointer[steering]
	wire     atomic.Pointer[func([]byte)]
	strip    atomic.Bool
	down     atomic.Bool

	rxPackets, rxBytes, rxMissed, rxErrors  atomic.Uint64
	txPackets, txBytes, txErrors            atomic.Uint64
	rxDown, txDown, txUnplugged             atomic.Uint64
	ruleHits, hash4Hits, hash2Hits, noHash  atomic.Uint64
	vlanStripped, rxGoodSums, rxBadChecksum atomic.Uint64
}

// New returns a card with its link up and nothing attached to its wire.
func New(c Config) (*NIC, error) {
	if c.Name == "" {
		c.Name = "softnic"
	}
	if c.HardwareAddr == nil {
		c.HardwareAddr = net.HardwareAddr{2, 0, 0, 0, 0, 1}
	}
	if c.MTU == 0 {
		c.MTU = 1500
	}
	if c.Queues == 0 {
		c.Queues = 1
	}
	if c.Ring == 0 {
		c.Ring = 512
	}
	if c.RSS.Key == nil {
		c.RSS.Key = rss.MicrosoftKey()
	}
	if c.RSS.Table == nil {
		c.RSS.Table = rss.Table(128, max(c.Queues, 1))
	}
	switch {
	case len(c.HardwareAddr) != 6:
		return nil, fmt.Errorf("softnic: HardwareAddr %v: want 6 bytes", c.HardwareAddr)
	case c.MTU < 68 || c.MTU > math.MaxUint16:
		return nil, fmt.Errorf("softnic: MTU %d: want 68 to 65535 bytes", c.MTU)
	case c.Queues < 1 || c.Queues > 1024:
		return nil, fmt.Errorf("softnic: %d queues: want 1 to 1024", c.Queues)
	case c.Ring < 1 || c.Ring > 1<<16 || c.Ring&(c.Ring-1) != 0:
		return nil, fmt.Errorf("softnic: rings of %d frames: want a power of two up to 65536", c.Ring)
	case c.Capabilities.TSO < 0 || c.Capabilities.TSO > 1<<18:
		return nil, fmt.Errorf("softnic: TSO of %d bytes: want up to 262144", c.Capabilities.TSO)
	}
	spread, err := rss.New(c.RSS, c.Queues)
	if err != nil {
		return nil, fmt.Errorf("softnic: %w", err)
	}
	n := &NIC{info: link.Info{
		Name: c.Name, Driver: "softnic", HardwareAddr: c.HardwareAddr,
		MTU: c.MTU, MaxFrame: c.MTU + ethernetLen + vlanLen,
		Queues: c.Queues, NUMANode: -1, Capabilities: c.Capabilities,
	}}
	n.steering.Store(&steering{spread: spread})
	n.strip.Store(c.StripVLAN)
	for range c.Queues {
		n.queues = append(n.queues, newQueue(n, c.Ring))
	}
	return n, nil
}

// Connect puts a cable between two cards.
func Connect(a, b *NIC) {
	a.Attach(b.Deliver)
	b.Attach(a.Deliver)
}

// Attach sets what happens to frames that leave the card: wire gets each one, in
// the goroutine that flushes, and must not keep it. Different queues may call it
// at the same time. nil unplugs the cable.
func (n *NIC) Attach(wire func(frame []byte)) {
	if wire == nil {
		n.wire.Store(nil)
		return
	}
	n.wire.Store(&wire)
}

// Deliver is a frame that arrives from the wire. The card copies it.
func (n *NIC) Deliver(frame []byte) {
	if n.down.Load() {
		n.rxDown.Add(1)
		return
	}
	if len(frame) < ethernetLen || len(frame) > n.info.MaxFrame {
		n.rxErrors.Add(1)
		return
	}
	q := n.queues[n.pick(frame)]
	status := link.Unchecked
	if n.info.RxChecksum {
		switch status = offload.Verify(frame); status {
		case link.Good:
			n.rxGoodSums.Add(1)
		case link.Bad:
			n.rxBadChecksum.Add(1)
		}
	}
	tag := 0
	if n.strip.Load() && tagged(frame) {
		tag = vlanLen
		n.vlanStripped.Add(1)
	}
	if !q.arrive(frame, tag, status) {
		n.rxMissed.Add(1)
		return
	}
	n.rxPackets.Add(1)
	n.rxBytes.Add(uint64(len(frame) - tag))
}

// tagged tells whether a frame carries an 802.1Q or 802.1ad tag. It holds an
// Ethernet header.
func tagged(frame []byte) bool {
	ether := uint16(frame[12])<<8 | uint16(frame[13])
	return (ether == 0x8100 || ether == 0x88a8) && len(frame) >= ethernetLen+vlanLen
}

// send puts a finished frame on the wire.
func (n *NIC) send(frame []byte) {
	wire := n.wire.Load()
	switch {
	case n.down.Load():
		n.txDown.Add(1)
	case wire == nil:
		n.txUnplugged.Add(1)
	default:
		n.txPackets.Add(1)
		n.txBytes.Add(uint64(len(frame)))
		(*wire)(frame)
	}
}

// Info implements link.Device.
func (n *NIC) Info() link.Info { return n.info }

// Queue implements link.Device.
func (n *NIC) Queue(i int) link.Queue { return n.queues[i] }

// LinkUp implements link.Device.
func (n *NIC) LinkUp() bool { return !n.down.Load() }

// SetLink takes the link up or down. While it is down, frames are lost in both
// directions, and counted.
func (n *NIC) SetLink(up bool) { n.down.Store(!up) }

// SetStripVLAN changes Config.StripVLAN.
func (n *NIC) SetStripVLAN(strip bool) { n.strip.Store(strip) }

// StallReceive stops or resumes the receive ring of a queue. A stalled ring
// fills up and then loses frames; its reader sees nothing.
func (n *NIC) StallReceive(queue int, stalled bool) {
	q := n.queues[queue]
	q.rxStalled.Store(stalled)
	if !stalled {
		q.Wake()
	}
}

// StallTransmit stops or resumes the transmit ring of a queue. While stalled,
// Flush leaves everything staged, and once the ring is full Reserve finds no
// buffer. What is staged leaves with the first Flush after.
func (n *NIC) StallTransmit(queue int, stalled bool) { n.queues[queue].txStalled.Store(stalled) }

// Stats implements link.Device. The extended counters tell what the card did to
// frames: how they were steered, and what was lost where.
func (n *NIC) Stats() link.DeviceStats {
	s := link.DeviceStats{
		RxPackets: n.rxPackets.Load(), RxBytes: n.rxBytes.Load(),
		TxPackets: n.txPackets.Load(), TxBytes: n.txBytes.Load(),
		RxMissed: n.rxMissed.Load(), RxErrors: n.rxErrors.Load(), TxErrors: n.txErrors.Load(),
		Extended: map[string]uint64{
			"rx_link_down":     n.rxDown.Load(),
			"tx_link_down":     n.txDown.Load(),
			"tx_unplugged":     n.txUnplugged.Load(),
			"rx_rule_hits":     n.ruleHits.Load(),
			"rx_hash_ports":    n.hash4Hits.Load(),
			"rx_hash_addrs":    n.hash2Hits.Load(),
			"rx_no_hash":       n.noHash.Load(),
			"rx_vlan_stripped": n.vlanStripped.Load(),
			"rx_checksum_good": n.rxGoodSums.Load(),
			"rx_checksum_bad":  n.rxBadChecksum.Load(),
		},
	}
	for _, q := range n.queues {
		s.BuffersInUse += q.buffers()
		s.BuffersTotal += 2 * len(q.rx)
	}
	return s
}

// Close implements link.Device.
func (n *NIC) Close() error {
	for _, q := range n.queues {
		q.Close()
	}
	return nil
}
