package coexistence

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gotpa/tpa/internal/testnet"
)

// A load keeps connections busy until stop.
type load struct {
	cancel   context.CancelFunc
	running  sync.WaitGroup
	requests atomic.Int64
	failures atomic.Int64
	last     atomic.Value // error
}

// load runs request on each of n connections to addr, and connects again when one
// fails.
func (s *site) load(h *testnet.Host, n int, addr string, request func(net.Conn) error) *load {
	ctx, cancel := context.WithCancel(context.Background())
	l := &load{cancel: cancel}
	for range n {
		l.running.Go(func() {
			var c net.Conn
			for ctx.Err() == nil {
				var err error
				if c == nil {
					if c, err = dial(h, addr); err != nil {
						c = nil
					}
				}
				if err == nil {
					// A peer that is dead leaves us waiting until the next keep-alive.
					stop := context.AfterFunc(ctx, func() { c.SetReadDeadline(time.Unix(1, 0)) })
					err = request(c)
					stop()
				}
				if err != nil && ctx.Err() != nil {
					break
				}
				if err != nil {
					l.failures.Add(1)
					l.last.Store(err.Error())
					if c != nil {
						c.Close()
						c = nil
					}
					time.Sleep(time.Millisecond)
					continue
				}
				l.requests.Add(1)
			}
			if c != nil {
				c.Close()
			}
		})
	}
	s.Cleanup(l.stop)
	return l
}

// ask is load for one goroutine with a request that has its own connections.
func (s *site) ask(request func() error) *load {
	ctx, cancel := context.WithCancel(context.Background())
	l := &load{cancel: cancel}
	l.running.Go(func() {
		for ctx.Err() == nil {
			if err := request(); err != nil {
				l.failures.Add(1)
				l.last.Store(err.Error())
				time.Sleep(time.Millisecond)
				continue
			}
			l.requests.Add(1)
		}
	})
	s.Cleanup(l.stop)
	return l
}

func (l *load) stop() {
	l.cancel()
	l.running.Wait()
}

// ok fails the test when requests failed.
func (l *load) ok(t *testing.T, what string) {
	t.Helper()
	if n := l.failures.Load(); n > 0 {
		t.Errorf("%s: %d of %d requests failed, the last one with: %v", what, n, n+l.requests.Load(), l.last.Load())
	}
}
