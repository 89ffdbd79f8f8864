package processor

import (
	"time"

	gsync "gvisor.dev/gvisor/pkg/sync"

	"github.com/gotpa/tpa/internal/clock"
)

const (
	// firstSleep is the first and shortest sleep of an idle poller. Timers are not
	// more exact than that.
	firstSleep = 20 * time.Microsecond
	// deepSleep takes the place of the default MaxSleep when no frame has come for
	// longIdle: an idle program costs a quarter of it then.
	deepSleep, longIdle = 4 * time.Millisecond, time.Second
)

// An Idler decides what a poller does when it found nothing. Times are nanoseconds as
// the clock has them.
type Idler struct {
	clock *clock.Clock
	// wakes: the device can wake its poller.
	wakes   bool
	spinner spinner
	// since is when the queue was first found empty, 0 while there is traffic.
	since int64
	sleep time.Duration
}

// NewIdler returns the Idler of a poller whose clock is c. wakes says that its device
// can wake it.
func NewIdler(c *clock.Clock, wakes bool) Idler { return Idler{clock: c, wakes: wakes} }

// Reset ends the pause: frames came.
func (i *Idler) Reset(now int64) {
	if i.since != 0 {
		i.spinner.ended(time.Duration(now - i.since))
		i.since, i.sleep = 0, 0
	}
}

// Spin lets others run, and reports false when the pause has become so long that the
// poller is to sleep.
func (i *Idler) Spin(now int64, p *Policy) bool {
	if i.since == 0 {
		i.since = now
	}
	if i.spinner.most != p.Spin {
		i.spinner = spinner{most: p.Spin, fixed: !i.wakes} // it was changed
	}
	spent := time.Duration(now - i.since)
	if p.Spin == noSpin || !i.spinner.spin(spent) {
		return false
	}
	gsync.Goyield()
	if spent >= yieldAfter {
		i.yieldThread()
	}
	return true
}

// yieldThread lets other threads have the processor, and finds out whether they
// wanted it.
func (i *Idler) yieldThread() {
	before := i.clock.Refresh()
	yieldThread()
	if time.Duration(i.clock.Refresh()-before) >= disturbance {
		i.spinner.disturbed()
	}
}

// Sleep is how long to sleep, at most, where the device cannot wake the poller: each
// time of a pause twice as long, up to MaxSleep.
func (i *Idler) Sleep(now int64, p *Policy) time.Duration {
	most := p.MaxSleep
	if p.deepens && time.Duration(now-i.since) > longIdle {
		most = deepSleep
	}
	i.sleep = min(max(2*i.sleep, firstSleep), most)
	return i.sleep
}
