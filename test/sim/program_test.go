package sim

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/gotpa/tpa/accel"
	"github.com/gotpa/tpa/link/fault"
)

const (
	steadyPort = "80"
	flakyPort  = "81"
)

// A program is a set of conversations and the listeners that serve them.
type program struct {
	*world
	conversations []*conversation
	byID          map[uint32]*conversation
	serving       sync.WaitGroup
	resets        bool // some conversation may be reset before it is read
}

// converse runs a program drawn from the world's seed.
func converse(w *world) {
	p := &program{world: w, byID: map[uint32]*conversation{}}
	r := w.random
	total := 0
	for _, k := range kinds {
		total += k.weight
	}
	flaky := r.IntN(5) == 0
	for i := range 1 + r.IntN(8) {
		v := &conversation{
			id: uint32(i), client: r.IntN(2), v6: w.setup.v6 && r.IntN(2) == 0,
			begin: time.Duration(r.Int64N(int64(2 * time.Second))),
			flaky: flaky && r.IntN(2) == 0,
		}
		n := r.IntN(total)
		for _, k := range kinds {
			if n -= k.weight; n < 0 {
				v.kind = k
				break
			}
		}
		v.kind.draw(v, r)
		p.resets = p.resets || v.kind.resets || v.flaky
		p.conversations = append(p.conversations, v)
		p.byID[v.id] = v
	}
	p.run(flaky)
}

func (p *program) run(flaky bool) {
	var listeners []net.Listener
	for _, h := range p.hosts {
		if ln := p.listen(h, steadyPort); ln != nil {
			listeners = append(listeners, ln)
		}
	}
	stop := make(chan struct{})
	var background sync.WaitGroup
	if flaky {
		for _, h := range p.hosts {
			seed := p.random.Uint64()
			background.Go(func() { p.flap(h, rand.New(rand.NewPCG(seed, 0)), stop) })
		}
	}
	for range p.setup.mishaps {
		seed := p.random.Uint64()
		background.Go(func() { p.mishap(rand.New(rand.NewPCG(seed, 0)), stop) })
	}

	var clients sync.WaitGroup
	for _, v := range p.conversations {
		clients.Go(func() {
			time.Sleep(v.begin)
			if err := v.talk(p.world); err != nil && !(v.flaky && broken(err)) {
				p.t.Errorf("%v: client at %v: %v", v, time.Since(p.start), err)
			}
		})
	}
	clients.Wait()
	close(stop)
	background.Wait()
	p.serving.Wait()
	for _, ln := range listeners {
		if err := ln.Close(); err != nil {
			p.t.Error(err)
		}
	}
	p.serving.Wait()
	for _, v := range p.conversations {
		if !v.served && !v.flaky && !v.kind.resets {
			p.t.Errorf("%v was never served", v)
		}
	}
}

// listen starts a server.
func (p *program) listen(h *host, port string) net.Listener {
	lc := accel.ListenConfig{Runtime: h.rt}
	ln, err := lc.Listen(context.Background(), "tcp", ":"+port)
	if err != nil {
		p.t.Errorf("listening: %v", err)
		return nil
	}
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				if !errors.Is(err, net.ErrClosed) {
					p.t.Errorf("accepting: %v", err)
				}
				return
			}
			p.serving.Go(func() { p.serve(c.(conn)) })
		}
	}()
	return ln
}

// serve is the server's side of a conversation.
func (p *program) serve(c conn) {
	var id [4]byte
	if _, err := io.ReadFull(c, id[:]); err != nil {
		if !p.resets || !broken(err) {
			p.t.Errorf("a server at %v could not read what is wanted: %v", time.Since(p.start), err)
		}
		c.Close()
		return
	}
	v := p.byID[binary.BigEndian.Uint32(id[:])]
	if v == nil {
		p.t.Errorf("a client wants %x", id)
		c.Close()
		return
	}
	v.served = true
	if err := v.kind.server(v, c); err != nil {
		c.Close()
		if !(v.flaky && broken(err)) {
			p.t.Errorf("%v: server at %v: %v", v, time.Since(p.start), err)
		}
	}
}

// flap opens and closes a listener until stop.
func (p *program) flap(h *host, r *rand.Rand, stop chan struct{}) {
	for {
		ln := p.listen(h, flakyPort)
		if ln == nil {
			return
		}
		done := pause(r, 3*time.Second, stop)
		if err := ln.Close(); err != nil {
			p.t.Errorf("closing a listener: %v", err)
		}
		if done || pause(r, time.Second, stop) {
			return
		}
	}
}

// mishap lets one thing go wrong for a while, at some time in the first ten
// seconds.
func (p *program) mishap(r *rand.Rand, stop chan struct{}) {
	h := p.hosts[r.IntN(2)]
	queue := r.IntN(h.nic.Info().Queues)
	kind := r.IntN(4)
	if pause(r, 10*time.Second, stop) {
		return
	}
	switch kind {
	case 0:
		p.wire.gaps = true
		h.nic.SetLink(false)
		pause(r, 5*time.Second, stop)
		h.nic.SetLink(true)
	case 1:
		h.nic.StallReceive(queue, true)
		pause(r, time.Second, stop)
		h.nic.StallReceive(queue, false)
	case 2:
		h.nic.StallTransmit(queue, true)
		pause(r, time.Second, stop)
		h.nic.StallTransmit(queue, false)
	case 3:
		rss, err := h.nic.RSS()
		if err != nil {
			p.t.Error(err)
			return
		}
		r.Shuffle(len(rss.Table), func(i, j int) { rss.Table[i], rss.Table[j] = rss.Table[j], rss.Table[i] })
		if err := h.nic.SetRSS(rss); err != nil {
			p.t.Error(err)
		}
	}
}

// pause waits up to limit and tells whether stop ended it.
func pause(r *rand.Rand, limit time.Duration, stop chan struct{}) bool {
	timer := time.NewTimer(time.Duration(r.Int64N(int64(limit))))
	defer timer.Stop()
	select {
	case <-timer.C:
		return false
	case <-stop:
		return true
	}
}

// draw makes a random set-up.
func draw(seed uint64) setup {
	r := rand.New(seeded(seed, "setup"))
	s := setup{
		mtu: []int{576, 1280, 1500, 1500, 9000}[r.IntN(5)],
		tcp: accel.TCP{NoSACK: r.IntN(5) == 0, NoCoalescing: r.IntN(3) == 0, TimeWait: time.Second},
	}
	s.v6 = s.mtu >= 1280
	// 0 is the default, of megabytes.
	s.tcp.ReceiveBuffer = []int{0, 8 << 10, 32 << 10, 128 << 10, 512 << 10}[r.IntN(5)]
	s.tcp.SendBuffer = []int{0, 8 << 10, 32 << 10, 128 << 10, 512 << 10}[r.IntN(5)]
	s.nic.RxChecksum = r.IntN(2) == 0
	if r.IntN(2) == 0 {
		s.nic.TxIPv4Checksum, s.nic.TxTCPChecksum = true, true
		if r.IntN(2) == 0 {
			s.nic.TSO = 1 << 16
		}
	}
	if r.IntN(4) > 0 {
		s.there, s.back = impair(r), impair(r)
	}
	s.early = r.IntN(5) == 0
	if r.IntN(3) == 0 {
		s.mishaps = 1 + r.IntN(3)
	}
	s.queues = [2]int{1, 1}
	if r.IntN(2) == 0 {
		s.queues = [2]int{1 + r.IntN(5), 1 + r.IntN(5)}
	}
	return s
}

// impair draws how bad a network is.
func impair(r *rand.Rand) (i fault.Impairment) {
	some := func(p *float64, most float64) {
		if r.IntN(3) == 0 {
			*p = r.Float64() * most
		}
	}
	some(&i.Drop, 0.05)
	if r.IntN(4) == 0 {
		i.DropBurst = 1 + 4*r.Float64()
	}
	some(&i.Duplicate, 0.05)
	some(&i.Reorder, 0.05)
	some(&i.Corrupt, 0.02)
	some(&i.Cut, 0.02)
	if r.IntN(2) == 0 {
		i.Delay = time.Duration(r.Int64N(int64(50 * time.Millisecond)))
		i.Jitter = time.Duration(r.Int64N(int64(10 * time.Millisecond)))
	}
	if r.IntN(4) == 0 {
		i.Rate = 1_000_000 + r.Int64N(1_000_000_000)
		i.Backlog = 20 + r.IntN(1000)
	}
	return i
}

// seeds are those to run: the one that SEED names, or as many as SEEDS says.
func seeds(t *testing.T, otherwise uint64) (first, count uint64) {
	t.Helper()
	number := func(name string) (uint64, bool) {
		v := os.Getenv(name)
		if v == "" {
			return 0, false
		}
		n, err := strconv.ParseUint(v, 10, 64)
		if err != nil {
			t.Fatalf("%s=%q: want a number", name, v)
		}
		return n, true
	}
	if seed, ok := number("SEED"); ok {
		return seed, 1
	}
	if n, ok := number("SEEDS"); ok {
		return 0, n
	}
	return 0, otherwise
}

func TestPrograms(t *testing.T) {
	first, count := seeds(t, 1000)
	share(t, first, count, func(seed uint64) outcome {
		return run(t, seed, draw(seed), converse)
	})
}

// TestSameSeedSameTrace runs each seed twice and compares every frame and its
// time.
func TestSameSeedSameTrace(t *testing.T) {
	first, count := seeds(t, 300)
	share(t, first, count, func(seed uint64) outcome {
		a, b := run(t, seed, draw(seed), converse), run(t, seed, draw(seed), converse)
		if a != b {
			t.Errorf("seed %d: first %+v, then %+v", seed, a, b)
		}
		return a
	})
}
