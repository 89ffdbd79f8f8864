package shard

import (
	"path"
	"runtime"
	"strings"
	"sync"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/gotpa/tpa/internal/testframe"
	"github.com/gotpa/tpa/link"
)

// A callers has who called what, outermost first.
type callers struct {
	mu    sync.Mutex
	stack []string
	shard int // how often the calls entered this package
}

// note notes who calls, the first time.
func (c *callers) note() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stack != nil {
		return
	}
	pc := make([]uintptr, 100)
	frames := runtime.CallersFrames(pc[:runtime.Callers(2, pc)])
	inside := false
	for {
		f, more := frames.Next()
		c.stack = append([]string{f.Function}, c.stack...)
		here := path.Base(path.Dir(f.File)) == "shard" && !strings.HasSuffix(f.File, "_test.go")
		if here && !inside {
			c.shard++
		}
		if inside = here; !more {
			return
		}
	}
}

// A watchedQueue notes who sends the first SYN-ACK.
type watchedQueue struct {
	link.Queue
	sends *callers
	last  []byte
}

func (q *watchedQueue) Reserve(n int) []byte {
	q.last = q.Queue.Reserve(n)
	return q.last
}

func (q *watchedQueue) Commit(n int, tx link.TxOffload) {
	if p, err := testframe.Parse(q.last[:n]); err == nil && p.TCP() != nil && p.TCP().Flags().Contains(header.TCPFlagSyn|header.TCPFlagAck) {
		q.sends.note()
	}
	q.Queue.Commit(n, tx)
}

// TestSlowPathCrossesShardOnce looks at who calls when a SYN comes to its listener, and
// when the answer comes to the device: the poller is the only part of this package.
// gVisor's TCP answers from a goroutine of its own.
func TestSlowPathCrossesShardOnce(t *testing.T) {
	for engine, answers := range map[string]int{"tpa": 1, "gvisor": 0} {
		t.Run(engine, func(t *testing.T) {
			var arrives, answered callers
			p := newPeerOf(t, engine, func(q link.Queue) link.Queue {
				return &watchedQueue{Queue: q, sends: &answered}
			}, func() int {
				arrives.note()
				return 0
			})
			p.shard.Start()
			t.Cleanup(p.shard.Close)
			frame := p.segment(1025, 100, 0, header.TCPFlagSyn, nil, nil)
			p.wire.Commit(copy(p.wire.Reserve(len(frame)), frame), link.TxOffload{})
			if _, err := p.wire.Flush(); err != nil {
				t.Fatal(err)
			}
			for what, c := range map[string]struct {
				*callers
				want int
			}{"the SYN": {&arrives, 1}, "its answer": {&answered, answers}} {
				p.until(what, func() bool {
					c.mu.Lock()
					defer c.mu.Unlock()
					return c.stack != nil
				})
				if c.shard != c.want {
					t.Errorf("%s entered internal/shard %d times, want %d:\n%s", what, c.shard, c.want, strings.Join(c.stack, "\n"))
				}
			}
		})
	}
}
