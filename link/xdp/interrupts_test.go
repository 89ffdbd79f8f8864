package xdp_test

import (
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/gotpa/tpa/internal/testnet"
	"github.com/gotpa/tpa/link/xdp"
)

// Interrupts are deferred while a device polls busily, and no longer: neither after
// Close nor after a crash, once somebody opens the interface or cleans up.
func TestDeferral(t *testing.T) {
	dir := t.TempDir()
	xdp.LeaveIn(dir)
	t.Cleanup(func() { xdp.LeaveIn("/run/tpa") })
	_, near := wire(t, testnet.Wire{})
	// With GRO, the NAPI contexts of a veth outlive the filter, as those of cards do.
	testnet.Need(t, testnet.Tool("ethtool"))
	if out, err := near.Host.Command("ethtool", "-K", near.Name, "gro", "on").CombinedOutput(); err != nil {
		t.Fatalf("ethtool -K %s gro on: %v: %s", near.Name, err, out)
	}
	want := func(when string, want bool, records int) {
		t.Helper()
		var got bool
		var n int
		var err error
		near.Host.Do(func() { got, n, err = xdp.Deferral(near.Index) })
		if err != nil || got != want {
			t.Errorf("%s: deferred is %v on %d contexts, %v, want %v", when, got, n, err, want)
		}
		if files, err := os.ReadDir(dir); err != nil || len(files) != records {
			t.Errorf("%s: records %v, %v, want %d", when, files, err, records)
		}
	}
	cfg := xdp.Config{Interface: near.Name, BusyPoll: 20 * time.Microsecond}
	dev := open(t, near, cfg)
	if err := dev.NotDeferred(); err != nil {
		testnet.Need(t, testnet.Requirement{Name: "deferral of interrupts by NAPI context", Probe: func() error { return err }, Fix: "use Linux 6.13 or newer"})
	}
	want("while open", true, 1)
	// What live processes have is left alone.
	near.Host.Do(func() {
		if cleaned, err := xdp.Clean(); len(cleaned) != 0 || err != nil {
			t.Errorf("cleaned %q, %v, want nothing", cleaned, err)
		}
	})
	want("after cleaning while open", true, 1)
	if err := dev.Close(); err != nil {
		t.Fatal(err)
	}
	want("closed", false, 0)

	var other *exec.Cmd
	killed := func() {
		other = opener(near)
		other.Env = append(other.Env, "XDP_TEST_LEAVE="+dir)
		firstLine(t, other)
		want("while open elsewhere", true, 1)
		other.Process.Kill()
		other.Wait()
		want("killed", true, 1)
	}
	killed()
	near.Host.Do(func() {
		if cleaned, err := xdp.Clean(); len(cleaned) != 1 || err != nil {
			t.Errorf("cleaned %q, %v, want one record", cleaned, err)
		}
	})
	want("cleaned", false, 0)
	killed()
	open(t, near, xdp.Config{Interface: near.Name})
	want("opened anew", false, 0)
}
