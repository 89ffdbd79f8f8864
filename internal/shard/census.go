package shard

import (
	"slices"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

// A Census is a count of a shard's connections.
type Census struct {
	// HalfOpen are handshakes that peers began, Open the established connections,
	// those included that wait for Accept, Closing those that the program closed,
	// TimeWait those that wait for old duplicates.
	HalfOpen, Open, Closing, TimeWait int
	// ReceiveBytes and SendBytes are what their buffers hold.
	ReceiveBytes, SendBytes int64
}

// holder is a connection that holds memory.
type holder struct {
	ep      endpoint
	shard   *Shard
	bytes   int
	closing bool
}

const (
	// censusEvery is the shortest time between two counts, and calmEvery the time
	// while all is far from its limit.
	censusEvery = 100 * time.Millisecond
	calmEvery   = time.Second
	// censusShare is the part of one processor that counting may take: with many
	// connections counts come less often.
	censusShare = 50
	// shortFor is how long memory may be short before connections are reset.
	shortFor = time.Second
	// leastBuffer is what a buffer is cut to at least, in bytes.
	leastBuffer = 16 << 10
	// shortTimeWait is how long connections in TIME-WAIT wait when there are too
	// many.
	shortTimeWait = time.Second
)

// A Budget keeps the limits that all shards of a runtime share. It counts
// connections and what they hold ten times a second while there is traffic.
type Budget struct {
	limits Limits
	shards atomic.Pointer[[]*Shard]

	// closed is set while memory is short: no connection comes in.
	closed atomic.Bool
	// urgent asks for a census as soon as may be.
	urgent    atomic.Bool
	shielding shielding

	// The following fields belong to Keep.
	frames uint64 // received until the last census
	last   time.Time
	took   time.Duration
	tight  bool // something is near its limit
	// shortSince is since when memory is short, zero while it is not.
	shortSince time.Time
}

// NewBudget returns a budget for shards that are made with it.
func NewBudget(l Limits) *Budget {
	b := &Budget{limits: l.WithDefaults()}
	b.shards.Store(new([]*Shard))
	return b
}

// add takes in a shard, one at a time.
func (b *Budget) add(s *Shard) {
	shards := append(slices.Clip(*b.shards.Load()), s)
	if s.own != nil {
		s.own.ShareCookies(shards[0].own.Cookies())
	}
	b.shards.Store(&shards)
}

// Limits returns the limits, defaults filled in.
func (b *Budget) Limits() Limits { return b.limits }

// Full tells whether there may be no further connection.
func (b *Budget) Full() bool {
	n := 0
	for _, s := range *b.shards.Load() {
		n += s.connections()
	}
	if n < b.limits.Connections {
		return false
	}
	b.urgent.Store(true) // some may be in TIME-WAIT meanwhile
	return true
}

// connections is how many of Limits.Connections the shard uses.
func (s *Shard) connections() int {
	a := &s.admission
	return int(s.stackStats.TCP.CurrentConnected.Value()) - int(s.timeWait.Load()) + a.halfOpen()
}

// Keep keeps the limits until stop is closed. One goroutine runs it.
func (b *Budget) Keep(stop <-chan struct{}) {
	tick := time.NewTicker(censusEvery)
	defer tick.Stop()
	defer b.shielding.rest()
	for {
		select {
		case <-stop:
			return
		case now := <-tick.C:
			b.keep(now)
			b.tend(now)
		}
	}
}

// keep counts if it is time to.
func (b *Budget) keep(now time.Time) {
	frames := uint64(0)
	for _, s := range *b.shards.Load() {
		frames += s.queue.Stats().RxFrames
	}
	since, pressed := now.Sub(b.last), b.tight || b.urgent.Load()
	pause := b.took * censusShare
	if pressed {
		// What made the last count slow may be what it is to stop.
		pause = min(pause, calmEvery)
	}
	if since < pause || !pressed && (frames == b.frames || since < calmEvery) {
		return
	}
	b.frames, b.last = frames, now
	b.urgent.Store(false)
	start := time.Now()
	b.count()
	b.took = time.Since(start)
}

// count takes a census of all shards and does what the limits ask for.
func (b *Budget) count() {
	var bytes int64
	b.tight = false
	shards := *b.shards.Load()
	all := make([][]holder, len(shards))
	for i, s := range shards {
		var c Census
		c, all[i] = s.count()
		bytes += c.ReceiveBytes + c.SendBytes
		if c.HalfOpen > b.limits.HalfOpen/4 || s.admission.cookies.Load() {
			b.tight = true
		}
	}
	short := bytes > b.limits.Memory/4*3
	if b.closed.Load() {
		short = bytes > b.limits.Memory/2
	}
	b.tight = b.tight || short || bytes > b.limits.Memory/8
	if was := b.closed.Swap(short); was != short {
		for _, s := range shards {
			s.squeeze(short)
		}
	}
	for i, s := range shards {
		s.resetClosing(all[i])
		if short {
			s.cutBuffers(all[i])
		}
	}
	if !short {
		b.shortSince = time.Time{}
	} else if b.shortSince.IsZero() {
		b.shortSince = b.last
	}
	// Who holds much and gives nothing back must not shut the others out.
	if bytes > b.limits.Memory || short && b.last.Sub(b.shortSince) >= shortFor {
		b.resetLargest(slices.Concat(all...), bytes-b.limits.Memory/2)
	}
}

// count takes a census of the shard. It also returns the connections that hold
// memory.
func (s *Shard) count() (Census, []holder) {
	var c Census
	var holders []holder
	for _, e := range s.stack.RegisteredEndpoints() {
		ep, ok := e.(endpoint)
		if !ok {
			continue
		}
		closing := false
		switch ep.EndpointState() {
		case tcp.StateSynRecv, tcp.StateConnecting:
			c.HalfOpen++
			continue
		case tcp.StateEstablished, tcp.StateCloseWait:
			c.Open++
		case tcp.StateTimeWait:
			c.TimeWait++
		case tcp.StateFinWait1, tcp.StateFinWait2, tcp.StateClosing, tcp.StateLastAck:
			c.Closing++
			closing = true
		default:
			continue
		}
		received, sent := held(ep)
		c.ReceiveBytes += int64(received)
		c.SendBytes += int64(sent)
		if received+sent > 0 || closing {
			holders = append(holders, holder{ep, s, received + sent, closing})
		}
	}
	s.admission.correct(c.HalfOpen)
	s.timeWait.Store(int64(c.TimeWait))
	s.shortenTimeWait(c.TimeWait)
	s.census.Store(&c)
	return c, holders
}

// shortenTimeWait makes TIME-WAIT short while there are too many.
func (s *Shard) shortenTimeWait(n int) {
	limit := s.admission.limits.TimeWait
	want := n >= limit || s.timeWaitShort && n > limit*3/4
	if want == s.timeWaitShort {
		return
	}
	s.timeWaitShort = want
	option := tcpip.TCPTimeWaitTimeoutOption(s.tcp.TimeWait)
	if want {
		option = tcpip.TCPTimeWaitTimeoutOption(min(s.tcp.TimeWait, shortTimeWait))
	}
	s.stack.SetTransportProtocolOption(tcp.ProtocolNumber, &option)
}

// resetClosing resets closed connections beyond their limit, and takes them out
// of the list.
func (s *Shard) resetClosing(holders []holder) {
	var closing []holder
	for _, h := range holders {
		if h.closing {
			closing = append(closing, h)
		}
	}
	excess := len(closing) - s.admission.limits.Closing
	if excess <= 0 {
		return
	}
	slices.SortFunc(closing, largestFirst)
	for _, h := range closing[:excess] {
		h.ep.Abort()
		s.admission.resetClosing.Add(1)
	}
}

func largestFirst(a, b holder) int { return b.bytes - a.bytes }

// squeeze says how large buffers may get from now on: as TCP's settings have it,
// or no larger than they must be.
func (s *Shard) squeeze(on bool) {
	receive, send := s.bufferRanges(on)
	s.stack.SetTransportProtocolOption(tcp.ProtocolNumber, &receive)
	s.stack.SetTransportProtocolOption(tcp.ProtocolNumber, &send)
	if on {
		return
	}
	// Give back what cutBuffers took, and wake writers that wait for it. Receive
	// windows open with the next read, or when the peer probes.
	for _, e := range s.stack.RegisteredEndpoints() {
		ep, ok := e.(endpoint)
		if !ok || ep.EndpointState() != tcp.StateEstablished && ep.EndpointState() != tcp.StateCloseWait {
			continue
		}
		o := ep.SocketOptions()
		if o.GetReceiveBufferSize() < int64(receive.Default) {
			o.SetReceiveBufferSize(int64(receive.Default), false)
		}
		if o.GetSendBufferSize() < int64(send.Default) {
			o.SetSendBufferSize(int64(send.Default), false)
			ep.WakeupWriters()
		}
	}
}

// bufferRanges are the buffer sizes of TCP, in short supply or not.
func (s *Shard) bufferRanges(short bool) (tcpip.TCPReceiveBufferSizeRangeOption, tcpip.TCPSendBufferSizeRangeOption) {
	receive, send := s.tcp.ReceiveBuffer, s.tcp.SendBuffer
	if short {
		receive, send = min(receive, leastBuffer), min(send, leastBuffer)
	}
	// What waits in the send buffer is what a write waits for, beside others: more
	// does not make a short way faster, and our TCP makes it larger on a long one.
	first := 256 << 10
	if s.tcp.Engine == "gvisor" {
		first = 1 << 20
	}
	return tcpip.TCPReceiveBufferSizeRangeOption{Min: 4 << 10, Default: min(1<<20, receive), Max: receive},
		tcpip.TCPSendBufferSizeRangeOption{Min: 4 << 10, Default: min(first, send), Max: send}
}

// cutBuffers makes buffers as small as what they hold.
func (s *Shard) cutBuffers(holders []holder) {
	for _, h := range holders {
		received, sent := held(h.ep)
		o := h.ep.SocketOptions()
		if want := int64(max(received, leastBuffer)); o.GetReceiveBufferSize() > want {
			o.SetReceiveBufferSize(want, false)
			s.admission.cut.Add(1)
		}
		if want := int64(max(sent, leastBuffer)); o.GetSendBufferSize() > want {
			o.SetSendBufferSize(want, false)
			s.admission.cut.Add(1)
		}
	}
}

// resetLargest resets the connections that hold most until they have given up so
// many bytes.
func (b *Budget) resetLargest(holders []holder, bytes int64) {
	slices.SortFunc(holders, largestFirst)
	for _, h := range holders {
		if bytes <= 0 || h.bytes == 0 {
			return
		}
		bytes -= int64(h.bytes)
		h.ep.Abort()
		h.shard.admission.resetMemory.Add(1)
	}
}
