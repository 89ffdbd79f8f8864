package sim

import (
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gotpa/tpa/accel"
	"github.com/gotpa/tpa/link"
	"github.com/gotpa/tpa/link/memory"
	"github.com/gotpa/tpa/test/virtualtime"
)

// TestCrowd has ten times as many connections ask at once, over devices that take a
// small part of what they send each millisecond: that must not make a request take
// more than twice the time or three times the work, and nothing may be sent again.
func TestCrowd(t *testing.T) {
	few, many := 1000, 10_000
	if raceEnabled {
		few, many = 200, 2000
	}
	a, b := crowd(t, few, few/2), crowd(t, many, few/2)
	t.Logf("%d connections: %+v", few, a)
	t.Logf("%d connections: %+v", many, b)
	if b.time > 2*a.time+leastTime {
		t.Errorf("a request of %d connections takes %v of virtual time, of %d %v", many, b.time, few, a.time)
	}
	if b.calls > 3*a.calls {
		t.Errorf("a request of %d connections takes %.2f calls of the device, of %d %.2f", many, b.calls, few, a.calls)
	}
}

// leastTime is how much virtual time per request is nothing: less than a frame takes.
const leastTime = time.Microsecond

// A crowdCost is what a request costs: virtual time, which passes while all wait for a
// timer, and calls of the device by both hosts.
type crowdCost struct {
	time  time.Duration
	calls float64
}

func crowd(t *testing.T, conns, rate int) (cost crowdCost) {
	const rounds, size = 3, 64
	virtualtime.Test(t, func(t *testing.T) {
		s, c, err := memory.Pair(memory.Options{Ring: 1024})
		if err != nil {
			t.Fatal(err)
		}
		slow := [2]*slowDevice{newSlowDevice(s), newSlowDevice(c)}
		server, client := crowdHost(t, slow[0], "10.0.0.1"), crowdHost(t, slow[1], "10.0.0.2")
		ln, err := (&accel.ListenConfig{Runtime: server}).Listen(t.Context(), "tcp", "10.0.0.1:80")
		if err != nil {
			t.Fatal(err)
		}
		var serving, asking sync.WaitGroup
		serving.Go(func() {
			for {
				conn, err := ln.Accept()
				if err != nil {
					return
				}
				serving.Go(func() { echo(conn, size) })
			}
		})
		dialer := &accel.Dialer{Runtime: client}
		dialled := make([]net.Conn, conns)
		for i := range dialled {
			if dialled[i], err = dialer.Dial("tcp", "10.0.0.1:80"); err != nil {
				t.Fatal(err)
			}
		}
		for _, d := range slow {
			d.queue.rate.Store(int64(rate))
		}
		before, start := deviceCalls(server)+deviceCalls(client), time.Now()
		for _, conn := range dialled {
			asking.Go(func() {
				b := make([]byte, size)
				for range rounds {
					if _, err := conn.Write(b); err != nil {
						t.Error(err)
						return
					}
					if _, err := io.ReadFull(conn, b); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		asking.Wait()
		requests := conns * rounds
		cost.time = time.Since(start) / time.Duration(requests)
		cost.calls = float64(deviceCalls(server)+deviceCalls(client)-before) / float64(requests)
		for _, rt := range []*accel.Runtime{server, client} {
			if n := rt.Stats().Shards[0].TCP.Retransmits; n > 0 {
				t.Errorf("%d connections: %d segments were sent again", conns, n)
			}
		}
		for _, d := range slow {
			d.queue.rate.Store(0)
		}
		for _, conn := range dialled {
			conn.Close()
		}
		ln.Close()
		serving.Wait()
		client.Close()
		server.Close()
	})
	return cost
}

// A slowDevice takes only so many frames in a millisecond.
type slowDevice struct {
	link.Device
	queue *slowQueue
}

type slowQueue struct {
	link.Queue
	link.Waiter
	rate atomic.Int64 // frames per millisecond, 0 for any number
	left int64
	at   time.Time // the millisecond of left
}

func newSlowDevice(d link.Device) *slowDevice {
	q := d.Queue(0)
	return &slowDevice{d, &slowQueue{Queue: q, Waiter: q.(link.Waiter)}}
}

func (d *slowDevice) Queue(int) link.Queue { return d.queue }

func (q *slowQueue) Reserve(n int) []byte {
	rate := q.rate.Load()
	if rate == 0 {
		return q.Queue.Reserve(n)
	}
	if now := time.Now().Truncate(time.Millisecond); now != q.at {
		q.at, q.left = now, rate
	}
	if q.left == 0 {
		return nil
	}
	b := q.Queue.Reserve(n)
	if b != nil {
		q.left-- // none is reserved in vain here
	}
	return b
}

// echo sends back requests until the peer leaves.
func echo(conn net.Conn, size int) {
	defer conn.Close()
	b := make([]byte, size)
	for {
		if _, err := io.ReadFull(conn, b); err != nil {
			return
		}
		if _, err := conn.Write(b); err != nil {
			return
		}
	}
}

func crowdHost(t *testing.T, d link.Device, ip string) *accel.Runtime {
	rt, err := accel.New(accel.Config{
		Link: d, Addrs: []netip.Prefix{netip.MustParsePrefix(ip + "/24")}, TCP: accel.TCP{TimeWait: time.Millisecond},
		Fallback: accel.FallbackNever, DebugSocket: "off", Record: -1, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	return rt
}

// deviceCalls is how often a host called its device, in vain or not: to receive, to
// flush, and where it found it full.
func deviceCalls(rt *accel.Runtime) (n uint64) {
	s := &rt.Stats().Shards[0]
	n = s.Poller.Polls + s.Queue.TxFull + s.Link.TxWaits
	for _, flushes := range s.Link.TxBursts {
		n += flushes
	}
	return n
}
