package processor

import "time"

const (
	// leastSpin is what an idle poller spins at least, unless it is told less: a sleep
	// and a wake-up cost as much.
	leastSpin = 10 * time.Microsecond
	// yieldAfter is how long a poller spins before it lets other threads run: a system
	// call in each round trip of a quick peer would cost more than it gives others.
	yieldAfter = 50 * time.Microsecond
	// disturbance is how long the system runs others for, in the place of a poller
	// that yields, before that counts as others who want the processor.
	disturbance = 50 * time.Microsecond
	// A poller that was disturbed spins the least for so many pauses, twice as many
	// each time.
	firstPenalty, lastPenalty = 16, 4096
)

// A spinner learns how long to spin from the pauses between frames, as KVM's halt
// polling does (Linux, Documentation/virt/kvm/halt-polling.rst): spinning that is in
// vain, or in the way of others, is worth less than it costs. The zero value with most
// set is ready to use. It belongs to the poller.
type spinner struct {
	// most is Polling.Spin; negative: the poller never sleeps.
	most time.Duration
	// fixed: most is spun, whatever comes. So it is where the device cannot wake its
	// poller: the shortest sleep of a Go program that has nothing else to do is a
	// millisecond (the granularity of epoll_wait), and two ends that sleep for so long
	// would each learn from the other that pauses are long.
	fixed bool
	// budget is how long the next pause is spun for, 0 before the first.
	budget time.Duration
	// held pauses more are spun for the least time only. penalty is what held was last.
	held, penalty int
}

// spin tells whether to go on spinning after a time without frames.
func (s *spinner) spin(idle time.Duration) bool {
	if s.most < 0 {
		return true
	}
	if s.budget == 0 {
		s.budget = s.most
	}
	return idle < s.budget
}

// ended says that frames came after a pause, whether it was slept or spun.
func (s *spinner) ended(pause time.Duration) {
	if s.fixed || s.most <= leastSpin || s.budget == 0 {
		return
	}
	switch {
	case pause <= leastSpin:
		return // nothing is learned from a load that never pauses
	case s.held > 0:
		s.held--
	case pause > s.most:
		s.budget = max(s.budget/2, leastSpin)
	case pause > s.budget:
		s.budget = min(2*s.budget, s.most)
	case s.penalty > 0:
		s.penalty-- // it paid, and disturbed nobody
	}
}

// disturbed says that others wanted the processor while the poller span.
func (s *spinner) disturbed() {
	if s.fixed || s.most <= leastSpin {
		return
	}
	s.penalty = min(max(2*s.penalty, firstPenalty), lastPenalty)
	s.budget, s.held = leastSpin, s.penalty
}
