package sim

import (
	"math/rand/v2"
	"time"
)

// fieldEvents are what middleboxes and hosts do in the middle of connections.
var fieldEvents = []struct {
	name string
	run  func(p *program, r *rand.Rand, stop chan struct{})
}{
	{"another route", func(p *program, r *rand.Rand, _ chan struct{}) {
		p.box.paths[r.IntN(2)].narrow(r, &p.setup)
	}},
	{"options vanish", func(p *program, r *rand.Rand, _ chan struct{}) {
		p.box.paths[r.IntN(2)].drop(r, &p.setup)
	}},
	{"windows shrink", func(p *program, r *rand.Rand, stop chan struct{}) {
		path := &p.box.paths[r.IntN(2)]
		for range 1 + r.IntN(10) {
			path.withheld = []float64{0, r.Float64(), 1}[r.IntN(3)]
			if pause(r, time.Second, stop) {
				break
			}
		}
		path.withheld = 0
	}},
	{"NAT rebinds", func(p *program, _ *rand.Rand, _ chan struct{}) {
		p.broken.Store(true)
		p.wire.apart = true
		p.box.rebind()
	}},
	{"host starts again", func(p *program, r *rand.Rand, stop chan struct{}) {
		p.broken.Store(true)
		p.wire.gaps = true
		i := r.IntN(2)
		h := p.hosts[i].now()
		h.nic.SetLink(false) // what it would say on its way down
		h.rt.Close()
		pause(r, 3*time.Second, stop)
		p.boot(i)
		p.plug(i, p.hosts[i].now().nic)
		if ln := p.listen(p.hosts[i], steadyPort); ln != nil {
			p.listeners = append(p.listeners, ln)
		}
	}},
}

// change lets one of the field's events happen at some time in the first ten
// seconds.
func (p *program) change(r *rand.Rand, stop chan struct{}) {
	e := fieldEvents[r.IntN(len(fieldEvents))]
	if !pause(r, 10*time.Second, stop) {
		p.t.Logf("%v: %s", time.Since(p.start), e.name)
		e.run(p, r, stop)
	}
}

// resize sets the buffers of a connection to other sizes now and then, if the
// set-up wants that, until stop is called.
func (v *conversation) resize(c conn) (stop func()) {
	if v.sizes == nil {
		return func() {}
	}
	r, done := rand.New(rand.NewPCG(v.sizes.Uint64(), 0)), make(chan struct{})
	go func() {
		for !pause(r, 300*time.Millisecond, done) {
			n := 1 << (10 + r.IntN(12))
			if r.IntN(2) == 0 {
				_ = c.SetReadBuffer(n) // the connection may be closed
			} else {
				_ = c.SetWriteBuffer(n)
			}
		}
	}()
	return func() { close(done) }
}
