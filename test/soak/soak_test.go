package soak

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http/httptest"
	"net/netip"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/gotpa/tpa/accel"
	"github.com/gotpa/tpa/link"
	"github.com/gotpa/tpa/link/fault"
	"github.com/gotpa/tpa/link/memory"
	"github.com/gotpa/tpa/metrics"
)

var (
	length = flag.Duration("soak.time", 3*time.Second, "how long to run")
	out    = flag.String("soak.out", "", "`FILE` for the report in JSON")
	seed   = flag.Uint64("soak.seed", 0, "seed of the impairments and the clients; 0 draws one")
)

const (
	workers = 16
	// rounds is how often the runtimes are made anew, at least: each round begins
	// with new ones, and ends when they are closed. A round takes ten minutes at
	// most.
	rounds   = 6
	maxRound = 10 * time.Minute
	// maxBytes is the most that one connection carries, each way.
	maxBytes = 256 << 10
	// testTimeout is how long a client waits for progress. On the bad network a
	// retransmission may wait for more than a minute.
	testTimeout = 3 * time.Minute
)

// A Round is what was seen in one round. Memory is what was in use after all was
// closed and collected.
type Round struct {
	Impaired    bool    `json:"impaired"`
	Seconds     float64 `json:"seconds"`
	Conns       uint64  `json:"conns"`
	Bytes       uint64  `json:"bytes"` // sent and received by clients
	Restarts    int     `json:"restarts"`
	Scrapes     int     `json:"scrapes"`
	Retransmits uint64  `json:"retransmits"`
	Faults      uint64  `json:"faults"` // frames dropped, corrupted or cut on purpose
	Lost        uint64  `json:"lost"`   // counted as lost below TCP, both sides
	Heap        int64   `json:"heap"`
	RSS         int64   `json:"rss"`
	Goroutines  int     `json:"goroutines"`
	Buffers     int     `json:"buffers"` // of devices, left in use
}

// A Report is the outcome of a soak.
type Report struct {
	Seed    uint64  `json:"seed"`
	Seconds float64 `json:"seconds"`
	Rounds  []Round `json:"rounds"`
	// HeapSlope and RSSSlope are in bytes per hour, from the second round on.
	HeapSlope float64 `json:"heap_slope"`
	RSSSlope  float64 `json:"rss_slope"`
}

func TestSoak(t *testing.T) {
	if *seed == 0 {
		*seed = rand.Uint64()
	}
	t.Logf("the seed is %d; the same again: go test ./test/soak -soak.seed %d -soak.time %v", *seed, *seed, *length)
	r := Report{Seed: *seed}
	goroutines := runtime.NumGoroutine()
	start := time.Now()
	round := min(*length/rounds, maxRound)
	for n := 0; n < rounds || time.Since(start) < *length; n++ {
		r.Rounds = append(r.Rounds, soak(t, round, n%2 == 1, *seed+uint64(n)))
		if t.Failed() {
			break
		}
	}
	r.Seconds = time.Since(start).Seconds()
	r.HeapSlope = slope(r.Rounds, func(r Round) int64 { return r.Heap })
	r.RSSSlope = slope(r.Rounds, func(r Round) int64 { return r.RSS })
	r.write(t)
	for i, n := range r.Rounds {
		if n.Goroutines > goroutines+2 {
			t.Errorf("round %d left %d goroutines, there were %d", i+1, n.Goroutines, goroutines)
		}
		if n.Buffers != 0 {
			t.Errorf("round %d left %d buffers in use", i+1, n.Buffers)
		}
		if !n.Impaired && n.Lost > 0 {
			t.Errorf("round %d lost %d frames on a good network", i+1, n.Lost)
		}
		if n.Impaired && n.Faults == 0 && n.Conns > 100 {
			t.Errorf("round %d was to be bad, and no fault happened", i+1)
		}
		if n.Conns == 0 {
			t.Errorf("round %d: no connection", i+1)
		}
	}
	// Pools and caches fill up in the first rounds. Then a leak of 1 MB per hour is
	// too much; in a short run nothing less than 4 MB can be told from noise.
	if len(r.Rounds) >= rounds {
		allowed := max(4<<20, int64(r.Seconds/3600*(1<<20)))
		if grown := r.Rounds[len(r.Rounds)-1].Heap - r.Rounds[1].Heap; grown > allowed {
			t.Errorf("the heap grew by %d bytes since the second round, want at most %d", grown, allowed)
		}
		// What the process holds moves more, by what the kernel takes back when.
		allowed += 16 << 20
		if grown := r.Rounds[len(r.Rounds)-1].RSS - r.Rounds[1].RSS; grown > allowed {
			t.Errorf("the resident memory grew by %d bytes since the second round, want at most %d", grown, allowed)
		}
	}
}

// slope is that of the line that fits the rounds best, the first one left out, in
// units per hour.
func slope(all []Round, value func(Round) int64) float64 {
	if len(all) < 3 {
		return 0
	}
	var at, sx, sy, sxx, sxy, n float64
	for i, r := range all {
		at += r.Seconds / 3600
		if i == 0 {
			continue
		}
		y := float64(value(r))
		n, sx, sy, sxx, sxy = n+1, sx+at, sy+y, sxx+at*at, sxy+at*y
	}
	return (n*sxy - sx*sy) / (n*sxx - sx*sx)
}

func (r *Report) write(t *testing.T) {
	const mb = 1 << 20
	t.Logf("%5s %8s %7s %9s %8s %8s %8s %7s %6s %8s %8s %10s", "round", "network", "s", "conns", "MB", "resent", "faults", "lost", "scrape", "heap MB", "RSS MB", "goroutines")
	for i, n := range r.Rounds {
		network := "good"
		if n.Impaired {
			network = "bad"
		}
		t.Logf("%5d %8s %7.1f %9d %8.1f %8d %8d %7d %6d %8.2f %8.1f %10d", i+1, network, n.Seconds, n.Conns, float64(n.Bytes)/mb,
			n.Retransmits, n.Faults, n.Lost, n.Scrapes, float64(n.Heap)/mb, float64(n.RSS)/mb, n.Goroutines)
	}
	t.Logf("slopes from the second round on: heap %+.2f MB/h, RSS %+.2f MB/h", r.HeapSlope/mb, r.RSSSlope/mb)
	if *out == "" {
		return
	}
	b, err := json.MarshalIndent(r, "", "  ")
	if err == nil {
		err = os.WriteFile(*out, append(b, '\n'), 0o644)
	}
	if err != nil {
		t.Error(err)
	}
}

// soak runs one round.
func soak(t *testing.T, length time.Duration, impaired bool, seed uint64) Round {
	r := Round{Impaired: impaired}
	a, b, err := memory.Pair(memory.Options{Queues: 2})
	if err != nil {
		t.Fatal(err)
	}
	var bad fault.Impairment
	if impaired {
		bad = fault.Impairment{Drop: 0.002, Duplicate: 0.002, Reorder: 0.002, Corrupt: 0.001, Cut: 0.001, Delay: 100 * time.Microsecond}
	}
	wire, err := fault.Wrap(a, fault.Config{Seed: seed, Receive: bad, Transmit: bad})
	if err != nil {
		t.Fatal(err)
	}
	start := func(d link.Device, addr string) *accel.Runtime {
		rt, err := accel.New(accel.Config{
			Link: d, Addrs: []netip.Prefix{netip.MustParsePrefix(addr)}, TCP: accel.TCP{TimeWait: time.Second},
			Fallback: accel.FallbackNever, DebugSocket: "off", Logger: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			t.Fatal(err)
		}
		return rt
	}
	client, server := start(wire, "10.0.0.1/24"), start(b, "10.0.0.2/24")

	began := time.Now()
	end := began.Add(length)
	var wg sync.WaitGroup
	var conns, moved atomic.Uint64
	for i := range workers {
		wg.Go(func() {
			random := rand.New(rand.NewPCG(seed, uint64(i)))
			for time.Now().Before(end) && !t.Failed() {
				n, err := visit(t, client, random)
				moved.Add(n)
				if err == nil {
					conns.Add(1)
				} else if !errors.Is(err, errRestart) {
					t.Errorf("worker %d: %v", i, err)
				}
			}
		})
	}
	wg.Go(func() { r.Restarts = serve(t, server, end) })
	wg.Go(func() {
		pages := metrics.Handler(server)
		for tick := time.NewTicker(min(length/4, time.Second)); time.Now().Before(end); {
			<-tick.C
			w := httptest.NewRecorder()
			pages.ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
			if !bytes.Contains(w.Body.Bytes(), []byte("tpa_tcp_connections")) {
				t.Errorf("a scrape without tpa_tcp_connections: status %d", w.Code)
			}
			r.Scrapes++
		}
	})
	wg.Wait()
	for _, rt := range []*accel.Runtime{client, server} {
		for _, s := range rt.Stats().Shards {
			r.Retransmits += s.TCP.Retransmits
		}
		for _, d := range rt.Status().Drops {
			// What TCP drops of its own, such as segments for connections that are gone,
			// is no loss.
			if !slices.Contains([]string{"transport", "TCP", "accept queue", "limits"}, d.Place) {
				r.Lost += d.Packets
			}
		}
	}
	received, sent := wire.Counters()
	r.Faults = received.Dropped + received.Corrupted + received.Cut + sent.Dropped + sent.Corrupted + sent.Cut
	r.Buffers = buffers(a, b)
	client.Close()
	server.Close()
	r.Seconds, r.Conns, r.Bytes = time.Since(began).Seconds(), conns.Load(), moved.Load()
	r.settle()
	return r
}

// buffers waits until the devices are empty, and returns how many frames are left.
func buffers(devices ...link.Device) (n int) {
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		n = 0
		for _, d := range devices {
			n += d.Stats().BuffersInUse
		}
		if n == 0 {
			break
		}
	}
	return n
}

// settle waits until nothing is on its way out any more, and measures.
func (r *Round) settle() {
	least := runtime.NumGoroutine()
	for i := 0; i < 50; i++ {
		time.Sleep(10 * time.Millisecond)
		least = min(least, runtime.NumGoroutine())
	}
	r.Goroutines = least
	debug.FreeOSMemory()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	r.Heap = int64(m.HeapAlloc)
	b, _ := os.ReadFile("/proc/self/statm")
	if f := strings.Fields(string(b)); len(f) > 1 {
		pages, _ := strconv.ParseInt(f[1], 10, 64)
		r.RSS = pages * int64(os.Getpagesize())
	}
}

// serve echoes until end, and restarts its listener now and then. It returns how
// often.
func serve(t *testing.T, rt *accel.Runtime, end time.Time) (restarts int) {
	lc := accel.ListenConfig{Runtime: rt}
	var wg sync.WaitGroup
	defer wg.Wait()
	for every := max(time.Until(end)/3, 100*time.Millisecond); ; restarts++ {
		ln, err := lc.Listen(t.Context(), "tcp4", ":7")
		if err != nil {
			t.Error(err)
			return restarts
		}
		closed := make(chan struct{})
		time.AfterFunc(min(every, max(time.Until(end), 0)), func() { defer close(closed); ln.Close() })
		for {
			c, err := ln.Accept()
			if err != nil {
				break
			}
			wg.Go(func() {
				defer c.Close()
				c.SetDeadline(time.Now().Add(testTimeout))
				io.Copy(c, c)
			})
		}
		<-closed // the port is free
		if !time.Now().Before(end) {
			return restarts
		}
	}
}

// errRestart says that a connection met a restart of the listener.
var errRestart = errors.New("the listener was restarted")

// visit sends random bytes on a new connection and wants them back, bit by bit.
// It returns how many passed.
func visit(t *testing.T, rt *accel.Runtime, random *rand.Rand) (uint64, error) {
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
	defer cancel()
	c, err := (&accel.Dialer{Runtime: rt}).DialContext(ctx, "tcp", "10.0.0.2:7")
	if err != nil {
		return 0, orRestart(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(testTimeout))
	want := make([]byte, 1+random.IntN(maxBytes>>random.IntN(16)))
	for i := 0; i+8 <= len(want); i += 8 {
		binary.LittleEndian.PutUint64(want[i:], random.Uint64())
	}
	failed := make(chan error, 1)
	go func() {
		_, err := c.Write(want)
		if err == nil {
			err = c.(interface{ CloseWrite() error }).CloseWrite()
		}
		failed <- err
	}()
	got, err := io.ReadAll(c)
	werr := <-failed
	if err = errors.Join(err, werr); err != nil {
		return uint64(len(got)), orRestart(err)
	}
	if !bytes.Equal(got, want) {
		return 0, fmt.Errorf("%d bytes came back that differ from the %d sent", len(got), len(want))
	}
	return uint64(2 * len(want)), nil
}

// orRestart tells the errors that closing a listener causes from others: whoever
// waited for Accept is reset, and whoever comes meanwhile refused.
func orRestart(err error) error {
	if errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.ECONNREFUSED) {
		return errRestart
	}
	return err
}
