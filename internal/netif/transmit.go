package netif

import (
	"encoding/binary"
	"time"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/sync"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"github.com/gotpa/tpa/internal/checksum"
	"github.com/gotpa/tpa/link"
)

// A sender whose queue is full yields maxTxYields times, for a few milliseconds at
// most. A device that works sends thousands of frames in that time. Then the frame
// is dropped and counted, and TCP sends it again.
//
// A flow that has nothing else in flight then waits for a retransmission timeout of
// 200 ms or more, although the other end of a memif, or the thread of its poller,
// may only be waiting for a processor. So a sender of data waits longer: it sleeps
// txNap, up to maxTxNaps times. Only writers and TCP's own goroutine send data. The
// poller never does, because it must go on receiving.
const (
	maxTxYields = 1 << 12
	maxTxNaps   = 1000
	txNap       = 50 * time.Microsecond
)

// So many staged frames are flushed without waiting for the end of the poll: half of
// what the poll before has brought, within these bounds. The peer can start on them
// while we make the rest: two stacks that talk to each other would work in turns if
// all answers left at once. Under load polls bring more, and a flush costs less per
// frame.
const (
	leastFlushAt = 4
	mostFlushAt  = link.MaxBurst / 2
)

// ipHeaderMax is room for the IP headers that TCP packets of ours have.
const ipHeaderMax = header.IPv6MinimumSize

// Kick sends what is staged and held. Anyone may call it.
func (e *Endpoint) Kick() {
	if !e.pending.Load() {
		return
	}
	e.txMu.Lock()
	e.flushAllLocked()
	e.txMu.Unlock()
}

// Flush is Kick even if there is nothing to send.
func (e *Endpoint) Flush() {
	e.txMu.Lock()
	e.flushAllLocked()
	e.txMu.Unlock()
}

// FinishPoll is Kick at the end of a poll that has brought some frames.
func (e *Endpoint) FinishPoll(frames int) {
	if !e.pending.Load() {
		return
	}
	e.txMu.Lock()
	e.flushAllLocked()
	e.flushAt = min(max(frames/2, leastFlushAt), mostFlushAt)
	e.txMu.Unlock()
}

// flushAllLocked ends a poll: nothing waits for company any longer.
func (e *Endpoint) flushAllLocked() {
	e.full = false
	if e.heldLocked() {
		e.holder.Release(e.stage)
	}
	e.flushLocked()
}

// SetAsleep announces that the poller is about to sleep, or awake again. While
// it sleeps, whoever stages frames flushes them; what was staged before is sent
// here.
func (e *Endpoint) SetAsleep(asleep bool) {
	e.txMu.Lock()
	e.asleep.Store(asleep)
	if asleep && e.pending.Load() {
		e.flushAllLocked()
	}
	e.txMu.Unlock()
}

// CountSegments has SendTCP count segments in c. It must be called before there is
// traffic.
func (e *Endpoint) CountSegments(c *tcpip.StatCounter) { e.sent = c }

func (e *Endpoint) flushLocked() {
	// The error of a closed or broken queue reaches the poller by Receive.
	staged := e.staged
	e.staged, _ = e.queue.Flush()
	e.full = e.staged > 0
	e.pending.Set(e.staged > 0 || e.heldLocked())
	if n := staged - e.staged; n > 0 {
		e.stats.txBursts[link.BurstBucket(n)].Add(1)
	}
	if e.unpublished > 0 {
		e.sent.IncrementBy(e.unpublished)
		e.unpublished = 0
	}
}

// commitLocked stages the n bytes in the buffer last reserved.
func (e *Endpoint) commitLocked(n int, tx link.TxOffload) {
	e.queue.Commit(n, tx)
	if e.staged++; e.staged == 1 {
		e.pending.Set(true)
	}
	if e.staged >= e.flushAt && !e.full {
		e.flushLocked()
	}
}

// unlock ends a transmission: nobody else will flush while the poller sleeps.
func (e *Endpoint) unlock() {
	if e.asleep.Load() && e.pending.Load() {
		if !e.full {
			e.flushAllLocked()
		}
		if e.waiter != nil && e.pending.Load() {
			e.waiter.Wake() // the device is full: the poller has to try again
		}
	}
	e.txMu.Unlock()
}

// Pending tells whether something is staged or held. A poller that sleeps while
// the device is full must look again soon, since nobody else flushes.
func (e *Endpoint) Pending() bool { return e.pending.Load() }

// reserveLocked returns a buffer for a frame of n bytes. When the queue is full
// it lets go of txMu and waits for the device for a while, longer if it may nap,
// which slows the sender down; nil means that the frame is dropped and counted.
func (e *Endpoint) reserveLocked(n int, mayNap bool) []byte {
	if b := e.queue.Reserve(n); b != nil {
		e.waited = 0
		return b
	}
	e.stats.txWaits.Add(1)
	waits := maxTxYields
	if mayNap && !e.noNaps {
		waits += maxTxNaps
	}
	for i := 0; ; i++ {
		e.flushLocked()
		if b := e.queue.Reserve(n); b != nil {
			e.waited = 0
			return b
		}
		// A device that stands still is waited for once, not by each sender anew.
		if e.waited = max(e.waited, i); e.waited >= waits {
			e.stats.txNoBuffer.Add(1)
			return nil
		}
		e.txMu.Unlock()
		if i < maxTxYields {
			sync.Goyield()
		} else {
			nap()
		}
		e.txMu.Lock()
	}
}

// NoNaps is for virtual time (testing/synctest), in which no device moves while
// anybody waits for it. It must be called before Attach.
func (e *Endpoint) NoNaps() { e.noNaps = true }

// sendFrame sends a payload that this package made itself.
func (e *Endpoint) sendFrame(dst link.MAC, etherType uint16, payload []byte) {
	n := link.EthernetHeaderLen + len(payload)
	e.txMu.Lock()
	if b := e.reserveLocked(n, false); b != nil {
		putEthernet(b, dst, e.mac, etherType)
		copy(b[link.EthernetHeaderLen:], payload)
		e.commitLocked(n, link.TxOffload{})
	}
	e.unlock()
}

// discipline is the stack's queueing discipline: none, the queue's own staging
// does it. gVisor's default one would allocate a list for each packet.
type discipline struct{ e *Endpoint }

// Discipline returns the queueing discipline that goes with the endpoint.
func (e *Endpoint) Discipline() stack.QueueingDiscipline { return discipline{e} }

func (d discipline) WritePacket(pkt *stack.PacketBuffer) tcpip.Error { return d.e.write(pkt) }

func (d discipline) Close() {}

// WritePackets implements stack.LinkEndpoint.
func (e *Endpoint) WritePackets(pkts stack.PacketBufferList) (int, tcpip.Error) {
	n := 0
	for _, pkt := range pkts.AsSlice() {
		if err := e.write(pkt); err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}

// SetRoutes has packets follow routes, the first that fits a destination. The
// stack's own connections keep the next hop that they had when they were opened:
// after a change of routes, they are told here. Anyone may call it.
func (e *Endpoint) SetRoutes(routes []tcpip.Route) { e.routes.Store(&routes) }

// hopTo returns the next hop to a destination. routed is the stack's, empty for
// none.
func (e *Endpoint) hopTo(destination, routed tcpip.Address) tcpip.Address {
	if routes := e.routes.Load(); routes != nil {
		for i := range *routes {
			if r := &(*routes)[i]; r.Destination.Contains(destination) {
				routed = r.Gateway
				break
			}
		}
	}
	if routed.Len() == 0 {
		return destination
	}
	return routed
}

// lookupLocked returns the MAC address of a next hop, keeping the last one.
func (e *Endpoint) lookupLocked(addr tcpip.Address) (link.MAC, bool) {
	generation := e.neighbours.generation.Load()
	if e.hop.addr == addr && e.hop.generation == generation {
		return e.hop.mac, true
	}
	mac, ok := e.neighbours.Lookup(addr)
	if ok {
		e.hop = nextHop{addr, generation, mac}
	}
	return mac, ok
}

// write sends a packet that has its IP header, on the slow path: through the
// stack's IP layer. It holds packets whose next hop is not known yet.
func (e *Endpoint) write(pkt *stack.PacketBuffer) tcpip.Error {
	ip := pkt.NetworkHeader().Slice()
	if len(ip) == 0 {
		return &tcpip.ErrMalformedHeader{}
	}
	v6 := ip[0]>>4 == 6
	var source, destination tcpip.Address
	if v6 {
		source, destination = header.IPv6(ip).SourceAddress(), header.IPv6(ip).DestinationAddress()
	} else {
		source, destination = header.IPv4(ip).SourceAddress(), header.IPv4(ip).DestinationAddress()
	}
	hop := e.Route(source, destination, pkt.EgressRoute.NextHop).Hop
	if hop.Len() == 0 {
		return &tcpip.ErrHostUnreachable{}
	}
	e.txMu.Lock()
	mac, ok := groupMAC(destination)
	if !ok {
		mac, ok = e.lookupLocked(hop)
	}
	if !ok {
		e.txMu.Unlock()
		return e.neighbours.hold(hop, source, pkt, e)
	}
	var err tcpip.Error
	if tcp := pkt.TransportHeader().Slice(); len(tcp) >= header.TCPMinimumSize && plainTCP(ip, v6) {
		err = e.writeTCPLocked(mac, ip, len(ip), pkt)
	} else {
		err = e.writeWholeLocked(mac, v6, pkt)
	}
	e.unlock()
	return err
}

// groupMAC returns the address of a multicast or broadcast group.
func groupMAC(addr tcpip.Address) (link.MAC, bool) {
	switch {
	case addr == header.IPv4Broadcast:
		return broadcastMAC, true
	case header.IsV4MulticastAddress(addr):
		return ipv4MulticastMAC(addr.AsSlice()), true
	case header.IsV6MulticastAddress(addr):
		return ipv6MulticastMAC(addr.AsSlice()), true
	}
	return link.MAC{}, false
}

// plainTCP tells whether the packet is unfragmented TCP right behind the IP
// header, so that its checksum can be computed here.
func plainTCP(ip []byte, v6 bool) bool {
	if v6 {
		return len(ip) == header.IPv6MinimumSize && ip[6] == uint8(header.TCPProtocolNumber)
	}
	h := header.IPv4(ip)
	return ip[9] == uint8(header.TCPProtocolNumber) && !h.More() && h.FragmentOffset() == 0
}

// writeWholeLocked sends a packet as it stands.
func (e *Endpoint) writeWholeLocked(mac link.MAC, v6 bool, pkt *stack.PacketBuffer) tcpip.Error {
	size := pkt.Size()
	if size > int(e.mtu.Load()) {
		e.stats.txTooLong.Add(1)
		return &tcpip.ErrMessageTooLong{}
	}
	b := e.reserveLocked(link.EthernetHeaderLen+size, false)
	if b == nil {
		return &tcpip.ErrNoBufferSpace{}
	}
	putEthernet(b, mac, e.mac, etherTypeOf(v6))
	src := newCursor(pkt, 0)
	src.read(b[link.EthernetHeaderLen : link.EthernetHeaderLen+size])
	e.commitLocked(link.EthernetHeaderLen+size, link.TxOffload{})
	return nil
}

func etherTypeOf(v6 bool) uint16 {
	if v6 {
		return etherTypeIPv6
	}
	return etherTypeIPv4
}

// WriteTCP sends a TCP segment that has no IP header yet, on the fast path. It
// reports false, and has done nothing, when the packet needs the slow path: its
// next hop is not known, it may be fragmented, or it stays on this host.
func (e *Endpoint) WriteTCP(r *stack.Route, p *stack.NetworkHeaderParams, pkt *stack.PacketBuffer) (bool, tcpip.Error) {
	if r.Loop() != stack.PacketOut || p.ExperimentOptionValue != 0 {
		return false, nil
	}
	source, destination := r.LocalAddress(), r.RemoteAddress()
	hop := e.Route(source, destination, r.NextHop()).Hop
	if hop.Len() == 0 {
		return true, &tcpip.ErrHostUnreachable{}
	}
	var ip [ipHeaderMax]byte
	ipLen := header.IPv4MinimumSize
	if destination.Len() == 4 {
		if !p.DF {
			return false, nil // needs an identification of its own
		}
		ip[0] = 0x45
		ip[1] = p.TOS
		ip[6] = 0x40 // do not fragment
		ip[8] = p.TTL
		ip[9] = uint8(header.TCPProtocolNumber)
		s, d := source.As4(), destination.As4()
		copy(ip[12:], s[:])
		copy(ip[16:], d[:])
	} else {
		ipLen = header.IPv6MinimumSize
		ip[0] = 6<<4 | p.TOS>>4
		ip[1] = p.TOS << 4
		ip[6] = uint8(header.TCPProtocolNumber)
		ip[7] = p.TTL
		s, d := source.As16(), destination.As16()
		copy(ip[8:], s[:])
		copy(ip[24:], d[:])
	}
	e.txMu.Lock()
	mac, ok := e.lookupLocked(hop)
	if !ok {
		e.txMu.Unlock()
		return false, nil
	}
	var err tcpip.Error
	tcp := pkt.TransportHeader().Slice()
	if e.holdLocked(mac, ip[:ipLen], tcp, pkt) {
		e.pending.Set(true)
	} else {
		err = e.writeTCPLocked(mac, ip[:ipLen], 0, pkt)
	}
	e.unlock()
	return true, err
}

// writeTCPLocked sends a TCP segment behind the given IP header, whose length
// and checksum fields it fills in. The segment starts skip bytes into pkt. One
// that exceeds the MSS is cut up: by the device where it can, else here.
func (e *Endpoint) writeTCPLocked(mac link.MAC, ip []byte, skip int, pkt *stack.PacketBuffer) tcpip.Error {
	size := pkt.Size() - skip
	mtu := int(e.mtu.Load())
	v6 := len(ip) == header.IPv6MinimumSize && ip[0]>>4 == 6
	src := newCursor(pkt, skip)
	tcp := pkt.TransportHeader().Slice()
	mss := int(pkt.GSOOptions.MSS)
	// A segment that fits the MTU may still be larger than the peer or the path
	// takes.
	cut := pkt.GSOOptions.Type != stack.GSONone && mss > 0 && size-len(tcp) > mss
	if !cut && len(ip)+size <= mtu {
		b := e.reserveLocked(link.EthernetHeaderLen+len(ip)+size, size > len(tcp))
		if b == nil {
			return &tcpip.ErrNoBufferSpace{}
		}
		putEthernet(b, mac, e.mac, etherTypeOf(v6))
		copy(b[link.EthernetHeaderLen:], ip)
		src.read(b[link.EthernetHeaderLen+len(ip):][:size])
		e.finishTCPLocked(b, len(ip), size, 0, v6)
		return nil
	}
	if !cut || len(ip)+len(tcp)+mss > mtu {
		e.stats.txTooLong.Add(1)
		return &tcpip.ErrMessageTooLong{}
	}
	if frame := link.EthernetHeaderLen + len(ip) + size; frame <= e.caps.TSO {
		b := e.reserveLocked(frame, true)
		if b == nil {
			return &tcpip.ErrNoBufferSpace{}
		}
		putEthernet(b, mac, e.mac, etherTypeOf(v6))
		copy(b[link.EthernetHeaderLen:], ip)
		src.read(b[link.EthernetHeaderLen+len(ip):][:size])
		e.finishTCPLocked(b, len(ip), size, mss, v6)
		return nil
	}
	return e.segmentLocked(mac, ip, tcp, src, size-len(tcp), mss, v6)
}

// segmentLocked cuts a segment with left payload bytes, found at src behind its
// header, into pieces of mss bytes, or of as many of those as the device cuts.
func (e *Endpoint) segmentLocked(mac link.MAC, ip, tcp []byte, src cursor, left, mss int, v6 bool) tcpip.Error {
	src.skip(len(tcp))
	seq := binary.BigEndian.Uint32(tcp[4:])
	piece := e.piece(link.EthernetHeaderLen+len(ip)+len(tcp), mss)
	first := true
	for left > 0 {
		n, cut := min(left, piece), 0
		if n > mss {
			cut = mss
		}
		b := e.reserveLocked(link.EthernetHeaderLen+len(ip)+len(tcp)+n, true)
		if b == nil {
			return &tcpip.ErrNoBufferSpace{}
		}
		putEthernet(b, mac, e.mac, etherTypeOf(v6))
		copy(b[link.EthernetHeaderLen:], ip)
		t := b[link.EthernetHeaderLen+len(ip):]
		copy(t, tcp)
		binary.BigEndian.PutUint32(t[4:], seq)
		// FIN and PSH belong to the last piece, CWR (RFC 3168 section 6.1.2) to
		// the first.
		if left > n {
			t[13] &^= byte(header.TCPFlagFin | header.TCPFlagPsh)
		}
		if !first {
			t[13] &^= 0x80
		}
		src.read(t[len(tcp):][:n])
		e.finishTCPLocked(b, len(ip), len(tcp)+n, cut, v6)
		if piece == mss {
			e.stats.txSegmented.Add(1)
		}
		seq += uint32(n)
		left -= n
		first = false
	}
	return nil
}

// finishTCPLocked fills in lengths and checksums of the frame in b, or asks the
// device to, and stages it. tcpLen counts header and payload. A non-zero mss
// asks the device to cut the frame up.
func (e *Endpoint) finishTCPLocked(b []byte, ipLen, tcpLen, mss int, v6 bool) {
	ip := b[link.EthernetHeaderLen:][:ipLen]
	tcp := b[link.EthernetHeaderLen+ipLen:][:tcpLen]
	tx := link.TxOffload{}
	var addrs []byte
	if v6 {
		binary.BigEndian.PutUint16(ip[4:], uint16(tcpLen))
		addrs = ip[8:40]
	} else {
		binary.BigEndian.PutUint16(ip[2:], uint16(ipLen+tcpLen))
		ip[10], ip[11] = 0, 0
		if mss == 0 || !e.caps.TxIPv4Checksum {
			binary.BigEndian.PutUint16(ip[10:], ^checksum.Sum(ip, 0))
		} else {
			tx.Flags |= link.TxIPv4Checksum
		}
		addrs = ip[12:20]
	}
	pseudo := checksum.Sum(addrs, uint16(header.TCPProtocolNumber))
	if mss == 0 {
		pseudo = checksum.Combine(pseudo, uint16(tcpLen))
	}
	tcp[16], tcp[17] = 0, 0
	if mss == 0 && !e.caps.TxTCPChecksum {
		binary.BigEndian.PutUint16(tcp[16:], ^checksum.Sum(tcp, pseudo))
		e.commitLocked(link.EthernetHeaderLen+ipLen+tcpLen, tx)
		return
	}
	binary.BigEndian.PutUint16(tcp[16:], pseudo)
	tx.Flags |= link.TxTCPChecksum
	if v6 {
		tx.Flags |= link.TxIPv6
	}
	tx.L2Len, tx.L3Len, tx.L4Len = link.EthernetHeaderLen, uint8(ipLen), tcp[12]>>4*4
	tx.MSS = uint16(mss)
	e.commitLocked(link.EthernetHeaderLen+ipLen+tcpLen, tx)
}

// A cursor reads the bytes of a packet in order without allocating.
type cursor struct {
	view *buffer.View
	rest []byte
}

// newCursor starts skip bytes behind the packet's first header.
func newCursor(pkt *stack.PacketBuffer, skip int) cursor {
	views, offset := pkt.AsViewList()
	c := cursor{view: views.Front()}
	if c.view != nil {
		c.rest = c.view.AsSlice()
	}
	c.skip(offset + skip)
	return c
}

// advance moves on to the next view that has bytes, or to the end.
func (c *cursor) advance() {
	for len(c.rest) == 0 && c.view != nil {
		if c.view = c.view.Next(); c.view != nil {
			c.rest = c.view.AsSlice()
		}
	}
}

func (c *cursor) skip(n int) {
	for n > 0 {
		if c.advance(); c.view == nil {
			return
		}
		k := min(n, len(c.rest))
		c.rest = c.rest[k:]
		n -= k
	}
}

func (c *cursor) read(b []byte) {
	for len(b) > 0 {
		if c.advance(); c.view == nil {
			return
		}
		k := copy(b, c.rest)
		c.rest, b = c.rest[k:], b[k:]
	}
}
