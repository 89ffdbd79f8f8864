package sim

import (
	"context"
	"io"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/gotpa/tpa/accel"
	"github.com/gotpa/tpa/link/fault"
)

// TestAnswers reports how long requests wait for their answers over a path of 1 ms
// that loses frames on their way back. The figures are the same on every machine.
func TestAnswers(t *testing.T) {
	for _, c := range []struct {
		name   string
		answer int // bytes
		drop   float64
		// most is about twice what was measured for one request in a hundred.
		most time.Duration
	}{
		{"64 B, 1% loss", 64, 0.01, 130 * time.Millisecond},
		{"16 KB, no loss", 16 << 10, 0, 3 * time.Millisecond},
		{"16 KB, 1% loss", 16 << 10, 0.01, 20 * time.Millisecond},
		{"64 KB, 1% loss", 64 << 10, 0.01, 130 * time.Millisecond},
	} {
		there, back := fault.Impairment{Delay: 500 * time.Microsecond}, fault.Impairment{Drop: c.drop, Delay: 500 * time.Microsecond}
		s := setup{mtu: 1500, queues: [2]int{1, 1}, tcp: accel.TCP{TimeWait: time.Second}, there: there, back: back}
		var times []time.Duration
		for seed := range uint64(4) {
			run(t, seed, s, func(w *world) { times = append(times, w.ask(1000, c.answer)...) })
		}
		slices.Sort(times)
		at := func(part float64) time.Duration { return times[int(part*float64(len(times)))] }
		t.Logf("%-15s median %7v  p99 %9v  p99.9 %9v  mean %9v", c.name, at(0.5), at(0.99), at(0.999), mean(times))
		if at(0.99) > c.most {
			t.Errorf("%s: one request in a hundred takes %v, want %v at most", c.name, at(0.99), c.most)
		}
	}
}

func mean(times []time.Duration) (m time.Duration) {
	for _, d := range times {
		m += d
	}
	return (m / time.Duration(len(times))).Round(time.Microsecond)
}

// ask makes n requests of 64 bytes, one after the other on one connection, and
// returns how long their answers took.
func (w *world) ask(n, size int) (times []time.Duration) {
	server, client := w.hosts[1], w.hosts[0]
	ln, err := (&accel.ListenConfig{Runtime: server.rt}).Listen(context.Background(), "tcp", ":80")
	if err != nil {
		w.t.Error(err)
		return nil
	}
	defer ln.Close()
	go func() {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		request, answer := make([]byte, 64), make([]byte, size)
		for {
			if _, err := io.ReadFull(c, request); err != nil {
				return
			}
			if _, err := c.Write(answer); err != nil {
				return
			}
		}
	}()
	c, err := (&accel.Dialer{Runtime: client.rt}).Dial("tcp", net.JoinHostPort(server.addrs[0].String(), "80"))
	if err != nil {
		w.t.Error(err)
		return nil
	}
	defer c.Close()
	b := make([]byte, max(size, 64))
	for range n {
		start := time.Now()
		if _, err := c.Write(b[:64]); err != nil {
			w.t.Error(err)
			return times
		}
		if _, err := io.ReadFull(c, b[:size]); err != nil {
			w.t.Error(err)
			return times
		}
		times = append(times, time.Since(start))
	}
	return times
}
