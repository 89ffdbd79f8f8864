package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/gotpa/tpa/accel"
)

func newStats() *cobra.Command {
	var t target
	var match string
	cmd := &cobra.Command{
		Use:   "stats",
		Short: "Show all counters of a running program, as nstat does for the kernel's",
		Long: `stats shows where packets were lost, in the order in which they pass, and all
counters that are not 0: those of the device, then the sums over all shards. With
--watch it shows what was added since the last look, and leaves out what did not
change.`,
		Example: `  tpa-bench stats --match tcp
  tpa-bench stats --watch=5s`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return t.show(cmd, func(w io.Writer, now, before *accel.Status) error {
				printStats(w, now, before, match)
				return nil
			})
		},
	}
	cmd.Flags().StringVar(&match, "match", "", "show counters whose names contain `TEXT`")
	t.add(cmd)
	return cmd
}

func printStats(w io.Writer, now, before *accel.Status, match string) {
	for i, d := range now.Drops {
		n := d.Packets
		if before != nil {
			n -= before.Drops[i].Packets
		}
		name := fmt.Sprintf("lost %s: %s: %s", direction(d.Out), d.Place, d.Reason)
		if n > 0 && strings.Contains(name, match) {
			line(w, name, n)
		}
	}
	all, was := counters(now), map[string]uint64{}
	if before != nil {
		was = counters(before)
	}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if n := all[name] - was[name]; n > 0 && strings.Contains(name, match) {
			line(w, name, n)
		}
	}
}

func direction(out bool) string {
	if out {
		return "out"
	}
	return "in"
}

// counters are those of the device and the sums of the shards'.
func counters(s *accel.Status) map[string]uint64 {
	all := make(map[string]uint64)
	for name, n := range s.Device.Counters {
		all["device."+name] = n
	}
	for _, sh := range s.Shards {
		for name, n := range sh.Counters {
			// A count that may go down: more of it is no event.
			if name == "stack.tcp.current_connected" || name == "stack.tcp.current_established" {
				continue
			}
			all[name] += n
		}
	}
	return all
}
