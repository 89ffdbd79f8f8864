// Package fault makes a good network bad, on purpose and repeatably: it wraps a
// device and loses, duplicates, reorders, delays, corrupts, cuts and throttles
// the frames of each direction. Tests use it to see how a server does on a lossy
// path, without root, network namespaces or tc.
//
//	dev, _ = fault.Wrap(dev, fault.Config{
//		Seed:     42,
//		Receive:  fault.Impairment{Drop: 0.01, Delay: 5 * time.Millisecond},
//		Transmit: fault.Impairment{Reorder: 0.02},
//	})
//	rt, err := accel.New(accel.Config{Link: dev, ...})
//
// # Repeatable
//
// What happens to a frame depends on the seed, the direction, the number of the
// queue and how many frames passed there before it, and on nothing else: the
// same frames under the same seed meet the same fate. Each kind of impairment
// has random numbers of its own, so that switching one on leaves what the others
// do as it was. Only Rate depends on time, through the queue that builds up, and
// DropBurst, through the queue that drains. A test that moves frames by itself can
// make that repeat, too, in a bubble of testing/synctest. A whole runtime cannot
// run in one: gVisor's locks are not what a bubble takes for waiting, so that its
// clock stands still while the pollers run.
//
// # Frames as on the wire
//
// Impairments meet frames as they are on the wire. While the transmit direction
// is impaired, the wrapper itself fills in the checksums and cuts the segments
// that the stack asked the device for. So a lost frame is one segment, and no
// device computes a right checksum over a corrupted byte. A received frame whose
// bytes were changed gets a new checksum status, if the device checks.
//
// # Threads and time
//
// The wrapper keeps the contract of package link. It copies frames while a
// direction is impaired and costs one comparison while it is not. Received
// frames that wait are handed out by Receive, and link.Waiter wakes the poller
// when the next is due. Sent frames that wait leave on a timer of their own.
package fault

import (
	"errors"
	"fmt"
	"math"
	"time"
)

// Impairment is what happens to the frames of one direction. The zero value does
// nothing. Probabilities are per frame, from 0 to 1.
type Impairment struct {
	// Drop is the share of frames that are lost.
	Drop float64
	// DropBurst makes losses come in runs of that many frames on average, as full
	// queues cause them (the Gilbert model); Drop stays the share in all. A run is
	// over when no frame comes for 100 ms. At least 1. Default: 0, each frame is
	// lost or not by itself.
	DropBurst float64
	// Duplicate is the probability that a frame arrives twice.
	Duplicate float64
	// Reorder is the probability that a frame is held back for ReorderDelay, so
	// that those behind it overtake it.
	Reorder float64
	// ReorderDelay is how long a reordered frame is held back, up to an hour.
	// Default: 1 ms.
	ReorderDelay time.Duration
	// Corrupt is the probability that one bit of a frame is flipped, anywhere from
	// the Ethernet header on. Checksums find it where they cover it.
	Corrupt float64
	// Cut is the probability that a frame loses its end. At least the Ethernet
	// header remains.
	Cut float64
	// Delay is how long each frame takes, up to an hour. Default: 0.
	Delay time.Duration
	// Jitter is added to Delay, a random share of it for each frame, up to an
	// hour. Frames do not overtake each other for it. Default: 0.
	Jitter time.Duration
	// Rate is the capacity in bits per second, counting frames without preamble,
	// gap and checksum. Default: 0, no limit.
	Rate int64
	// Backlog is how many frames of a queue may wait for Rate, Delay, Jitter and
	// ReorderDelay, up to a million; more are lost. Default: 10000.
	Backlog int
}

const (
	defaultReorderDelay = time.Millisecond
	defaultBacklog      = 10000
	maxBacklog          = 1_000_000
)

// check refuses values out of range.
func (i Impairment) check() error {
	var errs []error
	for _, p := range []struct {
		name  string
		value float64
	}{{"Drop", i.Drop}, {"Duplicate", i.Duplicate}, {"Reorder", i.Reorder}, {"Corrupt", i.Corrupt}, {"Cut", i.Cut}} {
		if !(p.value >= 0 && p.value <= 1) {
			errs = append(errs, fmt.Errorf("%s is %v: want a probability from 0 to 1", p.name, p.value))
		}
	}
	if i.DropBurst != 0 && !(i.DropBurst >= 1) || math.IsInf(i.DropBurst, 0) {
		errs = append(errs, fmt.Errorf("DropBurst is %v: want at least 1 frame, or 0 for single losses", i.DropBurst))
	}
	for _, d := range []struct {
		name  string
		value time.Duration
	}{{"ReorderDelay", i.ReorderDelay}, {"Delay", i.Delay}, {"Jitter", i.Jitter}} {
		if d.value < 0 || d.value > time.Hour {
			errs = append(errs, fmt.Errorf("%s is %v: want 0 to 1h", d.name, d.value))
		}
	}
	if i.Rate < 0 {
		errs = append(errs, fmt.Errorf("%s is %d: want bits per second, or 0 for no limit", "Rate", i.Rate))
	}
	if i.Backlog < 0 || i.Backlog > maxBacklog {
		errs = append(errs, fmt.Errorf("%s is %d: want 1 to %d frames, or 0 for the default", "Backlog", i.Backlog, maxBacklog))
	}
	return errors.Join(errs...)
}

// withDefaults fills in what is 0.
func (i Impairment) withDefaults() Impairment {
	if i.ReorderDelay == 0 {
		i.ReorderDelay = defaultReorderDelay
	}
	if i.Backlog == 0 {
		i.Backlog = defaultBacklog
	}
	return i
}

// none tells whether nothing happens to frames.
func (i Impairment) none() bool {
	return i.Drop == 0 && i.Duplicate == 0 && i.Reorder == 0 && i.Corrupt == 0 && i.Cut == 0 &&
		i.Delay == 0 && i.Jitter == 0 && i.Rate == 0
}
