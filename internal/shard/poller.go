package shard

import (
	"errors"
	"net"
	"runtime"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/goid"
	gsync "gvisor.dev/gvisor/pkg/sync"

	"github.com/gotpa/tpa/internal/counter"
	"github.com/gotpa/tpa/internal/processor"
	"github.com/gotpa/tpa/link"
)

// PollerStats tell what the poller did with its time.
type PollerStats struct {
	// Polls counts looks at the queue, Empty those that found nothing.
	Polls, Empty uint64
	// Sleeps counts pauses of an idle poller.
	Sleeps uint64
	// Busy is the time spent on frames, Idle the rest since the poller started.
	Busy, Idle time.Duration
	// Bursts counts receive bursts by size; see link.BurstBucket.
	Bursts [link.BurstBuckets]uint64
}

// pollerCounters are written by the poller alone and read by anyone.
type pollerCounters struct {
	polls, empty, sleeps, busy counter.Counter
	bursts                     [link.BurstBuckets]counter.Counter
	started                    atomic.Int64
	// idle is the greatest Idle that pollerStats returned, in nanoseconds.
	idle atomic.Int64
}

// run polls until the shard is closed or its queue is broken.
func (s *Shard) run() {
	defer s.panicked()
	s.handlers.SetOwner(goid.Get())
	s.poll()
	// Not deferred: a poller that panics may hold the transmit lock, and the
	// program would wait for it instead of dying.
	s.link.SetAsleep(true) // whoever still sends has to flush
	s.clock.Stop()         // and time goes on
	s.ended.Store(true)
	s.parked.Store(true)
	close(s.done)
	// Handlers wait here, maybe on this very thread, to see their connections end.
	s.handlers.End(func() { <-s.wakeup })
}

// panicked notes a panic of the poller with the flight recorder, and lets it take
// its course.
func (s *Shard) panicked() {
	if s.recorder == nil {
		return
	}
	if v := recover(); v != nil {
		s.recorder.Panicked(s.index, v)
		panic(v)
	}
}

// poll is the poller: it takes bursts from the queue, hands the frames on, lets
// the goroutines that they woke run, and flushes what those sent. It returns
// when the shard is closed or its queue is broken.
func (s *Shard) poll() {
	if s.cpu >= 0 {
		runtime.LockOSThread()
		if err := processor.Pin(s.cpu); err != nil {
			s.log.Warn("poller stays unpinned", "queue", s.index, "cpu", s.cpu, "err", err)
		}
		// Coroutines belong to the thread of the poller that made them, if it is locked.
		// The thread is not unlocked: it ends with the poller, and its affinity too.
	}
	frames := make([]link.Frame, link.MaxBurst)
	var handed []link.Frame
	if s.handover != nil {
		handed = make([]link.Frame, link.MaxBurst)
	}
	waiter, _ := s.queue.(link.Waiter)
	idle, turns := processor.NewIdler(s.clock, waiter != nil), processor.NewTurns(s.clock)
	c := &s.counters
	var now int64
	busy := false // the last poll found frames
	for !s.closing.Load() {
		n, err := s.queue.Receive(frames)
		if err != nil {
			if !errors.Is(err, net.ErrClosed) {
				s.broken(err)
			}
			return
		}
		last := now
		if now = s.clock.Refresh(); busy {
			c.busy.Add(uint64(now - last))
		}
		c.polls.Add(1)
		m := 0
		if s.handover != nil {
			m = s.handover.Receive(handed)
		}
		if busy = n+m > 0 || s.handlers.Waiting(); !busy {
			c.empty.Add(1)
			s.link.Kick()
			s.engine.Resume()
			if p := s.polling.Load(); !idle.Spin(now, p) {
				s.sleep(waiter, &idle, now, p)
			}
			continue
		}
		idle.Reset(now)
		fast := s.engine.Receive(frames[:n])
		if s.handover != nil {
			if m > 0 {
				fast += s.engine.Receive(handed[:m])
			}
			s.handover.Flush()
		}
		s.fast.Add(uint64(fast))
		s.handlers.Run()
		// So that the answers of the readers that were woken leave with this flush.
		gsync.Goyield()
		turns.Give(now)
		s.engine.FinishPoll()
		s.link.FinishPoll(n + m)
		s.engine.Resume()
		if n > 0 {
			c.bursts[link.BurstBucket(n)].Add(1)
		}
	}
}

// sleep has the poller sleep: until a frame comes where the queue can tell, else for
// as long as idle says.
func (s *Shard) sleep(waiter link.Waiter, idle *processor.Idler, now int64, p *processor.Policy) {
	s.link.SetAsleep(true)
	s.parked.Store(true)
	s.clock.Stop()
	s.counters.sleeps.Add(1)
	switch {
	case s.closing.Load(), s.handlers.Waiting(), s.handover != nil && s.handover.Waiting():
	case waiter != nil:
		// Forever, but for Wake and frames, unless frames wait for the device.
		timeout := time.Duration(-1)
		if s.link.Pending() || s.engine.Stalled() {
			timeout = p.MaxSleep
		}
		waiter.Wait(timeout)
	default:
		select {
		case <-s.wakeup:
		case <-time.After(idle.Sleep(now, p)):
		}
	}
	s.clock.Refresh()
	s.link.SetAsleep(false)
	s.parked.Store(false)
}

// pollerStats reads the counters.
func (s *Shard) pollerStats() PollerStats {
	c := &s.counters
	p := PollerStats{
		Polls: c.polls.Load(), Empty: c.empty.Load(), Sleeps: c.sleeps.Load(),
		Busy: time.Duration(c.busy.Load()),
	}
	if started := c.started.Load(); started != 0 {
		// The burst in progress is not in Busy yet, and must not become idle time
		// that is taken back later.
		idle := int64(time.Since(time.Unix(0, started)) - p.Busy)
		last := c.idle.Load()
		for idle > last && !c.idle.CompareAndSwap(last, idle) {
			last = c.idle.Load()
		}
		p.Idle = time.Duration(max(idle, last))
	}
	for i := range p.Bursts {
		p.Bursts[i] = c.bursts[i].Load()
	}
	return p
}
