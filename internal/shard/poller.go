package shard

import (
	"errors"
	"log/slog"
	"net"
	"runtime"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/goid"
	gsync "gvisor.dev/gvisor/pkg/sync"

	"github.com/gotpa/tpa/internal/clock"
	"github.com/gotpa/tpa/internal/counter"
	"github.com/gotpa/tpa/internal/handover"
	"github.com/gotpa/tpa/internal/netif"
	"github.com/gotpa/tpa/internal/processor"
	"github.com/gotpa/tpa/internal/recorder"
	"github.com/gotpa/tpa/internal/transport"
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
	// idle is the greatest Idle that stats returned, in nanoseconds.
	idle atomic.Int64
}

// A poller is the goroutine that drives a shard.
type poller struct {
	index, cpu int // the shard's number; the CPU that it is pinned to, -1 for none
	queue      link.Queue
	link       *netif.Endpoint
	engine     Engine
	clock      *clock.Clock
	log        *slog.Logger
	// onBreak is told when the queue fails for good; nil: nobody is.
	onBreak func(error)
	// recorder is told of a panic, nil for none.
	recorder *recorder.Recorder
	// handover brings what arrived on other queues, nil where the shard is alone.
	handover *handover.Member
	// handlers are what the poller runs beside TCP.
	handlers *transport.RunQueue
	stuck    stuckWatch

	polling atomic.Pointer[processor.Policy]
	// parked is set while the poller sleeps. wakeup ends the sleep of one whose
	// queue cannot.
	parked atomic.Bool
	wakeup chan struct{}
	// ended is set when the poller has left its queue alone for good. done is closed
	// then.
	closing, ended atomic.Bool
	done           chan struct{}

	counters pollerCounters
	fast     counter.Counter // written by the poller alone
}

// wake ends the poller's sleep.
func (p *poller) wake() {
	if !p.parked.Load() {
		return
	}
	if w, ok := p.queue.(link.Waiter); ok && !p.ended.Load() {
		w.Wake()
		return
	}
	select {
	case p.wakeup <- struct{}{}:
	default:
	}
}

// stop ends the poller, and waits for it if it was started.
func (p *poller) stop() {
	p.closing.Store(true)
	if w, ok := p.queue.(link.Waiter); ok {
		w.Wake()
	}
	if p.counters.started.Load() != 0 {
		<-p.done
	} else {
		p.handlers.End(nil)
	}
}

// checkHandlers tells, once, of a handler that has kept the poller since the call
// before.
func (p *poller) checkHandlers() {
	running := p.handlers.Running()
	if p.parked.Load() {
		running = ""
	}
	p.stuck.check(p.log, p.index, p.counters.polls.Load(), running, p.polling.Load().LongHandler)
}

// broken says that the queue has failed for good.
func (p *poller) broken(err error) {
	p.log.Error("queue failed", "queue", p.index, "err", err)
	if p.onBreak != nil {
		p.onBreak(err)
	}
}

// run polls until the shard is closed or its queue is broken.
func (p *poller) run() {
	defer p.panicked()
	p.handlers.SetOwner(goid.Get())
	p.poll()
	// Not deferred: a poller that panics may hold the transmit lock, and the
	// program would wait for it instead of dying.
	p.link.SetAsleep(true) // whoever still sends has to flush
	p.clock.Stop()         // and time goes on
	p.ended.Store(true)
	p.parked.Store(true)
	close(p.done)
	// Handlers wait here, maybe on this very thread, to see their connections end.
	p.handlers.End(func() { <-p.wakeup })
}

// panicked notes a panic of the poller with the flight recorder, and lets it take
// its course.
func (p *poller) panicked() {
	if p.recorder == nil {
		return
	}
	if v := recover(); v != nil {
		p.recorder.Panicked(p.index, v)
		panic(v)
	}
}

// poll is the poller: it takes bursts from the queue, hands the frames on, lets
// the goroutines that they woke run, and flushes what those sent. It returns
// when the shard is closed or its queue is broken.
func (p *poller) poll() {
	if p.cpu >= 0 {
		runtime.LockOSThread()
		if err := processor.Pin(p.cpu); err != nil {
			p.log.Warn("poller stays unpinned", "queue", p.index, "cpu", p.cpu, "err", err)
		}
		// Coroutines belong to the thread of the poller that made them, if it is locked.
		// The thread is not unlocked: it ends with the poller, and its affinity too.
	}
	frames := make([]link.Frame, link.MaxBurst)
	var handed []link.Frame
	if p.handover != nil {
		handed = make([]link.Frame, link.MaxBurst)
	}
	waiter, _ := p.queue.(link.Waiter)
	idle, turns := processor.NewIdler(p.clock, waiter != nil), processor.NewTurns(p.clock)
	c := &p.counters
	var now int64
	busy := false // the last poll found frames
	for !p.closing.Load() {
		n, err := p.queue.Receive(frames)
		if err != nil {
			if !errors.Is(err, net.ErrClosed) {
				p.broken(err)
			}
			return
		}
		last := now
		if now = p.clock.Refresh(); busy {
			c.busy.Add(uint64(now - last))
		}
		c.polls.Add(1)
		m := 0
		if p.handover != nil {
			m = p.handover.Receive(handed)
		}
		if busy = n+m > 0 || p.handlers.Waiting(); !busy {
			c.empty.Add(1)
			p.link.Kick()
			p.engine.Resume()
			if policy := p.polling.Load(); !idle.Spin(now, policy) {
				p.sleep(waiter, &idle, now, policy)
			}
			continue
		}
		idle.Reset(now)
		fast := p.engine.Receive(frames[:n])
		if p.handover != nil {
			if m > 0 {
				fast += p.engine.Receive(handed[:m])
			}
			p.handover.Flush()
		}
		p.fast.Add(uint64(fast))
		p.handlers.Run()
		// So that the answers of the readers that were woken leave with this flush.
		gsync.Goyield()
		turns.Give(now)
		p.engine.FinishPoll()
		p.link.FinishPoll(n + m)
		p.engine.Resume()
		if n > 0 {
			c.bursts[link.BurstBucket(n)].Add(1)
		}
	}
}

// sleep has the poller sleep: until a frame comes where the queue can tell, else for
// as long as idle says.
func (p *poller) sleep(waiter link.Waiter, idle *processor.Idler, now int64, policy *processor.Policy) {
	p.link.SetAsleep(true)
	p.parked.Store(true)
	p.clock.Stop()
	p.counters.sleeps.Add(1)
	switch {
	case p.closing.Load(), p.handlers.Waiting(), p.handover != nil && p.handover.Waiting():
	case waiter != nil:
		// Forever, but for Wake and frames, unless frames wait for the device.
		timeout := time.Duration(-1)
		if p.link.Pending() || p.engine.Stalled() {
			timeout = policy.MaxSleep
		}
		waiter.Wait(timeout)
	default:
		select {
		case <-p.wakeup:
		case <-time.After(idle.Sleep(now, policy)):
		}
	}
	p.clock.Refresh()
	p.link.SetAsleep(false)
	p.parked.Store(false)
}

// stats reads the counters.
func (p *poller) stats() PollerStats {
	c := &p.counters
	st := PollerStats{
		Polls: c.polls.Load(), Empty: c.empty.Load(), Sleeps: c.sleeps.Load(),
		Busy: time.Duration(c.busy.Load()),
	}
	if started := c.started.Load(); started != 0 {
		// The burst in progress is not in Busy yet, and must not become idle time
		// that is taken back later.
		idle := int64(time.Since(time.Unix(0, started)) - st.Busy)
		last := c.idle.Load()
		for idle > last && !c.idle.CompareAndSwap(last, idle) {
			last = c.idle.Load()
		}
		st.Idle = time.Duration(max(idle, last))
	}
	for i := range st.Bursts {
		st.Bursts[i] = c.bursts[i].Load()
	}
	return st
}
