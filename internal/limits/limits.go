// Package limits keeps what peers can make a runtime hold within bounds.
//
// Limits are the settings. A Budget keeps them for all shards of a runtime: ten
// times a second, while there is traffic, it takes a Census of each and cuts or
// resets what is too much. Each shard has an Account with it, which decides about
// segments that begin a connection or belong to none: on the slow path, when they
// arrive. While a flood of SYNs lasts, a Shield answers them in front of the
// queues.
package limits

import (
	"cmp"
	"errors"
	"fmt"
)

// Limits bound what peers can make a runtime hold, so that nothing that comes
// from outside grows without end. What becomes of the excess is said at each, and
// counted in Stats.
type Limits struct {
	// Connections is how many connections all shards together hold: established
	// ones, those being opened and those being closed. Beyond it SYNs are dropped,
	// which peers repeat, and dials fail with ENOBUFS. 1 to 16777216. Default:
	// 65536, which take about 1 GB while idle, with a goroutine for each.
	Connections int
	// HalfOpen is how many handshakes of peers a shard keeps in memory. Beyond it,
	// SYN cookies (RFC 4987) take the place of memory, and those connections do
	// without window scaling and SACK. 1 to 65535. Default: 1024.
	HalfOpen int
	// Closing is how many connections of a shard may wait for their peers to
	// acknowledge the end after the program closed them. The excess is reset,
	// largest buffers first. 1 to 16777216. Default: 16384.
	Closing int
	// TimeWait is how many connections of a shard may be in TIME-WAIT. Beyond it,
	// they wait for 1 s instead of TCP.TimeWait. 1 to 16777216. Default: 65536.
	TimeWait int
	// Memory is how many bytes the receive and send buffers of all connections
	// hold together. From three quarters of it on, until it is half, buffers are
	// cut to what they hold, at least 16 KB each, and SYNs are dropped. If that
	// lasts for a second, or at the limit, the connections that hold most are reset
	// until it is half. It is looked at ten times a second. 16 MB to 1 TB. Default:
	// a quarter of the machine's memory.
	Memory int64
	// Resets is how many resets per second a shard sends in answer to segments that
	// belong to no connection. 1 to 1000000. Default: 1000.
	Resets int
}

// defaultMemory is a quarter of the machine's memory in bytes.
func defaultMemory() int64 { return min(max(int64(machineMemory()/4), MinMemory), MaxMemory) }

// The greatest values, and the least of memory; of the others it is 1.
const (
	// MaxConnections is also the backlog of listeners below, which keep none
	// themselves.
	MaxConnections = 1 << 24
	MaxHalfOpen    = 1<<16 - 1
	MinMemory      = 16 << 20 // bytes
	MaxMemory      = 1 << 40
	MaxResets      = 1_000_000 // per second
)

// WithDefaults fills in what is 0.
func (l Limits) WithDefaults() Limits {
	l.Connections = cmp.Or(l.Connections, 1<<16)
	l.HalfOpen = cmp.Or(l.HalfOpen, 1<<10)
	l.Closing = cmp.Or(l.Closing, 1<<14)
	l.TimeWait = cmp.Or(l.TimeWait, 1<<16)
	l.Resets = cmp.Or(l.Resets, 1000)
	if l.Memory == 0 {
		l.Memory = defaultMemory()
	}
	return l
}

// Check refuses values out of range.
func (l Limits) Check() error {
	var errs []error
	for _, f := range []struct {
		name               string
		value, least, most int64
		unit               string
	}{
		{"Connections", int64(l.Connections), 1, MaxConnections, ""},
		{"HalfOpen", int64(l.HalfOpen), 1, MaxHalfOpen, ""},
		{"Closing", int64(l.Closing), 1, MaxConnections, ""},
		{"TimeWait", int64(l.TimeWait), 1, MaxConnections, ""},
		{"Memory", l.Memory, MinMemory, MaxMemory, " bytes, 16 MB to 1 TB"},
		{"Resets", int64(l.Resets), 1, MaxResets, ""},
	} {
		if f.value != 0 && (f.value < f.least || f.value > f.most) {
			errs = append(errs, fmt.Errorf("%s is %d: want %d to %d%s", "Limits."+f.name, f.value, f.least, f.most, f.unit))
		}
	}
	return errors.Join(errs...)
}

// Stats tell how near a shard is to its limits, and what they cost. The
// counters count since the shard was made.
type Stats struct {
	// Census is what the last count found.
	Census Census
	// HalfOpen is the number of handshakes that peers began, as of now.
	HalfOpen int
	// RefusedConnections, RefusedMemory and RefusedBacklog count SYNs dropped:
	// because Limits.Connections was reached, Limits.Memory was near, or more
	// connections waited for Accept than may.
	RefusedConnections, RefusedMemory, RefusedBacklog uint64
	// RefusedSource counts SYNs dropped because their source may not connect.
	RefusedSource uint64
	// ResetMemory and ResetClosing count connections that were reset for what they
	// held beyond Limits.Memory, and beyond Limits.Closing.
	ResetMemory, ResetClosing uint64
	// Cut counts buffers made smaller because Limits.Memory was near.
	Cut uint64
	// Unanswered counts segments of no connection that were not answered with a
	// reset, because of Limits.Resets.
	Unanswered uint64
}

// Stats returns the counters. It takes no lock.
func (a *Account) Stats() Stats {
	return Stats{
		Census: *a.census.Load(), HalfOpen: a.halfOpen(),
		RefusedConnections: a.refusedConnections.Load(), RefusedMemory: a.refusedMemory.Load(), RefusedBacklog: a.refusedBacklog.Load(),
		RefusedSource: a.refusedSource.Load(),
		ResetMemory:   a.resetMemory.Load(), ResetClosing: a.resetClosing.Load(), Cut: a.cut.Load(), Unanswered: a.unanswered.Load(),
	}
}
