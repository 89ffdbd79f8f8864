package virtualtime

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"gvisor.dev/gvisor/pkg/sleep"
)

func TestMain(m *testing.M) { Main(m) }

// TestParkedGoroutinesCountAsWaiting is what all of this is for: time moves on
// while a goroutine waits the way gVisor's do.
func TestParkedGoroutinesCountAsWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var sleeper sleep.Sleeper
		var waker sleep.Waker
		sleeper.AddWaker(&waker)
		start := time.Now()
		time.AfterFunc(time.Hour, waker.Assert)
		sleeper.Fetch(true)
		if got := time.Since(start); got != time.Hour {
			t.Errorf("woke after %v, want 1h", got)
		}
		sleeper.Done()
	})
}

func TestClocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		Step(-time.Hour)
		time.Sleep(time.Second)
		if got := time.Since(start); got != time.Second {
			t.Errorf("the wall clock was set while a second passed: %v passed", got)
		}
		if got := time.Now().Round(0).Sub(start.Round(0)); got != time.Second-time.Hour {
			t.Errorf("the wall clock moved by %v, want -59m59s", got)
		}
		var late time.Duration
		due := time.Now().Add(time.Second)
		timer := time.AfterFunc(time.Second, func() { late = time.Since(due) })
		never := time.AfterFunc(time.Hour, func() {})
		if n := Timers(); n != 2 {
			t.Errorf("%d timers, want 2", n)
		}
		Suspend(time.Minute)
		synctest.Wait()
		if late != 59*time.Second {
			t.Errorf("a timer was %v late, want 59s", late)
		}
		timer.Stop()
		never.Stop()
		if n := Timers(); n != 0 {
			t.Errorf("%d timers, want none", n)
		}
	})
}

const (
	goodRuntime = `
	waitReasonZero     waitReason = iota // ""
	waitReasonOther                      // "other"
	waitReasonSelect                     // "select"
	waitReasonSyncCondWait               // "sync.Cond.Wait"
)
var isIdleInSynctest = [len(waitReasonStrings)]bool{
	waitReasonSyncCondWait:          true,
}`
	goodConstants = "package sync\nconst (\n\tWaitReasonSelect      uint8 = 2\n\tOther uint8 = 18\n)\n"
)

func TestPatch(t *testing.T) {
	for _, c := range []struct {
		name, runtime, constants string
		want                     string // of the error
	}{
		{"fits", goodRuntime, goodConstants, ""},
		{"Go without the reason", strings.ReplaceAll(goodRuntime, "SyncCondWait  ", "Cond"), goodConstants, "no waitReasonSelect or no waitReasonSyncCondWait"},
		{"Go that does not take it for idle", strings.ReplaceAll(goodRuntime, "true", "false"), goodConstants, "as idle in synctest"},
		{"gVisor without the constant", goodRuntime, "package sync", "does not declare WaitReasonSelect"},
		{"gVisor of another Go", goodRuntime, strings.ReplaceAll(goodConstants, "= 2", "= 3"), "for 3, in this Go it is 2"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			for name, data := range map[string]string{"src/runtime/runtime2.go": c.runtime, constants: c.constants} {
				name = filepath.Join(dir, name)
				if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(name, []byte(data), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			file, reason, err := patch(dir, "v0", dir)
			if c.want != "" {
				if !errors.Is(err, errMisfit) || !strings.Contains(err.Error(), c.want) {
					t.Errorf("error %v, want a misfit about %q", err, c.want)
				}
				return
			}
			if want := strings.Replace(goodConstants, "= 2", "= 3", 1); err != nil || reason != "3" || string(file) != want {
				t.Errorf("got %q, reason %s, %v; want %q, reason 3", file, reason, err, want)
			}
		})
	}
}

func TestEdit(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "new.go"), []byte("one two two"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		edit replacement
		want string // the file, empty when the edit does not fit
	}{
		{"once", replacement{"new.go", "one", "1"}, "1 two two"},
		{"moved", replacement{"old.go|new.go", "one", "1"}, "1 two two"},
		{"twice", replacement{"new.go", "two", "2"}, ""},
		{"never", replacement{"new.go", "three", "3"}, ""},
		{"no such file", replacement{"old.go", "one", "1"}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			files := map[string][]byte{}
			misfits, err := edit(files, dir, []replacement{c.edit})
			if err != nil {
				t.Fatal(err)
			}
			if got := string(files["new.go"]); got != c.want || len(misfits) == 0 != (c.want != "") {
				t.Errorf("file %q, misfits %v; want %q", got, misfits, c.want)
			}
			if err := mustEdit(map[string][]byte{}, dir, []replacement{c.edit}); errors.Is(err, errMisfit) != (c.want == "") {
				t.Errorf("edit that has to fit: %v", err)
			}
		})
	}
}
