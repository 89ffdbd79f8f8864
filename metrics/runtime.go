package metrics

import (
	"errors"
	"os"

	"github.com/gotpa/tpa/accel"
	"github.com/gotpa/tpa/link/dpdk"
)

// runtimeMetrics are about the program as a whole. They are there after a
// fallback too.
var runtimeMetrics = []metric[scrape]{
	{
		name: "build_info", kind: gauge, help: "1. The labels name the versions that the program is built from.",
		labels: []string{"version", "revision", "goversion", "dpdk_version"},
		read:   func(s scrape) []sample { return []sample{series(1, build(s.DPDK)...)} },
	},
	{
		name: "accelerated", kind: gauge, help: "1 while connections run on the device, 0 after a fallback to the kernel.",
		read: func(s scrape) []sample { return flag(s.Accelerated) },
	},
	{
		name: "fallbacks_total", kind: counter, help: "Listeners and dials that went through the kernel.",
		labels: []string{"operation", "reason"},
		read: func(s scrape) []sample {
			if s.Accelerated {
				return nil
			}
			why := reason(s.Reason)
			return []sample{series(s.FallbackListens, "listen", why), series(s.FallbackDials, "dial", why)}
		},
	},
	{
		name: "limit_connections", kind: gauge, help: "The greatest number of connections of the runtime.",
		read: func(s scrape) []sample { return one(s.Limits.Connections) },
	},
	{
		name: "limit_half_open_connections", kind: gauge, help: "The greatest number of handshakes of one queue that are kept in memory.",
		read: func(s scrape) []sample { return one(s.Limits.HalfOpen) },
	},
	{
		name: "limit_closing_connections", kind: gauge, help: "The greatest number of closing connections of one queue.",
		read: func(s scrape) []sample { return one(s.Limits.Closing) },
	},
	{
		name: "limit_time_wait_connections", kind: gauge, help: "How many connections of one queue may wait the full time in TIME-WAIT.",
		read: func(s scrape) []sample { return one(s.Limits.TimeWait) },
	},
	{
		name: "limit_memory_bytes", kind: gauge, help: "How much the buffers of all connections may hold.",
		read: func(s scrape) []sample { return one(s.Limits.Memory) },
	},
	{
		name: "limit_resets_per_second", kind: gauge, help: "How many resets per second one queue sends to segments of no connection.",
		read: func(s scrape) []sample { return one(s.Limits.Resets) },
	},
	{
		name: "dials_total", kind: counter, help: "Accelerated dials that ended, by how they ended.",
		labels: []string{"result"},
		read: func(s scrape) []sample {
			d := &s.Dials
			return []sample{
				series(d.OK, "ok"), series(d.Refused, "refused"), series(d.Timeout, "timeout"),
				series(d.Canceled, "canceled"), series(d.Failed, "failed"),
			}
		},
	},
	{
		name: "dial_duration_seconds", kind: histogram, help: "How long accelerated dials took, however they ended.",
		read: func(s scrape) []sample { return durations(s.Dials.Duration) },
	},
	{
		name: "listener_backlog_connections", kind: gauge, help: "Connections that wait for Accept.",
		labels: []string{"address"},
		read: func(s scrape) []sample {
			var all []sample
			for _, l := range s.Listeners {
				waiting := 0
				for _, q := range l.Queues {
					waiting += q.Waiting
				}
				all = append(all, series(waiting, l.Addr))
			}
			// One address may have a listener per shard.
			return sum(nil, all)
		},
	},
}

// reason puts the cause of a fallback into a word, because an error's text makes
// no label.
func reason(err error) string {
	switch {
	case errors.Is(err, accel.ErrNoDevice):
		return "no_device"
	case errors.Is(err, dpdk.ErrNotSupported):
		return "not_supported"
	case errors.Is(err, os.ErrPermission):
		return "permission"
	case errors.Is(err, os.ErrNotExist):
		return "device_not_found"
	}
	return "other"
}
