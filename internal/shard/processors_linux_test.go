package shard

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gotpa/tpa/link/memory"
)

// engineEnv makes TestProcessors a program that has a shard with such a TCP.
const engineEnv = "TPA_TEST_PROCESSORS_ENGINE"

// TestProcessors checks that a shard leaves the number of Go's processors as it is,
// and that Go goes on following the process's affinity and cgroup, unless the user
// has chosen a number.
func TestProcessors(t *testing.T) {
	if engine := os.Getenv(engineEnv); engine != "" {
		processors(t, engine)
		return
	}
	if runtime.NumCPU() < 2 {
		t.Skip("there is nothing to follow with one processor")
	}
	for _, engine := range []string{"tpa", "gvisor"} {
		for _, chosen := range []string{"", "3"} {
			t.Run(fmt.Sprintf("%s/GOMAXPROCS=%s", engine, chosen), func(t *testing.T) {
				cmd := exec.Command(os.Args[0], "-test.run=^TestProcessors$", "-test.v")
				for _, e := range os.Environ() {
					if !strings.HasPrefix(e, "GOMAXPROCS=") {
						cmd.Env = append(cmd.Env, e)
					}
				}
				cmd.Env = append(cmd.Env, engineEnv+"="+engine)
				if chosen != "" {
					cmd.Env = append(cmd.Env, "GOMAXPROCS="+chosen)
				}
				if out, err := cmd.CombinedOutput(); err != nil {
					t.Errorf("%v\n%s", err, out)
				}
			})
		}
	}
}

func processors(t *testing.T, engine string) {
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.SetDefaultGOMAXPROCS() // package testing has chosen a number
	}
	before := runtime.GOMAXPROCS(0)
	newPair(t, memory.Options{}, TCP{Engine: engine})
	if got := runtime.GOMAXPROCS(0); got != before {
		t.Errorf("GOMAXPROCS is %d with a shard, was %d", got, before)
	}
	if os.Getenv("GOMAXPROCS") != "" {
		return
	}
	// Leave the process one processor, which Go looks at once a second.
	var one, all unix.CPUSet
	if err := unix.SchedGetaffinity(0, &all); err != nil {
		t.Fatal(err)
	}
	for i := range 1024 {
		if all.IsSet(i) {
			one.Set(i)
			break
		}
	}
	tasks, err := filepath.Glob("/proc/self/task/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range tasks {
		id, err := strconv.Atoi(filepath.Base(task))
		if err == nil {
			err = unix.SchedSetaffinity(id, &one)
		}
		if err != nil && err != unix.ESRCH {
			t.Fatal(err)
		}
	}
	for deadline := time.Now().Add(30 * time.Second); runtime.GOMAXPROCS(0) != 1; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("GOMAXPROCS is still %d with one processor: Go does not follow it any more", runtime.GOMAXPROCS(0))
		}
	}
}
