package fault

import (
	"sync/atomic"
	"time"

	"github.com/gotpa/tpa/internal/offload"
	"github.com/gotpa/tpa/link"
)

const ethernetLen = 14

// burstGap is the pause after which a run of losses is over: without it, a run of
// eight would take all of a connection's retransmissions, which come ever more
// rarely, for minutes.
const burstGap = 100 * time.Millisecond

// A line is one direction of one queue: frames go in, meet their fate, and come
// out when they are due. It belongs to one goroutine at a time; the counters and
// the impairment are everyone's.
type line struct {
	impairment *atomic.Pointer[Impairment]
	counters   *counters
	fates      fates

	waiting schedule
	size    atomic.Int64 // length of waiting
	entered time.Time    // when the last frame came
	last    time.Time    // when the last frame that kept its place is due
	free    time.Time    // when the capacity is free again
	spare   [][]byte     // buffers for reuse
}

// idle tells whether frames may pass by the line untouched.
func (l *line) idle() bool { return len(l.waiting.frames) == 0 && l.impairment.Load().none() }

// enter takes a copy of a frame, unless it is lost. status is what the device
// said of its checksums.
func (l *line) enter(frame []byte, status link.ChecksumStatus, now time.Time) {
	i := l.impairment.Load()
	f := l.fates.next(i, now.Sub(l.entered) > burstGap)
	l.entered = now
	c := l.counters
	c.frames.Add(1)
	if f.drop {
		c.dropped.Add(1)
		return
	}
	if len(l.waiting.frames) >= i.Backlog {
		c.overflowed.Add(1)
		return
	}
	b := append(l.buffer(), frame...)
	if f.corrupt {
		c.corrupted.Add(1)
		bit := f.at % uint64(len(b)*8)
		b[bit/8] ^= 0x80 >> (bit % 8)
	}
	if f.cut && len(b) > ethernetLen {
		c.cut.Add(1)
		b = b[:ethernetLen+int(f.at>>32)%(len(b)-ethernetLen)]
	}
	if (f.corrupt || f.cut) && status != link.Unchecked {
		status = offload.Verify(b)
	}

	due := now
	if i.Rate > 0 {
		if l.free.After(due) {
			due = l.free
		}
		due = due.Add(transmission(len(b), i.Rate))
		l.free = due
	}
	due = due.Add(i.Delay + f.jitter)
	if l.last.After(due) {
		due = l.last
	}
	if f.reorder {
		c.reordered.Add(1)
		due = due.Add(i.ReorderDelay)
	} else {
		l.last = due
	}
	if due.After(now) {
		c.delayed.Add(1)
	}
	l.waiting.push(waiting{due: due, data: b, status: status})
	if f.duplicate {
		c.duplicated.Add(1)
		l.waiting.push(waiting{due: due, data: append(l.buffer(), b...), status: status})
	}
	l.size.Store(int64(len(l.waiting.frames)))
}

// transmission is how long a frame occupies a link of that many bits per second.
func transmission(bytes int, rate int64) time.Duration {
	return time.Duration(float64(bytes) * 8 / float64(rate) * float64(time.Second))
}

// due returns the next frame that is due, without taking it out.
func (l *line) due(now time.Time) (waiting, bool) {
	if len(l.waiting.frames) == 0 || l.waiting.frames[0].due.After(now) {
		return waiting{}, false
	}
	return l.waiting.frames[0], true
}

// next tells when the next frame is due.
func (l *line) next() (time.Time, bool) {
	if len(l.waiting.frames) == 0 {
		return time.Time{}, false
	}
	return l.waiting.frames[0].due, true
}

// leave takes out the frame that due returned. Its buffer is the caller's until
// recycle.
func (l *line) leave() {
	l.waiting.pop()
	l.size.Store(int64(len(l.waiting.frames)))
}

func (l *line) buffer() []byte {
	if n := len(l.spare); n > 0 {
		b := l.spare[n-1]
		l.spare = l.spare[:n-1]
		return b[:0]
	}
	return nil
}

// maxSpare bounds the memory kept after a long queue has drained.
const maxSpare = 1024

func (l *line) recycle(b []byte) {
	if len(l.spare) < maxSpare {
		l.spare = append(l.spare, b)
	}
}

// discard throws away all that waits and returns how many frames that was.
func (l *line) discard() int {
	n := len(l.waiting.frames)
	l.waiting = schedule{}
	l.spare = nil
	l.size.Store(0)
	return n
}
