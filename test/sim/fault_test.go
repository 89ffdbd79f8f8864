package sim

import (
	"math/rand/v2"
	"time"

	"github.com/gotpa/tpa/accel"
	"github.com/gotpa/tpa/link/fault"
	"github.com/gotpa/tpa/test/virtualtime"
)

// A faultEvent is one thing that goes wrong for a while, or until stop.
type faultEvent struct {
	name string
	run  func(p *program, h hardware, r *rand.Rand, stop chan struct{})
}

var faultEvents = []faultEvent{
	{"link down", func(p *program, h hardware, r *rand.Rand, stop chan struct{}) {
		p.wire.gaps = true
		h.nic.SetLink(false)
		pause(r, 5*time.Second, stop)
		h.nic.SetLink(true)
	}},
	{"receive stalls", func(_ *program, h hardware, r *rand.Rand, stop chan struct{}) {
		queue := r.IntN(h.nic.Info().Queues)
		h.nic.StallReceive(queue, true)
		pause(r, time.Second, stop)
		h.nic.StallReceive(queue, false)
	}},
	{"transmit stalls", func(_ *program, h hardware, r *rand.Rand, stop chan struct{}) {
		queue := r.IntN(h.nic.Info().Queues)
		h.nic.StallTransmit(queue, true)
		pause(r, time.Second, stop)
		h.nic.StallTransmit(queue, false)
	}},
	{"card freezes", func(_ *program, h hardware, r *rand.Rand, stop chan struct{}) {
		stall := func(stalled bool) {
			for queue := range h.nic.Info().Queues {
				h.nic.StallReceive(queue, stalled)
				h.nic.StallTransmit(queue, stalled)
			}
		}
		stall(true)
		pause(r, 10*time.Second, stop)
		stall(false)
	}},
	{"other RETA", func(p *program, h hardware, r *rand.Rand, _ chan struct{}) {
		rss, err := h.nic.RSS()
		if err != nil {
			p.t.Error(err)
			return
		}
		r.Shuffle(len(rss.Table), func(i, j int) { rss.Table[i], rss.Table[j] = rss.Table[j], rss.Table[i] })
		if err := h.nic.SetRSS(rss); err != nil {
			p.t.Error(err)
		}
	}},
	{"other network", func(p *program, h hardware, r *rand.Rand, stop chan struct{}) {
		if p.setup.early {
			return // the wire was told what to expect
		}
		before := p.setup.back
		if h.nic == p.hosts[1].now().nic {
			before = p.setup.there
		}
		worse := impair(r)
		if p.setup.tcp.ReceiveBuffer != 0 && p.setup.engines != [2]accel.Engine{accel.EngineTPA, accel.EngineTPA} {
			worse.Reorder = 0 // see draw
		}
		for _, i := range []fault.Impairment{worse, before} {
			if err := h.device.SetReceive(i); err != nil {
				p.t.Error(err)
			}
			pause(r, 5*time.Second, stop)
		}
	}},
	{"clock is set", func(_ *program, _ hardware, r *rand.Rand, _ chan struct{}) {
		limit := []time.Duration{time.Millisecond, time.Second, time.Hour, 365 * 24 * time.Hour}[r.IntN(4)]
		virtualtime.Step(time.Duration(r.Int64N(int64(2*limit))) - limit)
	}},
	{"machine sleeps", func(p *program, _ hardware, r *rand.Rand, _ chan struct{}) {
		d := time.Duration(r.Int64N(int64([]time.Duration{10 * time.Millisecond, time.Second, 30 * time.Second}[r.IntN(3)])))
		p.slept += d
		virtualtime.Suspend(d)
	}},
}

// disturb lets one fault event happen at some time in the first ten seconds.
func (p *program) disturb(r *rand.Rand, stop chan struct{}) {
	h, e := p.hosts[r.IntN(2)], faultEvents[r.IntN(len(faultEvents))]
	if !pause(r, 10*time.Second, stop) {
		e.run(p, h.now(), r, stop)
	}
}
