package machine

import (
	"os"
	"os/exec"
	"runtime"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestProcessTime(t *testing.T) {
	before, err := ProcessTime(0)
	if err != nil {
		t.Fatal(err)
	}
	for start := time.Now(); time.Since(start) < 20*time.Millisecond; {
	}
	after, _ := ProcessTime(0)
	if after <= before {
		t.Errorf("20 ms of work took the processor time from %v to %v", before, after)
	}
	byPid, err := ProcessTime(os.Getpid())
	if err != nil || byPid < after {
		t.Errorf("by number %v, %v, want at least %v", byPid, err, after)
	}

	child := exec.Command("sleep", "60")
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	if d, err := ProcessTime(child.Process.Pid); err != nil || d > time.Second {
		t.Errorf("a process that sleeps used %v, %v", d, err)
	}
	child.Process.Kill()
	child.Wait()
	if d, err := ProcessTime(child.Process.Pid); err == nil {
		t.Errorf("a process that is gone used %v", d)
	}
}

func TestCPUTimes(t *testing.T) {
	const stat = `cpu  600 6 600 6000 60 60 60 60 6 0
cpu0 100 1 100 1000 10 10 10 10 1 0
cpu1 200 2 200 2000 20 20 20 20 2 0
cpu11 300 3 300 3000 30 30 30 30 3 0
intr 12345
ctxt 67890
`
	const tick = 10 * time.Millisecond
	for _, tt := range []struct {
		cpus []int
		want Times
	}{
		{[]int{0}, Times{Busy: 221 * tick, Interrupts: 20 * tick, Stolen: 10 * tick, Total: 1241 * tick}},
		{[]int{0, 1}, Times{Busy: 663 * tick, Interrupts: 60 * tick, Stolen: 30 * tick, Total: 3723 * tick}},
		{[]int{5}, Times{}},
		{nil, Times{}},
	} {
		if diff := cmp.Diff(tt.want, cpuTimes(stat, tt.cpus)); diff != "" {
			t.Errorf("CPUs %v (-want +got):\n%s", tt.cpus, diff)
		}
	}
	now, err := CPUTimes(CPUs(0))
	if err != nil || now.Total == 0 {
		t.Errorf("of this machine: %+v, %v", now, err)
	}
	if d := now.Sub(now); d != (Times{}) {
		t.Errorf("no time apart: %+v", d)
	}
}

func TestRead(t *testing.T) {
	f := Read("22.11")
	if f.DPDK != "22.11" || f.Go != runtime.Version() || f.Cores < 1 || f.Cores != len(f.CPUList) || f.MemoryMB < 16 ||
		f.Kernel == "unknown" || f.CPUModel == "" || f.Governor == "" {
		t.Errorf("facts %+v", f)
	}
}
