package limits

import (
	"sort"
	"time"

	"github.com/gotpa/tpa/internal/transport"
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
	conn    Conn
	account *Account
	bytes   int
	closing bool
}

const (
	// firstReceive is the receive buffer that a connection begins with, in bytes, if
	// it may have that much.
	firstReceive = 1 << 20
	// leastBuffer is what a buffer is cut to at least, in bytes.
	leastBuffer = 16 << 10
	// shortTimeWait is how long connections in TIME-WAIT wait when there are too
	// many.
	shortTimeWait = time.Second
)

// count takes a census of the shard. It also returns the connections that hold
// memory.
func (a *Account) count() (Census, []holder) {
	var c Census
	var holders []holder
	for conn := range a.shard.Held() {
		closing := false
		switch conn.State() {
		case transport.StateSynReceived, transport.StateConnecting:
			c.HalfOpen++
			continue
		case transport.StateEstablished, transport.StateCloseWait:
			c.Open++
		case transport.StateTimeWait:
			c.TimeWait++
		case transport.StateFinWait1, transport.StateFinWait2, transport.StateClosing, transport.StateLastAck:
			c.Closing++
			closing = true
		default:
			continue
		}
		received, sent := conn.Held()
		c.ReceiveBytes += int64(received)
		c.SendBytes += int64(sent)
		if received+sent > 0 || closing {
			holders = append(holders, holder{conn, a, received + sent, closing})
		}
	}
	c.TimeWait += a.shard.TimeWaits()
	a.correct(c.HalfOpen)
	a.timeWait.Store(int64(c.TimeWait))
	a.shortenTimeWait(c.TimeWait)
	a.census.Store(&c)
	return c, holders
}

// shortenTimeWait makes TIME-WAIT short while there are too many.
func (a *Account) shortenTimeWait(n int) {
	limit := a.budget.limits.Load().TimeWait
	want := n >= limit || a.timeWaitShort && n > limit*3/4
	if want == a.timeWaitShort {
		return
	}
	a.timeWaitShort = want
	wait := a.settings.TimeWait
	if want {
		wait = min(wait, shortTimeWait)
	}
	a.shard.SetTimeWait(wait)
}

// resetExcess resets closed connections beyond their limit.
func (a *Account) resetExcess(holders []holder) {
	var closing []holder
	for _, h := range holders {
		if h.closing {
			closing = append(closing, h)
		}
	}
	excess := len(closing) - a.budget.limits.Load().Closing
	if excess <= 0 {
		return
	}
	sortLargestFirst(closing)
	for _, h := range closing[:excess] {
		h.conn.Abort()
		a.resetClosing.Add(1)
	}
}

func sortLargestFirst(h []holder) {
	sort.Slice(h, func(i, j int) bool { return h[i].bytes > h[j].bytes })
}

// squeeze says how large buffers may get from now on: as TCP's settings have it,
// or no larger than they must be.
func (a *Account) squeeze(on bool) {
	receive, send := a.setBuffers(on)
	if on {
		return
	}
	// Give back what cutBuffers took, and wake writers that wait for it. Receive
	// windows open with the next read, or when the peer probes.
	for conn := range a.shard.Held() {
		if s := conn.State(); s != transport.StateEstablished && s != transport.StateCloseWait {
			continue
		}
		r, s := conn.Buffers()
		if r < receive.First || s < send.First {
			conn.SetBuffers(max(r, receive.First), max(s, send.First))
		}
	}
}

// setBuffers sets the buffer sizes of TCP, in short supply or not.
func (a *Account) setBuffers(short bool) (receive, send Buffer) {
	r, s := a.settings.ReceiveBuffer, a.settings.SendBuffer
	if short {
		r, s = min(r, leastBuffer), min(s, leastBuffer)
	}
	receive = Buffer{First: min(firstReceive, r), Most: r}
	send = Buffer{First: min(a.settings.FirstSend, s), Most: s}
	a.shard.SetBuffers(receive, send)
	return receive, send
}

// cutBuffers makes buffers as small as what they hold.
func (a *Account) cutBuffers(holders []holder) {
	for _, h := range holders {
		received, sent := h.conn.Held()
		r, s := h.conn.Buffers()
		cutR, cutS := min(r, max(received, leastBuffer)), min(s, max(sent, leastBuffer))
		if cutR < r {
			a.cut.Add(1)
		}
		if cutS < s {
			a.cut.Add(1)
		}
		if cutR < r || cutS < s {
			h.conn.SetBuffers(cutR, cutS)
		}
	}
}
