package processor

import (
	"io/fs"
	"path"
	"strconv"
	"strings"
)

// quota is how many processors the cgroups of the process allow it, in time, 0 for
// any number. fsys is the root of the file system. (Linux,
// Documentation/admin-guide/cgroup-v2.rst, cpu.max; Documentation/scheduler/sched-bwc.rst)
func quota(fsys fs.FS) (processors float64) {
	groups, _ := fs.ReadFile(fsys, "proc/self/cgroup")
	for line := range strings.Lines(string(groups)) {
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(fields) < 3 {
			continue
		}
		version2 := fields[0] == "0" && fields[1] == ""
		if !version2 && !strings.Contains(","+fields[1]+",", ",cpu,") {
			continue
		}
		// The path of a group begins with a slash. A parent's limit holds for its
		// children.
		root := path.Join("sys/fs/cgroup", fields[1])
		for at := path.Clean("/" + fields[2]); ; at = path.Dir(at) {
			var limit float64
			if version2 {
				limit = limit2(fsys, path.Join(root, at))
			} else {
				limit = limit1(fsys, path.Join(root, at))
			}
			if limit > 0 && (processors == 0 || limit < processors) {
				processors = limit
			}
			if at == "/" {
				break
			}
		}
	}
	return processors
}

// limit2 is the limit of one group of version 2, 0 for none.
func limit2(fsys fs.FS, dir string) float64 {
	b, _ := fs.ReadFile(fsys, path.Join(dir, "cpu.max"))
	fields := strings.Fields(string(b))
	if len(fields) != 2 {
		return 0
	}
	return ratio(fields[0], fields[1])
}

// limit1 is the limit of one group of version 1, 0 for none.
func limit1(fsys fs.FS, dir string) float64 {
	amount, _ := fs.ReadFile(fsys, path.Join(dir, "cpu.cfs_quota_us"))
	period, _ := fs.ReadFile(fsys, path.Join(dir, "cpu.cfs_period_us"))
	return ratio(strings.TrimSpace(string(amount)), strings.TrimSpace(string(period)))
}

// ratio is amount by period, 0 where they are not both positive.
func ratio(amount, period string) float64 {
	a, _ := strconv.Atoi(amount)
	p, _ := strconv.Atoi(period)
	if a <= 0 || p <= 0 {
		return 0
	}
	return float64(a) / float64(p)
}
