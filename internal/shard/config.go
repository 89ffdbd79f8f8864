package shard

import (
	"cmp"
	"os"
	"time"

	"github.com/gotpa/tpa/internal/clock"
)

// Polling is how a poller behaves when its queue is empty. It first polls
// without a pause, then lets other goroutines run between polls, then sleeps
// for times that double up to MaxSleep. Any frame starts it over.
type Polling struct {
	// Spin is how long an idle poller keeps polling, letting other goroutines run
	// between polls, before it sleeps, at most: see spinner. Longer means less latency
	// after a pause and more processor time. Less than 1 µs is none. Default: 1 ms, or
	// 10 µs with a quota of less than two processors. Negative: never sleep.
	Spin time.Duration
	// MaxSleep is the longest sleep between two polls of a device that cannot
	// wake its poller. It bounds the latency of the first frame after a pause.
	// 10 µs to 100 ms. Default: 1 ms, and 4 ms when no frame has come for a second.
	MaxSleep time.Duration
	// LongHandler is how long a handler may run in the poller before it is counted
	// and logged. 10 µs to 1 min. Default: 10 ms.
	LongHandler time.Duration
}

// SetPolling changes how the poller idles. Any goroutine may call it, before Start and
// after.
func (s *Shard) SetPolling(p Polling) {
	s.deepens.Store(p.MaxSleep == 0)
	p = p.withDefaults()
	s.polling.Store(&p)
	s.wake() // it may sleep for long by the old ones
}

func (p Polling) withDefaults() Polling {
	if p.Spin == 0 {
		p.Spin = defaultSpin
		// A poller that spins uses up the time that the rest of the program has.
		if q := quota(os.DirFS("/")); q > 0 && q < 2 {
			p.Spin = leastSpin
		}
	}
	if clock.Virtual() {
		p.Spin = noSpin
	}
	p.MaxSleep = cmp.Or(p.MaxSleep, defaultMaxSleep)
	p.LongHandler = cmp.Or(p.LongHandler, defaultLongHandler)
	return p
}

// TCP are settings of a shard's TCP stack.
type TCP struct {
	// ReceiveBuffer and SendBuffer are the greatest buffers in bytes that one
	// connection grows to, 4 KB to 1 GB. Defaults: 6 MB and 4 MB. They begin with 1 MB
	// and what the engine says (Engine.FirstSend), if that is less.
	ReceiveBuffer, SendBuffer int
	// TimeWait is how long a closed connection blocks its 4-tuple. 1 ms to 4 min.
	// Default: 60 s, as in the kernel.
	TimeWait time.Duration
	// NoSACK turns selective acknowledgements (RFC 2018) off. Default: on.
	NoSACK bool
	// NoCoalescing delivers each received segment by itself, instead of joining
	// those of one flow that follow each other in a burst. Default: joined.
	NoCoalescing bool
	// Engine is the TCP that carries the connections, by the name that newEngine knows
	// it by. Default: "tpa", our own, which runs to completion in the shard.
	Engine string
	// Congestion is "reno", "cubic" or "auto". Default: "auto", what the engine says
	// (Engine.Congestion).
	Congestion string
}

func (t TCP) withDefaults() TCP {
	t.ReceiveBuffer = cmp.Or(t.ReceiveBuffer, 6<<20)
	t.SendBuffer = cmp.Or(t.SendBuffer, 4<<20)
	t.TimeWait = cmp.Or(t.TimeWait, time.Minute)
	t.Engine = cmp.Or(t.Engine, "tpa")
	return t
}
