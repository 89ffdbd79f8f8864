package netif

import (
	"sync"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"github.com/gotpa/tpa/internal/counter"
	"github.com/gotpa/tpa/internal/offload"
	"github.com/gotpa/tpa/link"
)

// gsoMaxSize is the greatest TCP segment in bytes, headers included, that the
// stack hands over to be cut up here or by the device: what an IPv4 length
// field holds.
const gsoMaxSize = 65535

// An Endpoint joins one device queue to one gVisor stack. It is the stack's link
// endpoint and its queueing discipline.
//
// The poller of the queue calls Deliver and Kick. The stack calls the rest from
// any goroutine. Attach and Close come before and after everything else.
type Endpoint struct {
	queue      link.Queue
	waiter     link.Waiter // the queue, if it can wake the poller
	mac        link.MAC
	caps       link.Capabilities
	neighbours *Neighbours
	mtu        atomic.Uint32
	dispatcher stack.NetworkDispatcher
	unresolved func(*stack.PacketBuffer)
	onClose    func()
	noNaps     bool
	router     Router // nil without one

	// routes wins over the next hop of a packet, nil until SetRoutes.
	routes atomic.Pointer[[]tcpip.Route]

	// asleep is set while the poller sleeps: whoever stages a frame then must
	// flush it. pending tells the poller that there is something to flush. Both are
	// written under txMu.
	asleep  atomic.Bool
	pending counter.Flag

	// txMu guards the transmit side of queue and the following fields.
	txMu    sync.Mutex
	staged  int
	flushAt int // so many staged frames are flushed at once
	// full says that the last flush left frames behind. The device is not asked again
	// before the next poll, but by senders that wait in reserveLocked.
	full   bool
	waited int // how often the device was waited for since it last took a frame
	// sent is where segments are counted, unpublished those that are not yet.
	sent        *tcpip.StatCounter
	unpublished uint64
	hop         nextHop
	holder      Holder // nil: nothing is kept back
	stage       Stage
	out         Outgoing // the segment that holder sees
	ip          [ipHeaderMax]byte

	stats endpointStats
}

var (
	_ stack.LinkEndpoint       = (*Endpoint)(nil)
	_ stack.GSOEndpoint        = (*Endpoint)(nil)
	_ stack.QueueingDiscipline = discipline{}
)

// nextHop is the last result of a neighbour look-up.
type nextHop struct {
	addr       tcpip.Address
	generation uint32
	mac        link.MAC
}

type endpointStats struct {
	rxMalformed, rxBadChecksum, rxVLAN, rxUnknown, rxNotOurs atomic.Uint64
	txWaits, txNoBuffer, txTooLong, txNoRoute, txSegmented   atomic.Uint64
	txBursts                                                 [link.BurstBuckets]counter.Counter // under txMu
}

// EndpointStats are counters since the endpoint was made. Each counts frames
// unless it says otherwise.
type EndpointStats struct {
	// RxMalformed: too short for its headers, or NDP that breaks RFC 4861.
	RxMalformed uint64
	// RxBadChecksum: the device or the endpoint found a wrong checksum.
	RxBadChecksum uint64
	// RxVLAN: tagged for a VLAN; the endpoint belongs to none.
	RxVLAN uint64
	// RxUnknown: neither IPv4, IPv6 nor ARP.
	RxUnknown uint64
	// RxNotOurs: addressed to another station.
	RxNotOurs uint64
	// TxWaits counts times a sender waited because the queue was full.
	TxWaits uint64
	// TxNoBuffer: dropped because the queue stayed full.
	TxNoBuffer uint64
	// TxTooLong: dropped because they exceed the device's frame size.
	TxTooLong uint64
	// TxNoRoute counts what must not leave by this device, because the kernel would
	// send it elsewhere, encrypt it or not send it at all.
	TxNoRoute uint64
	// TxSegmented counts frames made from larger segments in software.
	TxSegmented uint64
	// TxAcksSaved counts acknowledgements that a later segment of the same poll
	// made superfluous.
	TxAcksSaved uint64
	// TxBursts counts flushes by the number of frames they handed over; see
	// link.BurstBucket.
	TxBursts [link.BurstBuckets]uint64
}

// NewEndpoint returns an endpoint for a queue of the device. neighbours is
// shared by all endpoints of the device. mtu is at most the device's.
func NewEndpoint(dev link.Info, q link.Queue, neighbours *Neighbours, mtu int) *Endpoint {
	e := &Endpoint{queue: q, caps: dev.Capabilities, neighbours: neighbours, flushAt: leastFlushAt, sent: new(tcpip.StatCounter)}
	e.waiter, _ = q.(link.Waiter)
	copy(e.mac[:], dev.HardwareAddr)
	e.mtu.Store(uint32(mtu))
	return e
}

// OnUnresolved sets who is told of packets whose next hop did not answer. The
// packet starts with its IP header. It must be called before Attach.
func (e *Endpoint) OnUnresolved(f func(*stack.PacketBuffer)) { e.unresolved = f }

func (e *Endpoint) resolutionFailed(pkt *stack.PacketBuffer) {
	if e.unresolved != nil {
		e.unresolved(pkt)
	}
}

// Stats returns the counters.
func (e *Endpoint) Stats() EndpointStats {
	s := EndpointStats{
		RxMalformed:   e.stats.rxMalformed.Load(),
		RxBadChecksum: e.stats.rxBadChecksum.Load(),
		RxVLAN:        e.stats.rxVLAN.Load(),
		RxUnknown:     e.stats.rxUnknown.Load(),
		RxNotOurs:     e.stats.rxNotOurs.Load(),
		TxWaits:       e.stats.txWaits.Load(),
		TxNoBuffer:    e.stats.txNoBuffer.Load(),
		TxTooLong:     e.stats.txTooLong.Load(),
		TxNoRoute:     e.stats.txNoRoute.Load(),
		TxSegmented:   e.stats.txSegmented.Load(),
	}
	if e.holder != nil {
		s.TxAcksSaved = e.holder.Saved()
	}
	for i := range s.TxBursts {
		s.TxBursts[i] = e.stats.txBursts[i].Load()
	}
	return s
}

// CountMalformed counts a frame that the caller of Deliver refused.
func (e *Endpoint) CountMalformed() { e.stats.rxMalformed.Add(1) }

// CountBadChecksum counts a frame that the caller of Deliver dropped for its
// checksum.
func (e *Endpoint) CountBadChecksum() { e.stats.rxBadChecksum.Add(1) }

// Deliver hands a received frame to the stack, which copies what it keeps. Only
// the poller calls it.
func (e *Endpoint) Deliver(f *link.Frame) {
	b := f.Data
	if len(b) < link.EthernetHeaderLen {
		e.stats.rxMalformed.Add(1)
		return
	}
	if f.Checksum == link.Bad {
		e.stats.rxBadChecksum.Add(1)
		return
	}
	if dst := link.MAC(b); dst != e.mac && !dst.Multicast() {
		e.stats.rxNotOurs.Add(1)
		return
	}
	if f.Checksum == link.Partial {
		offload.Complete(b) // the stack checks
	}
	payload := b[link.EthernetHeaderLen:]
	switch etherType := uint16(b[12])<<8 | uint16(b[13]); etherType {
	case etherTypeIPv4:
		e.deliverIP(header.IPv4ProtocolNumber, header.IPv4MinimumSize, payload)
	case etherTypeIPv6:
		if len(payload) >= header.IPv6MinimumSize && e.neighbours.handleNDP(payload, e) {
			return
		}
		e.deliverIP(header.IPv6ProtocolNumber, header.IPv6MinimumSize, payload)
	case etherTypeARP:
		if !e.neighbours.handleARP(payload, e) {
			e.stats.rxMalformed.Add(1)
		}
	case etherTypeVLAN, etherTypeQinQ:
		e.stats.rxVLAN.Add(1)
	default:
		e.stats.rxUnknown.Add(1)
	}
}

func (e *Endpoint) deliverIP(proto tcpip.NetworkProtocolNumber, atLeast int, payload []byte) {
	if len(payload) < atLeast {
		e.stats.rxMalformed.Add(1)
		return
	}
	// The stack checks all checksums again, whatever the device found. Segments of
	// connections do not come here. What does is ICMP, fragments and the little that
	// the fast path did not want, for which another pass over the frame is cheap.
	// Devices leave true checksums in frames that they call Good, but for those with
	// NoChecksum; link/dpdk fills in those that virtio leaves open.
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{
		Payload: buffer.MakeWithView(buffer.NewViewWithData(payload)),
	})
	e.dispatcher.DeliverNetworkPacket(proto, pkt)
	pkt.DecRef()
}

// DeliverPacket hands the stack an IP packet that did not come through the queue:
// what the kernel heard on a device that is shared with it. Anyone may call it.
func (e *Endpoint) DeliverPacket(packet []byte) {
	if len(packet) == 0 {
		return
	}
	if packet[0]>>4 == 6 {
		e.deliverIP(header.IPv6ProtocolNumber, header.IPv6MinimumSize, packet)
	} else {
		e.deliverIP(header.IPv4ProtocolNumber, header.IPv4MinimumSize, packet)
	}
}

// Attach implements stack.LinkEndpoint.
func (e *Endpoint) Attach(d stack.NetworkDispatcher) { e.dispatcher = d }

// IsAttached implements stack.LinkEndpoint.
func (e *Endpoint) IsAttached() bool { return e.dispatcher != nil }

// MTU implements stack.LinkEndpoint.
func (e *Endpoint) MTU() uint32 { return e.mtu.Load() }

// SetMTU implements stack.LinkEndpoint. mtu is at most the device's.
func (e *Endpoint) SetMTU(mtu uint32) { e.mtu.Store(mtu) }

// MaxHeaderLength implements stack.LinkEndpoint: frames are put together in the
// device's buffer, so packets need no room for the Ethernet header.
func (e *Endpoint) MaxHeaderLength() uint16 { return 0 }

// LinkAddress implements stack.LinkEndpoint.
func (e *Endpoint) LinkAddress() tcpip.LinkAddress { return tcpip.LinkAddress(e.mac[:]) }

// SetLinkAddress implements stack.LinkEndpoint. The address is the device's and
// does not change.
func (e *Endpoint) SetLinkAddress(tcpip.LinkAddress) {}

// Capabilities implements stack.LinkEndpoint. Transport checksums are left to
// this endpoint, which knows what the device can do. Receive checksums are not
// claimed: devices tell for each frame. Only where there are none, the stack must not
// look for them.
func (e *Endpoint) Capabilities() stack.LinkEndpointCapabilities {
	if e.caps.NoChecksum {
		return stack.CapabilityTXChecksumOffload | stack.CapabilityRXChecksumOffload
	}
	return stack.CapabilityTXChecksumOffload
}

// GSOMaxSize implements stack.GSOEndpoint.
func (e *Endpoint) GSOMaxSize() uint32 { return gsoMaxSize }

// SupportedGSO implements stack.GSOEndpoint: one pass through the stack for up
// to 64 KB, cut up at the very end, costs a tenth of a pass per packet.
func (e *Endpoint) SupportedGSO() stack.SupportedGSO { return stack.HostGSOSupported }

// ARPHardwareType implements stack.LinkEndpoint.
func (e *Endpoint) ARPHardwareType() header.ARPHardwareType { return header.ARPHardwareEther }

// AddHeader implements stack.LinkEndpoint. See MaxHeaderLength.
func (e *Endpoint) AddHeader(*stack.PacketBuffer) {}

// ParseHeader implements stack.LinkEndpoint. Deliver has parsed it.
func (e *Endpoint) ParseHeader(*stack.PacketBuffer) bool { return true }

// Wait implements stack.LinkEndpoint. The endpoint has no goroutines.
func (e *Endpoint) Wait() {}

// SetOnCloseAction implements stack.LinkEndpoint.
func (e *Endpoint) SetOnCloseAction(f func()) { e.onClose = f }

// Close implements stack.LinkEndpoint.
func (e *Endpoint) Close() {
	if e.onClose != nil {
		e.onClose()
	}
}
