package main

import (
	"fmt"
	"io"
	"maps"
	"reflect"
	"regexp"
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
			pattern, err := regexp.Compile(match)
			if err != nil {
				return usageError{fmt.Errorf("--match: %w", err)}
			}
			return t.show(cmd, func(w io.Writer, now, before *accel.Status) error {
				shown, fit := printStats(w, now, before, pattern)
				switch {
				case fit == 0:
					return fmt.Errorf("--match: no counter has a name that fits %q", match)
				case shown == 0 && before == nil:
					line(w, fmt.Sprintf("%d counters fit, and all of them are 0", fit))
				}
				return nil
			})
		},
	}
	cmd.Flags().StringVar(&match, "match", "", "show counters whose names fit `PATTERN`, a regular expression: tcp, or conns|poller")
	t.add(cmd)
	return cmd
}

// printStats shows the counters whose names fit, and returns how many those were and
// how many fit, with 0 or not.
func printStats(w io.Writer, now, before *accel.Status, match *regexp.Regexp) (shown, fit int) {
	show := func(name string, n uint64) {
		if !match.MatchString(name) {
			return
		}
		if fit++; n > 0 {
			shown++
			line(w, name, n)
		}
	}
	for i, d := range now.Drops {
		n := d.Packets
		if before != nil {
			n -= before.Drops[i].Packets
		}
		show(fmt.Sprintf("lost %s: %s: %s", direction(d.Out), d.Place, d.Reason), n)
	}
	all, was := counters(now), map[string]uint64{}
	if before != nil {
		was = counters(before)
	}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		show(name, all[name]-was[name])
	}
	return shown, fit
}

func direction(out bool) string {
	if out {
		return "out"
	}
	return "in"
}

// counters are those of the device and the sums of the shards', under the names
// that they have in status.json.
func counters(s *accel.Status) map[string]uint64 {
	all := make(map[string]uint64)
	addCounters(all, "device", reflect.ValueOf(s.Device))
	delete(all, "device.stats.link_speed") // more of it is no event
	for name, n := range s.Device.Stats.Extended {
		all["device.extended."+name] = n
	}
	for i := range s.Shards {
		addCounters(all, "", reflect.ValueOf(s.Shards[i]))
	}
	if s.Sharing != nil {
		addCounters(all, "kernel", reflect.ValueOf(s.Sharing.Kernel))
		addCounters(all, "steering", reflect.ValueOf(s.Sharing.Steering))
	}
	return all
}

// addCounters adds the counters of a struct and of those in it, which are its
// fields of type uint64. What may go down is an int there.
func addCounters(to map[string]uint64, name string, v reflect.Value) {
	switch v.Kind() {
	case reflect.Uint64:
		to[name] += v.Uint()
	case reflect.Struct:
		if name != "" {
			name += "."
		}
		for i := range v.NumField() {
			key, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ",")
			addCounters(to, name+key, v.Field(i))
		}
	}
}
