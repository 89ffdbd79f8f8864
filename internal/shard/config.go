package shard

import (
	"cmp"
	"errors"
	"fmt"
	"time"
)

// Polling is how a poller behaves when its queue is empty. It first polls
// without a pause, then lets other goroutines run between polls, then sleeps
// for times that double up to MaxSleep. Any frame starts it over.
type Polling struct {
	// Spin is how long an idle poller keeps polling, letting other goroutines run
	// between polls, before it sleeps. Longer means less latency after a pause and
	// more processor time. 1 µs to 1 s; less is none, which suits virtual time
	// (testing/synctest). Default: 1 ms. Negative: never sleep.
	Spin time.Duration
	// MaxSleep is the longest sleep between two polls of a device that cannot
	// wake its poller. It bounds the latency of the first frame after a pause.
	// 10 µs to 100 ms. Default: 1 ms.
	MaxSleep time.Duration
}

func (p Polling) withDefaults() Polling {
	p.Spin = cmp.Or(p.Spin, defaultSpin)
	p.MaxSleep = cmp.Or(p.MaxSleep, defaultMaxSleep)
	return p
}

// Check refuses values out of range.
func (p Polling) Check() error {
	if p.Spin > time.Second {
		return fmt.Errorf("Polling.Spin is %v: want at most 1s", p.Spin)
	}
	if p.MaxSleep != 0 && (p.MaxSleep < 10*time.Microsecond || p.MaxSleep > 100*time.Millisecond) {
		return fmt.Errorf("Polling.MaxSleep is %v: want 10µs to 100ms", p.MaxSleep)
	}
	return nil
}

// TCP are settings of a shard's TCP stack.
type TCP struct {
	// ReceiveBuffer and SendBuffer are the greatest buffers in bytes that one
	// connection grows to, 4 KB to 1 GB. Defaults: 6 MB and 4 MB. They begin with 1 MB
	// and 256 KB, if that is less (1 MB each with gVisor's TCP).
	ReceiveBuffer, SendBuffer int
	// TimeWait is how long a closed connection blocks its 4-tuple. 1 ms to 4 min.
	// Default: 60 s, as in the kernel.
	TimeWait time.Duration
	// NoSACK turns selective acknowledgements (RFC 2018) off. Default: on.
	NoSACK bool
	// NoCoalescing delivers each received segment by itself, instead of joining
	// those of one flow that follow each other in a burst. Default: joined.
	NoCoalescing bool
	// Engine is the TCP that carries the connections: "tpa" is our own, which runs to
	// completion in the shard, "gvisor" gVisor's. Default: "tpa".
	Engine string
	// Congestion is "reno" or "cubic". Default: "reno": the window arithmetic of
	// gVisor's cubic can overflow (gvisor.dev/issue/11632).
	Congestion string
}

func (t TCP) withDefaults() TCP {
	t.ReceiveBuffer = cmp.Or(t.ReceiveBuffer, 6<<20)
	t.SendBuffer = cmp.Or(t.SendBuffer, 4<<20)
	t.TimeWait = cmp.Or(t.TimeWait, time.Minute)
	t.Congestion = cmp.Or(t.Congestion, "reno")
	t.Engine = cmp.Or(t.Engine, "tpa")
	return t
}

// Check refuses values out of range.
func (t TCP) Check() error {
	var errs []error
	for _, b := range []struct {
		name  string
		bytes int
	}{{"ReceiveBuffer", t.ReceiveBuffer}, {"SendBuffer", t.SendBuffer}} {
		if b.bytes != 0 && (b.bytes < 4<<10 || b.bytes > 1<<30) {
			errs = append(errs, fmt.Errorf("TCP.%s is %d: want 4096 bytes to 1 GB", b.name, b.bytes))
		}
	}
	if t.TimeWait != 0 && (t.TimeWait < time.Millisecond || t.TimeWait > 4*time.Minute) {
		errs = append(errs, fmt.Errorf("TCP.TimeWait is %v: want 1ms to 4m", t.TimeWait))
	}
	switch t.Engine {
	case "", "gvisor", "tpa":
	default:
		errs = append(errs, fmt.Errorf("TCP.Engine is %q: want gvisor or tpa", t.Engine))
	}
	switch t.Congestion {
	case "", "cubic", "reno":
	default:
		errs = append(errs, fmt.Errorf("TCP.Congestion is %q: want cubic or reno", t.Congestion))
	}
	return errors.Join(errs...)
}
