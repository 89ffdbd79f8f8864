package sim

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"sync"
	"testing"
	"time"
)

// A bubble runs on one P, so a test that has many runs shares them out to as many
// processes as there are processors. Share i of n does runs i, i+n, i+2n and so on.
const shareVar = "SIM_SHARE" // "i/n"

// A tally adds up what runs did.
type tally struct {
	Runs, Frames uint64
	Virtual      time.Duration
}

func (a *tally) add(b tally) {
	a.Runs += b.Runs
	a.Frames += b.Frames
	a.Virtual += b.Virtual
}

func (a tally) String() string {
	return fmt.Sprintf("%d runs, %d frames, %.0f hours of virtual time", a.Runs, a.Frames, a.Virtual.Hours())
}

// share does the runs of a test in several processes. It stops at the first
// failure and logs the tally.
func share[T ~int | ~uint64](t *testing.T, runs []T, one func(run T) outcome) {
	t.Helper()
	var i, n int
	if _, err := fmt.Sscanf(os.Getenv(shareVar), "%d/%d", &i, &n); err == nil {
		work(t, runs, i, n, one)
		return
	}
	if len(runs) == 1 {
		o := one(runs[0])
		t.Logf("%d frames, digest %x, %v of virtual time", o.frames, o.digest, o.virtual)
		return
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var (
		mu    sync.Mutex
		total tally
		wg    sync.WaitGroup
	)
	started, told := time.Now(), time.Now()
	n = min(runtime.NumCPU(), len(runs))
	for i := range n {
		wg.Go(func() {
			cmd := exec.CommandContext(ctx, exe, "-test.run=^"+t.Name()+"$", "-test.timeout=0", "-test.v")
			cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d/%d", shareVar, i, n))
			var output bytes.Buffer
			cmd.Stdout, cmd.Stderr = &output, &output
			reader, writer, err := os.Pipe()
			if err != nil {
				t.Error(err)
				return
			}
			defer reader.Close()
			cmd.ExtraFiles = []*os.File{writer}
			err = cmd.Start()
			writer.Close()
			if err != nil {
				t.Error(err)
				return
			}
			// Each line is the number of a run that begins, the last one the tally.
			var at string
			finished := false
			for lines := bufio.NewScanner(reader); lines.Scan(); {
				line := lines.Text()
				var sum tally
				mu.Lock()
				if json.Unmarshal([]byte(line), &sum) == nil && line[0] == '{' {
					total.add(sum)
					finished = true
				} else if at = line; time.Since(told) > 10*time.Second {
					told = time.Now()
					t.Logf("%.0f s: at run %s of %d", time.Since(started).Seconds(), at, len(runs))
				}
				mu.Unlock()
			}
			err = cmd.Wait()
			if ctx.Err() != nil {
				return // another one failed
			}
			if err != nil || !finished {
				cancel()
				t.Errorf("run %s: %v\n%s", at, err, &output)
				if run, err := strconv.ParseUint(at, 10, 64); err == nil {
					t.Logf("replay: %s", replay(t, run))
				}
			}
		})
	}
	wg.Wait()
	t.Logf("%v, in %.0f s by %d processes", total, time.Since(started).Seconds(), n)
}

// work does one share and tells the parent about it.
func work[T ~int | ~uint64](t *testing.T, runs []T, first, step int, one func(run T) outcome) {
	parent := os.NewFile(3, "parent")
	var sum tally
	for i := first; i < len(runs) && !t.Failed(); i += step {
		fmt.Fprintln(parent, runs[i])
		o := one(runs[i])
		sum.add(tally{1, uint64(o.frames), o.virtual})
	}
	if t.Failed() {
		return
	}
	if err := json.NewEncoder(parent).Encode(sum); err != nil {
		t.Error(err)
	}
}
