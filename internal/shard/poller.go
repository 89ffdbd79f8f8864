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
	"github.com/gotpa/tpa/link"
)

const (
	defaultSpin     = time.Millisecond
	defaultMaxSleep = time.Millisecond
	// deepSleep takes the place of the default MaxSleep when no frame has come for
	// longIdle: an idle program costs a quarter of it then.
	deepSleep, longIdle = 4 * time.Millisecond, time.Second
	// defaultLongHandler is more than a garbage collection or another program on the
	// processor takes, most of the time.
	defaultLongHandler = 10 * time.Millisecond
	// noSpin is a Polling.Spin so short that a poller sleeps at once.
	noSpin = time.Nanosecond
	// firstSleep is the first and shortest sleep of an idle poller. Timers are not
	// more exact than that.
	firstSleep = 20 * time.Microsecond
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
		if err := pin(s.cpu); err != nil {
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
	idle := idler{shard: s, waiter: waiter}
	turns := newTurns(s.clock)
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
			idle.pause(now)
			continue
		}
		idle.reset(now)
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
		turns.give(now)
		s.engine.FinishPoll()
		s.link.FinishPoll(n + m)
		s.engine.Resume()
		if n > 0 {
			c.bursts[link.BurstBucket(n)].Add(1)
		}
	}
}

// idler decides what a poller does when it found nothing.
type idler struct {
	shard   *Shard
	waiter  link.Waiter
	spinner spinner
	// since is when the queue was first found empty, in nanoseconds as the clock
	// has them, 0 while there is traffic.
	since int64
	sleep time.Duration
}

// reset ends the pause: frames came.
func (i *idler) reset(now int64) {
	if i.since != 0 {
		i.spinner.ended(time.Duration(now - i.since))
		i.since, i.sleep = 0, 0
	}
}

// pause yields while the idle time is short, then sleeps: until a frame comes
// where the queue can tell, else for times that double up to MaxSleep.
func (i *idler) pause(now int64) {
	s := i.shard
	if i.since == 0 {
		i.since = now
	}
	// In virtual time the clock stands still for as long as anybody runs.
	polling := s.polling.Load()
	if i.spinner.most != polling.Spin {
		i.spinner = spinner{most: polling.Spin, fixed: i.waiter == nil} // it was changed
	}
	if spent := time.Duration(now - i.since); polling.Spin != noSpin && i.spinner.spin(spent) {
		gsync.Goyield()
		if spent >= yieldAfter {
			i.yieldThread()
		}
		return
	}
	s.link.SetAsleep(true)
	s.parked.Store(true)
	s.clock.Stop()
	s.counters.sleeps.Add(1)
	switch {
	case s.closing.Load(), s.handlers.Waiting(), s.handover != nil && s.handover.Waiting():
	case i.waiter != nil:
		// Forever, but for Wake and frames, unless frames wait for the device.
		timeout := time.Duration(-1)
		if s.link.Pending() || s.engine.Stalled() {
			timeout = polling.MaxSleep
		}
		i.waiter.Wait(timeout)
	default:
		i.deepen(now, polling.MaxSleep)
		select {
		case <-s.wakeup:
		case <-time.After(i.sleep):
		}
	}
	s.clock.Refresh()
	s.link.SetAsleep(false)
	s.parked.Store(false)
}

// yieldThread lets other threads have the processor, and finds out whether they
// wanted it.
func (i *idler) yieldThread() {
	c := i.shard.clock
	before := c.Refresh()
	yieldThread()
	if time.Duration(c.Refresh()-before) >= disturbance {
		i.spinner.disturbed()
	}
}

// deepen chooses the next sleep of a device that cannot wake its poller, which is
// most at most, or more where that is the default.
func (i *idler) deepen(now int64, most time.Duration) {
	if i.shard.deepens.Load() && time.Duration(now-i.since) > longIdle {
		most = deepSleep
	}
	i.sleep = min(max(2*i.sleep, firstSleep), most)
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
