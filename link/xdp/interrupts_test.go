package xdp_test

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
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
	cfg := xdp.Config{Interface: near.Name, BusyPoll: 20 * time.Microsecond}.DeferAnyway()
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

// Before Linux 6.13, the whole interface has its interrupts deferred, by sysfs. What
// somebody else has changed meanwhile stays, and another interface of that name, which
// sysfs may show, is left alone.
func TestDeferralBySysfs(t *testing.T) {
	dir := t.TempDir()
	xdp.ShowIn(dir)
	t.Cleanup(func() { xdp.ShowIn("/sys/class/net") })
	write := func(name, value string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, "eth0", name), []byte(value), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want := func(when, hard, flush string) {
		t.Helper()
		for name, want := range map[string]string{"napi_defer_hard_irqs": hard, "gro_flush_timeout": flush} {
			if got, err := os.ReadFile(filepath.Join(dir, "eth0", name)); err != nil || strings.TrimSpace(string(got)) != want {
				t.Errorf("%s: %s is %q, %v, want %s", when, name, got, err, want)
			}
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "eth0"), 0o700); err != nil {
		t.Fatal(err)
	}
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 1}
	write("address", mac.String()+"\n")
	write("napi_defer_hard_irqs", "1\n")
	write("gro_flush_timeout", "5000\n")

	restore, err := xdp.DeferBySysfs("eth0", mac)
	if err != nil {
		t.Fatal(err)
	}
	want("deferred", "2", "200000")
	if err := restore(); err != nil {
		t.Error(err)
	}
	want("put back", "1", "5000")

	restore, err = xdp.DeferBySysfs("eth0", mac)
	if err != nil {
		t.Fatal(err)
	}
	write("gro_flush_timeout", "7000\n")
	if err := restore(); err != nil {
		t.Error(err)
	}
	want("changed by somebody else", "2", "7000")

	if _, err := xdp.DeferBySysfs("eth0", net.HardwareAddr{2, 0, 0, 0, 0, 2}); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("another interface of that name: %v", err)
	}
	want("another interface", "2", "7000")
}

// With busy polling, a queue that waits has the kernel poll the device. Where the kernel
// cannot, as with a veth from Linux 6.13 on, interrupts stay on: a frame would wait for
// a timer.
func TestBusyWait(t *testing.T) {
	xdp.LeaveIn(t.TempDir())
	t.Cleanup(func() { xdp.LeaveIn("/run/tpa") })
	b := newBench(t, xdp.Config{BusyPoll: 100 * time.Millisecond}, testnet.Wire{})
	why := b.dev.NotDeferred()
	q := b.dev.Queue(0).(*xdp.Queue)
	b.send(b.segment(b.near.IPv4.Addr(), b.claimed, 100, 0)) // may tell the socket its NAPI context
	b.receive(q, 1)
	before := b.polled()
	for i := range 20 {
		sent := make(chan bool)
		go func() {
			defer close(sent)
			b.send(b.segment(b.near.IPv4.Addr(), b.claimed, 100, byte(i)))
		}()
		for n := 0; n == 0; {
			q.Wait(time.Second)
			n, _ = q.Receive(b.frames)
		}
		<-sent
	}
	if n := b.polled() - before; (n == 0) != (why != nil) {
		t.Errorf("the kernel has polled %d frames; not deferred: %v", n, why)
	}
	var deferred bool
	b.near.Host.Do(func() { deferred, _, _ = xdp.Deferral(b.near.Index) })
	if why != nil && deferred {
		t.Errorf("interrupts are deferred, although: %v", why)
	}
}

// polled returns how many frames near's kernel has received by polling busily.
func (b *bench) polled() (n int) {
	b.Helper()
	out, err := b.near.Host.Command("cat", "/proc/net/netstat").Output()
	if err != nil {
		b.Fatal(err)
	}
	var names []string
	for line := range strings.Lines(string(out)) {
		fields := strings.Fields(line)
		if i := slices.Index(names, "BusyPollRxPackets"); i >= 0 && i < len(fields) {
			if n, err = strconv.Atoi(fields[i]); err != nil {
				b.Fatal(err)
			}
			return n
		}
		names = fields
	}
	b.Fatal("no BusyPollRxPackets in /proc/net/netstat")
	return 0
}
