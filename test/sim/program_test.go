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
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/gotpa/tpa/accel"
	"github.com/gotpa/tpa/internal/testnet"
	"github.com/gotpa/tpa/test/virtualtime"
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
	// broken is set once connections lose their peers: they may end with an error,
	// but not by a stream that ends early.
	broken    atomic.Bool
	listeners []net.Listener // of steadyPort
	sizes     *rand.Rand     // for resize, nil for none
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
	if w.setup.resized {
		p.sizes = rand.New(seeded(w.seed, "sizes"))
	}
	p.run(flaky)
}

// tolerates tells whether an error is one that a conversation may end with.
func (p *program) tolerates(v *conversation, err error) bool {
	return v.flaky && lost(err) ||
		p.broken.Load() && (lost(err) || errors.Is(err, net.ErrClosed) || errors.Is(err, syscall.ECONNABORTED))
}

func (p *program) run(flaky bool) {
	for _, h := range p.hosts {
		if ln := p.listen(h, steadyPort); ln != nil {
			p.listeners = append(p.listeners, ln)
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
	for range p.setup.faultEvents {
		seed := p.random.Uint64()
		background.Go(func() { p.disturb(rand.New(rand.NewPCG(seed, 0)), stop) })
	}
	if p.setup.fieldEvents > 0 {
		r := rand.New(seeded(p.seed, "field events"))
		background.Go(func() {
			for range p.setup.fieldEvents {
				p.change(r, stop)
			}
		})
	}

	var clients sync.WaitGroup
	for _, v := range p.conversations {
		v.program = p
		clients.Go(func() {
			time.Sleep(v.begin)
			if err := v.talk(); err != nil && !p.tolerates(v, err) {
				p.t.Errorf("%v: client at %v: %v", v, time.Since(p.start), err)
			}
		})
	}
	clients.Wait()
	close(stop)
	background.Wait()
	p.serving.Wait()
	for _, ln := range p.listeners {
		if err := ln.Close(); err != nil && !p.broken.Load() {
			p.t.Error(err)
		}
	}
	p.serving.Wait()
	for _, v := range p.conversations {
		if !v.served && !v.flaky && !v.kind.resets && !p.broken.Load() {
			p.t.Errorf("%v was never served", v)
		}
	}
}

// listen starts a server.
func (p *program) listen(h *host, port string) net.Listener {
	lc := accel.ListenConfig{Runtime: h.now().rt}
	ln, err := lc.Listen(context.Background(), "tcp", ":"+port)
	if err != nil {
		if !p.broken.Load() {
			p.t.Errorf("listening: %v", err)
		}
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
		if !(p.resets && lost(err) || p.broken.Load()) {
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
	defer v.resize(c)()
	if err := v.kind.server(v, c); err != nil {
		c.Close()
		if !p.tolerates(v, err) {
			p.t.Errorf("%v: server at %v: %v", v, time.Since(p.start), err)
		}
	}
}

// flap opens and closes a listener until stop.
func (p *program) flap(h *host, r *rand.Rand, stop chan struct{}) {
	for {
		ln := p.listen(h, flakyPort)
		done := pause(r, 3*time.Second, stop)
		if ln == nil {
			return
		}
		if err := ln.Close(); err != nil && !p.broken.Load() {
			p.t.Errorf("closing a listener: %v", err)
		}
		if done || pause(r, time.Second, stop) {
			return
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

// seeds are those to run: the one that SEED names, as many as the variable says
// from FIRST on, or as many as the test wants.
func seeds(t *testing.T, variable string, otherwise uint64) []uint64 {
	t.Helper()
	if seed, ok := number(t, "SEED"); ok {
		return []uint64{seed}
	}
	count, ok := number(t, variable)
	if !ok {
		count = otherwise
	}
	first, _ := number(t, "FIRST")
	all := make([]uint64, count)
	for i := range all {
		all[i] = first + uint64(i)
	}
	return all
}

// number reads a variable of the environment.
func number(t *testing.T, variable string) (n uint64, ok bool) {
	t.Helper()
	v := os.Getenv(variable)
	if v == "" {
		return 0, false
	}
	n, err := strconv.ParseUint(v, 10, 64)
	if err != nil {
		t.Fatalf("%s=%q: want a number", variable, v)
	}
	return n, true
}

func TestPrograms(t *testing.T) {
	share(t, seeds(t, "SEEDS", 1000), func(seed uint64) outcome { return run(t, seed, draw(seed), converse) })
}

// TestSameSeedSameTrace runs each seed twice and compares every frame and its
// time.
func TestSameSeedSameTrace(t *testing.T) {
	testnet.Need(t, virtualtime.Repeatable)
	share(t, seeds(t, "PAIRS", 300), func(seed uint64) outcome {
		a, b := run(t, seed, draw(seed), converse), run(t, seed, draw(seed), converse)
		if a != b {
			t.Errorf("seed %d: first %+v, then %+v", seed, a, b)
		}
		return a
	})
}
