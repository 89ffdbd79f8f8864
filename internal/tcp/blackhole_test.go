package tcp

import (
	"slices"
	"testing"
	"time"
)

// path is a peer behind a path that drops segments of more than most bytes, TCP header
// included, without saying so.
type path struct {
	h       *host
	most    int
	base    uint32
	have    []bool // of the stream
	next    int
	dropped int
	longest int
}

// pass takes what was sent and acknowledges it.
func (p *path) pass() {
	for _, s := range p.h.take() {
		at := int(s.seq - p.base)
		if len(s.payload) == 0 {
			continue
		}
		if size := 20 + len(s.options) + len(s.payload); size > p.most {
			p.dropped++
			continue
		} else if size > p.longest {
			p.longest = size
		}
		for len(p.have) < at+len(s.payload) {
			p.have = append(p.have, false)
		}
		for i := range s.payload {
			p.have[at+i] = true
		}
		if n := slices.Index(p.have[p.next:], false); n >= 0 {
			p.next += n
		} else {
			p.next = len(p.have)
		}
		o := out{ack: p.base + uint32(p.next)}
		if at > p.next {
			first, end := at, at+len(s.payload)
			for p.have[first-1] {
				first--
			}
			for end < len(p.have) && p.have[end] {
				end++
			}
			o.options = blocks(p.base+uint32(first), p.base+uint32(end))
		}
		p.h.receive(o)
	}
}

// run writes n bytes, and returns how long they took.
func (p *path) run(n int, limit time.Duration) time.Duration {
	p.h.t.Helper()
	const step = 5 * time.Millisecond
	written, done := 0, p.next+n
	for took := time.Duration(0); took < limit; took += step {
		if written < n {
			written += p.h.write(min(n-written, 64<<10))
		}
		p.h.advance(step)
		p.pass()
		if p.next == done {
			p.h.acked = p.base + uint32(p.next)
			return took
		}
	}
	p.h.t.Fatalf("%d of %d bytes arrived in %v", p.next-done+n, n, limit)
	return 0
}

func TestBlackHole(t *testing.T) {
	for _, test := range []struct {
		name  string
		most  int
		took  time.Duration
		least int // what the search must come to, 0 for no search
	}{
		{"1300 bytes", 1280, 3 * time.Second, 1280 - closeEnough},
		{"1200 bytes", 1180, 3 * time.Second, 1180},
		{"600 bytes", 580, 10 * time.Second, 580 - closeEnough},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := newHost(t, false)
			h.accept(shape{sack: true, shift: 7})
			p := &path{h: h, most: test.most, base: h.ep.unacknowledged}
			p.run(300, time.Second) // small ones get through
			if took := p.run(50_000, time.Minute); took > test.took {
				t.Errorf("50 KB took %v, want at most %v", took, test.took)
			}
			for range 8 {
				h.advance(time.Duration(probeEvery))
				p.run(30_000, 5*time.Second)
			}
			if p.longest < test.least {
				t.Errorf("the longest segment that got through had %d bytes, want about %d", p.longest, test.most)
			}
			dropped := p.dropped
			for range 3 {
				h.advance(time.Duration(probeEvery))
				p.run(30_000, time.Second)
			}
			if p.dropped != dropped {
				t.Errorf("%d segments more were too large: the search does not end", p.dropped-dropped)
			}
		})
	}
	t.Run("a path that was dead for a while", func(t *testing.T) {
		h := newHost(t, false)
		h.accept(shape{sack: true, shift: 7})
		p := &path{h: h, most: 10, base: h.ep.unacknowledged}
		h.write(10_000)
		h.advance(4 * time.Second)
		p.pass()
		p.most = 1480
		p.next = 0
		h.advance(10 * time.Second)
		p.pass()
		for range 5 {
			h.advance(time.Millisecond)
			p.pass()
		}
		h.advance(time.Duration(probeEvery))
		p.run(30_000, 5*time.Second)
		p.run(30_000, 5*time.Second)
		if p.longest != 1480 || h.ep.hole != nil {
			t.Errorf("the longest segment has %d bytes, want 1480 again", p.longest)
		}
	})
}
