package load

import (
	"context"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gotpa/tpa/accel/acceltest"
)

// TestHandlers works on accelerated connections in goroutines and in their pollers,
// with a server that closes each connection after some replies.
func TestHandlers(t *testing.T) {
	const replies, size = 50, 64
	for handler, name := range map[Handler]string{Goroutine: "goroutine", Coroutine: "coroutine", Callback: "callback"} {
		t.Run(name, func(t *testing.T) {
			network := acceltest.New(t, acceltest.Options{})
			go func() {
				for {
					c, err := network.Listener.Accept()
					if err != nil {
						return
					}
					go func() {
						io.CopyN(c, c, replies*size)
						c.Close()
					}()
				}
			}()
			var dials atomic.Int64
			res, err := Run(t.Context(), Config{
				Workload: find(t, "rr"), Handler: handler, Conns: 5, Payload: size, Duration: 200 * time.Millisecond, Verify: true, Polls: true,
				Dial: func(ctx context.Context) (net.Conn, error) {
					dials.Add(1)
					return network.Dialer.DialContext(ctx, "tcp", network.Listener.Addr().String())
				},
			})
			if err != nil {
				t.Fatal(err)
			}
			if res.Requests < replies || res.Errors == 0 || res.Unanswered != 0 || dials.Load() <= 5 {
				t.Errorf("%d requests, %d errors %q, %d unanswered, %d dials, want many replies and some closed connections",
					res.Requests, res.Errors, res.Problems, res.Unanswered, dials.Load())
			}
		})
	}
}
