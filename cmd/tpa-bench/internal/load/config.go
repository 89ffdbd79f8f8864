package load

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"
)

// A Handler is where a connection is worked on.
type Handler int

const (
	// Goroutine: in a goroutine each.
	Goroutine Handler = iota
	// Coroutine: in the pollers of their shards, by accel.Go.
	Coroutine
	// Callback: there, too, by callbacks.
	Callback
)

// Config describes a run. Workload, Conns, Duration and Dial must be set.
type Config struct {
	Workload Workload
	// Dial makes a connection to the server.
	Dial func(context.Context) (net.Conn, error)
	// Handler is where connections are worked on. All but Goroutine needs a closed
	// loop on connections that stay, and no second goroutine for the replies.
	Handler Handler
	// Conns is the number of connections, 1 to 100,000.
	Conns int
	// Payload is the size of a value or message in bytes, 1 to 16 MB. Default: the
	// workload's.
	Payload int
	// Pipeline is how many requests a connection has under way, 1 to 10,000.
	// Default: the workload's.
	Pipeline int
	// Rate is how many requests are due per second over all connections. 0: the
	// loop is closed.
	Rate float64
	// Schedule, instead of Rate and Duration, is a load that changes: its steps follow
	// each other, and the warm-up runs at the first one's rate.
	Schedule []Step
	// Poisson has the requests of an open loop come at random times, independent of
	// each other, as those of many users do. Else they are evenly spaced.
	Poisson bool
	// Warmup is left out of the measurement. Default: none.
	Warmup time.Duration
	// Duration is how long to measure.
	Duration time.Duration
	// Requests, if not 0, ends the measurement earlier: when so many are answered.
	Requests uint64
	// Verify compares every byte that comes back with what it must be. Of a workload
	// without replies it compares a digest of each connection, at its end.
	Verify bool
	// Polls says that the transport polls in this process. An open loop is then
	// paced by Go's timers, which are exact only in a process that does not idle;
	// else by the kernel's, which always are.
	Polls bool
	// Counters, if not nil, reads the counters of the transport on this side.
	Counters func() Counters
	// ServerPID, if not 0, is the server's process on this machine, whose
	// processor time is measured too.
	ServerPID int
	// ServerCounters, if not nil, reads Busy and Idle of the server's pollers: a
	// server that polls uses its processors whether it has work or not.
	ServerCounters func() Counters
	// Progress, if not nil, is called about once a second during a run.
	Progress func(Progress)
}

// Step is a part of a schedule.
type Step struct {
	Rate float64 // requests per second over all connections
	For  time.Duration
}

// Counters count from an arbitrary start.
type Counters struct {
	Retransmits uint64 // TCP segments sent again
	Lost        uint64 // frames dropped on this side
	Polls       uint64 // looks at the device's queues
	Empty       uint64 // those that found nothing
	// Busy and Idle are the time of the pollers, with frames to handle and without.
	Busy, Idle time.Duration
}

// Sub returns what was counted between two readings.
func (c Counters) Sub(earlier Counters) Counters {
	return Counters{
		Retransmits: c.Retransmits - earlier.Retransmits,
		Lost:        c.Lost - earlier.Lost,
		Polls:       c.Polls - earlier.Polls,
		Empty:       c.Empty - earlier.Empty,
		Busy:        c.Busy - earlier.Busy,
		Idle:        c.Idle - earlier.Idle,
	}
}

// Working is the part of the pollers' time with frames to handle, 0 to 1; -1
// where nothing polls.
func (c Counters) Working() float64 {
	if c.Busy+c.Idle <= 0 {
		return -1
	}
	return float64(c.Busy) / float64(c.Busy+c.Idle)
}

// Progress is the state of a run.
type Progress struct {
	Warmup  bool          // not yet measuring
	Elapsed time.Duration // of Total
	Total   time.Duration // warm-up and measurement
	Rate    float64       // requests per second since the last call
	Errors  uint64        // so far
}

const (
	maxConns    = 100_000
	maxPayload  = 16 << 20 // bytes
	maxPipeline = 10_000
	// maxOneWay is how many bytes a connection writes before it reads, less than
	// the socket buffers of any transport. A client that first writes more, and a
	// server that answers as it reads, would wait for each other.
	maxOneWay = 32 << 10
)

// Check refuses what cannot be run, and sets defaults.
func (c *Config) Check() error { return c.normalise() }

// normalise sets defaults and refuses what cannot be run.
func (c *Config) normalise() error {
	if c.Payload == 0 {
		c.Payload = c.Workload.payload
	}
	if c.Pipeline == 0 {
		c.Pipeline = c.Workload.pipeline
	}
	name := c.Workload.Name
	if c.Handler != Goroutine && (c.Rate > 0 || len(c.Schedule) > 0 || c.Workload.fresh || c.duplex()) {
		return fmt.Errorf("workload %s as it is asked for needs goroutines: in the poller there are closed loops without a second goroutine per connection", name)
	}
	for i, s := range c.Schedule {
		if s.Rate <= 0 || s.For <= 0 {
			return fmt.Errorf("step %d of the schedule, %v requests per second for %v: want more than 0", i+1, s.Rate, s.For)
		}
	}
	if c.Schedule != nil {
		if c.Rate != 0 {
			return errors.New("a rate and a schedule: want one of them")
		}
		c.Duration = 0
		for _, s := range c.Schedule {
			c.Duration += s.For
		}
	}
	if c.Workload.oneWay && c.Verify {
		c.Workload.Protocol = "digest"
	}
	switch {
	case name == "":
		return errors.New("a run needs a workload")
	case c.Conns < 1 || c.Conns > maxConns:
		return fmt.Errorf("%d connections: want 1 to %d", c.Conns, maxConns)
	case c.Payload < 1 || c.Payload > maxPayload:
		return fmt.Errorf("a payload of %d bytes: want 1 to %d", c.Payload, maxPayload)
	case c.Pipeline < 1 || c.Pipeline > maxPipeline:
		return fmt.Errorf("a pipeline of %d: want 1 to %d", c.Pipeline, maxPipeline)
	case c.Rate < 0:
		return fmt.Errorf("a rate of %v requests per second: want more than 0, or 0 for a closed loop", c.Rate)
	case c.Duration <= 0:
		return fmt.Errorf("a duration of %v: want more than 0", c.Duration)
	case c.Warmup < 0:
		return fmt.Errorf("a warm-up of %v: want 0 or more", c.Warmup)
	case c.Workload.fresh && c.Pipeline > 1:
		return fmt.Errorf("workload %s makes one request per connection: want a pipeline of 1", name)
	case c.Workload.fresh && c.Payload > maxOneWay:
		return fmt.Errorf("workload %s with a payload of %d bytes: want at most %d", name, c.Payload, maxOneWay)
	case c.Workload.oneWay && c.Pipeline > 1:
		return fmt.Errorf("workload %s has no replies to wait for: want a pipeline of 1", name)
	case c.Poisson && !c.open():
		return errors.New("random arrivals in a closed loop: want a rate or a schedule")
	}
	return nil
}

// open says whether requests are due by a timetable.
func (c *Config) open() bool { return c.Rate > 0 || len(c.Schedule) > 0 }

// duplex says whether reading and writing must overlap. Beside the workloads
// that want it, these are batches whose requests and replies are both large.
func (c *Config) duplex() bool {
	bothWays := c.Workload.Protocol == "echo" || c.Workload.Name == "mixed"
	return c.Workload.duplex || bothWays && c.Pipeline*c.Payload > maxOneWay
}
