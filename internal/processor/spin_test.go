package processor

import (
	"strings"
	"testing"
	"testing/fstest"
	"time"
)

// TestSpinner replays pauses and counts what was spun of them, in a time of its own.
func TestSpinner(t *testing.T) {
	const us = time.Microsecond
	for _, c := range []struct {
		name   string
		spin   time.Duration
		pause  time.Duration
		shared bool          // whoever spins for more than 20 µs is in the way of others
		want   time.Duration // spun per pause, of the last 100
	}{
		{"a frame now and then", time.Millisecond, 5 * time.Millisecond, false, 10 * us},
		{"requests with short pauses", time.Millisecond, 100 * us, false, 100 * us},
		{"as short on a shared processor", time.Millisecond, 100 * us, true, 10 * us},
		{"a device that cannot wake its poller", time.Millisecond, 5 * time.Millisecond, true, time.Millisecond},
		{"no pauses", time.Millisecond, 2 * us, false, 2 * us},
		{"a short spin by choice", 5 * us, 100 * us, true, 5 * us},
		{"never sleeping by choice", -1, 5 * time.Millisecond, true, 5 * time.Millisecond},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := spinner{most: c.spin, fixed: strings.Contains(c.name, "cannot wake")}
			var spun time.Duration
			const pauses, last = 1000, 100
			for i := range pauses {
				at := time.Duration(0)
				for ; at < c.pause && s.spin(at); at += us {
					if c.shared && at == 20*us {
						s.disturbed()
					}
				}
				if i >= pauses-last {
					spun += at
				}
				s.ended(c.pause)
			}
			if got := spun / last; got > c.want+c.want/10 || got < c.want-c.want/10 {
				t.Errorf("%v spun of each pause of %v, want %v", got, c.pause, c.want)
			}
		})
	}
	// What was learned is forgotten when the load changes.
	s := spinner{most: time.Millisecond}
	for _, pause := range []time.Duration{5 * time.Millisecond, 100 * us} {
		for range 100 {
			s.spin(0)
			s.ended(pause)
		}
	}
	if !s.spin(99 * us) {
		t.Error("pauses of 100 µs are not spun after longer ones")
	}
}

func TestQuota(t *testing.T) {
	file := func(s string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(s)} }
	for _, c := range []struct {
		name string
		fs   fstest.MapFS
		want float64
	}{
		{"no cgroups", fstest.MapFS{}, 0},
		{"version 2, none", fstest.MapFS{
			"proc/self/cgroup": file("0::/a/b\n"), "sys/fs/cgroup/a/b/cpu.max": file("max 100000\n"),
		}, 0},
		{"version 2, half", fstest.MapFS{
			"proc/self/cgroup": file("0::/a/b\n"), "sys/fs/cgroup/a/b/cpu.max": file("50000 100000\n"),
		}, 0.5},
		{"version 2, of a parent", fstest.MapFS{
			"proc/self/cgroup": file("0::/a/b\n"), "sys/fs/cgroup/a/cpu.max": file("150000 100000\n"),
			"sys/fs/cgroup/a/b/cpu.max": file("400000 100000\n"),
		}, 1.5},
		{"version 2, in a container", fstest.MapFS{
			"proc/self/cgroup": file("0::/\n"), "sys/fs/cgroup/cpu.max": file("200000 100000\n"),
		}, 2},
		{"version 1", fstest.MapFS{
			"proc/self/cgroup": file("9:name=systemd:/\n1:cpu,cpuacct:/a\n0::/\n"),
			"sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_quota_us": file("25000\n"), "sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_period_us": file("100000\n"),
		}, 0.25},
		{"version 1, none", fstest.MapFS{
			"proc/self/cgroup":                   file("1:cpu:/\n"),
			"sys/fs/cgroup/cpu/cpu.cfs_quota_us": file("-1\n"), "sys/fs/cgroup/cpu/cpu.cfs_period_us": file("100000\n"),
		}, 0},
		{"nonsense", fstest.MapFS{
			"proc/self/cgroup": file("::\n0::/../..\nx"), "sys/fs/cgroup/cpu.max": file("a b c"),
		}, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := quota(c.fs); got != c.want {
				t.Errorf("quota %v, want %v", got, c.want)
			}
		})
	}
}
