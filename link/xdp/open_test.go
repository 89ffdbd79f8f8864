package xdp_test

import (
	"bufio"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gotpa/tpa/internal/bpf"
	"github.com/gotpa/tpa/internal/testnet"
	"github.com/gotpa/tpa/link"
	"github.com/gotpa/tpa/link/xdp"
	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"
)

// TestMain turns the test binary into the process that a test wants to watch from
// outside.
func TestMain(m *testing.M) {
	if name := os.Getenv("XDP_TEST_INTERFACE"); name != "" {
		cfg := xdp.Config{Interface: name}
		if dir := os.Getenv("XDP_TEST_LEAVE"); dir != "" {
			xdp.LeaveIn(dir)
			cfg.BusyPoll = 20 * time.Microsecond
			cfg = cfg.DeferAnyway()
		}
		if dir := os.Getenv("XDP_TEST_PIN"); dir != "" {
			bpf.PinDir = dir
			cfg.Pin = true
		}
		dev, err := xdp.Open(cfg)
		if a, aerr := netip.ParseAddr(os.Getenv("XDP_TEST_CLAIM")); err == nil && aerr == nil {
			err = errors.Join(dev.Filter().Claim(a, 6379, 1), dev.Filter().Allow([]netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}))
		}
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println("open:", dev)
		select {}
	}
	goleak.VerifyTestMain(m)
}

// opener returns a command that opens the interface in another process, and then
// stays. Its first line of output is "open:" and the device, or the error.
func opener(i *testnet.Interface) *exec.Cmd {
	cmd := i.Host.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "XDP_TEST_INTERFACE="+i.Name)
	return cmd
}

func firstLine(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("no line from the other process: %v", err)
	}
	return strings.TrimSpace(line)
}

// attached returns whether a program is attached, as XDP or behind it.
func attached(t *testing.T, i *testnet.Interface) bool {
	t.Helper()
	is, err := i.Filtered()
	if err != nil {
		t.Fatal(err)
	}
	return is
}

func wire(t *testing.T, w testnet.Wire) (far, near *testnet.Interface) {
	n := testnet.New(t)
	return n.Connect(n.Host("far"), n.Host("near"), w)
}

// A process that is killed leaves nothing behind, and the next one can start.
func TestKill(t *testing.T) {
	_, near := wire(t, testnet.Wire{})
	for range 3 {
		cmd := opener(near)
		if line := firstLine(t, cmd); !strings.HasPrefix(line, "open: ") {
			t.Fatal(line)
		}
		until(t, "a program is attached", func() bool { return attached(t, near) })
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		killed := time.Now()
		until(t, "program detached", func() bool { return !attached(t, near) })
		if d := time.Since(killed); d > time.Second {
			t.Errorf("the program stayed %v after the kill", d)
		}
		cmd.Wait()
	}
	open(t, near, xdp.Config{Interface: near.Name})
}

// wantError opens a device that cannot be opened, and looks for words in the
// message and an errno below it.
func wantError(t *testing.T, i *testnet.Interface, cfg xdp.Config, errno error, words ...string) {
	t.Helper()
	var dev *xdp.Device
	var err error
	i.Host.Do(func() { dev, err = xdp.Open(cfg) })
	if err == nil {
		dev.Close()
		t.Fatalf("opened %v, want an error", dev)
	}
	t.Log(err)
	var e *link.InterfaceError
	if !errors.As(err, &e) || e.Problem == "" || e.Remedy == "" {
		t.Errorf("%v is not an *link.InterfaceError with a problem and a remedy", err)
	}
	if !errors.Is(err, errno) {
		t.Errorf("%v is not %v", err, errno)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%v does not say %q", err, w)
		}
	}
}

func TestOpenErrors(t *testing.T) {
	far, near := wire(t, testnet.Wire{Queues: 2})
	wantError(t, near, xdp.Config{Interface: "nowhere"}, syscall.ENODEV, "nowhere", "ip link")
	wantError(t, near, xdp.Config{Interface: near.Name, Queues: 3}, syscall.EINVAL, "3 queues", "has 2", "ethtool -L")

	dev := open(t, near, xdp.Config{Interface: near.Name})
	wantError(t, near, xdp.Config{Interface: near.Name}, syscall.EBUSY, "another XDP program", "another process that uses this library")
	wantError(t, near, xdp.Config{Interface: near.Name, Attach: xdp.AttachGeneric}, syscall.EEXIST, "another XDP program")
	if err := dev.Close(); err != nil {
		t.Fatal(err)
	}
	open(t, near, xdp.Config{Interface: near.Name})

	for _, cfg := range []xdp.Config{
		{},
		{Interface: "eth0", Queues: -1},
		{Interface: "eth0", RingSize: 100},
		{Interface: "eth0", RingSize: 65536},
		{Interface: "eth0", Attach: 7},
		{Interface: "eth0", BusyPoll: time.Nanosecond},
	} {
		if _, err := xdp.Open(cfg); err == nil || !strings.Contains(err.Error(), "Config.") {
			t.Errorf("Open(%+v): %v, want an error that names the field", cfg, err)
		}
	}
	_ = far
}

// fragments tells whether frames of the interface's MTU are to arrive in several chunks.
func fragments(t *testing.T, i *testnet.Interface) bool {
	t.Helper()
	var p xdp.Plan
	var err error
	i.Host.Do(func() { p, err = xdp.Config{Interface: i.Name}.Plan() })
	if err != nil {
		t.Fatal(err)
	}
	return p.Fragments
}

// Frames of a great MTU arrive in several chunks, which the queue puts together, where
// the kernel can hand them over so (Linux 6.6). Else generic mode has what a chunk holds.
func TestGreatMTU(t *testing.T) {
	_, near := wire(t, testnet.Wire{MTU: 9000})
	generic := func(cfg xdp.Config, why bool) {
		t.Helper()
		cfg.Interface = near.Name
		dev := open(t, near, cfg)
		if dev.Filter().Mode() != bpf.Generic || (dev.NotNative() != nil) != why {
			t.Errorf("%v (%v), want generic mode", dev, dev.NotNative())
		}
		want := 4096 - 256 - 14
		if fragments(t, near) {
			want = 9000
		}
		if mtu := dev.Info().MTU; mtu != want {
			t.Errorf("Info().MTU is %d, want %d", mtu, want)
		}
		dev.Close()
	}
	generic(xdp.Config{Attach: xdp.AttachGeneric}, false)
	if !fragments(t, near) {
		wantError(t, near, xdp.Config{Interface: near.Name, Attach: xdp.AttachNative}, syscall.ERANGE, "MTU of 9000", "mtu 1500")
		if attached(t, near) {
			t.Error("a program stayed attached")
		}
		generic(xdp.Config{}, true)
		return
	}
	for _, a := range []xdp.Attach{xdp.AttachAuto, xdp.AttachNative} {
		dev := open(t, near, xdp.Config{Interface: near.Name, Attach: a})
		if dev.Filter().Mode() != bpf.Native || dev.NotNative() != nil || dev.Info().MTU != 9000 {
			t.Errorf("%v (%v) with an MTU of %d, want native mode and 9000", dev, dev.NotNative(), dev.Info().MTU)
		}
		dev.Close()
	}
}

// A driver that does not run XDP: native mode is refused with the reason, and the
// kernel's generic mode takes its place where that may be.
func TestDriverWithoutXDP(t *testing.T) {
	_, parent := wire(t, testnet.Wire{})
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.ParentIndex = "macvlan0", parent.Index
	if err := parent.Host.Netlink.LinkAdd(&netlink.Macvlan{LinkAttrs: attrs, Mode: netlink.MACVLAN_MODE_BRIDGE}); errors.Is(err, syscall.EOPNOTSUPP) {
		testnet.Need(t, testnet.Requirement{Name: "macvlan interfaces", Probe: func() error { return err }, Fix: "modprobe macvlan"})
	} else if err != nil {
		t.Fatal(err)
	}
	near := &testnet.Interface{Host: parent.Host, Name: attrs.Name}
	wantError(t, near, xdp.Config{Interface: near.Name, Attach: xdp.AttachNative}, syscall.EOPNOTSUPP, "does not run XDP", "AttachGeneric")
	dev := open(t, near, xdp.Config{Interface: near.Name})
	if dev.Filter().Mode() != bpf.Generic || dev.NotNative() == nil {
		t.Errorf("%v (%v), want generic mode and why", dev, dev.NotNative())
	}
}

// Without privileges, the error says which.
func TestNoPrivileges(t *testing.T) {
	_, near := wire(t, testnet.Wire{})
	tests := []struct{ name, capabilities, want string }{
		{"none", "-all", "CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN"},
		{"no sockets", "-net_raw", "CAP_NET_RAW"},
	}
	testnet.Need(t, testnet.Tool("setpriv"))
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cmd := near.Host.Command("setpriv", "--bounding-set", tt.capabilities, "--inh-caps", tt.capabilities, os.Args[0])
			cmd.Env = append(os.Environ(), "XDP_TEST_INTERFACE="+near.Name)
			line := firstLine(t, cmd)
			cmd.Wait()
			t.Log(line)
			if !strings.Contains(line, tt.want) || !strings.Contains(line, "setcap") {
				t.Errorf("%q does not name %s and setcap", line, tt.want)
			}
			if attached(t, near) {
				t.Error("a program stayed attached")
			}
		})
	}
}

// What Config.Plan says without attaching anything is what Open makes of it.
func TestPlanHolds(t *testing.T) {
	greater := xdp.AttachNative
	if _, near := wire(t, testnet.Wire{MTU: 9000}); !fragments(t, near) {
		greater = xdp.AttachGeneric // before Linux 6.6
	}
	for _, tt := range []struct {
		name string
		cfg  xdp.Config
		wire testnet.Wire
		want xdp.Attach
	}{
		{"native", xdp.Config{}, testnet.Wire{Queues: 2}, xdp.AttachNative},
		{"as great as native mode takes", xdp.Config{}, testnet.Wire{MTU: 3506}, xdp.AttachNative},
		{"greater", xdp.Config{}, testnet.Wire{MTU: 3507}, greater},
		{"generic", xdp.Config{Attach: xdp.AttachGeneric}, testnet.Wire{}, xdp.AttachGeneric},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, near := wire(t, tt.wire)
			tt.cfg.Interface = near.Name
			var p xdp.Plan
			var err error
			near.Host.Do(func() { p, err = tt.cfg.Plan() })
			if err != nil {
				t.Fatal(err)
			}
			if p.Attach != tt.want || p.Driver != "veth" || p.ZeroCopy || p.Copies == "" || p.Slower == "" || p.Queues != max(tt.wire.Queues, 1) {
				t.Errorf("got plan %+v, want %v, copying, slower than a packet socket, for veth", p, tt.want)
			}
			if attached(t, near) {
				t.Error("asking attached a program")
			}
			dev := open(t, near, tt.cfg)
			for i, m := range dev.Info().QueueModes {
				if want := "copy: " + p.Copies; m != want {
					t.Errorf("queue %d: got mode %q, want %q", i, m, want)
				}
			}
			if got := xdp.Attach(dev.Filter().Mode()); got != p.Attach || dev.ZeroCopy() != p.ZeroCopy || len(dev.Info().QueueModes) != p.Queues || dev.Info().Queues != p.Queues {
				t.Errorf("opened %v with %d queues, planned %v", dev, dev.Info().Queues, p)
			}
		})
	}
	_, near := wire(t, testnet.Wire{})
	near.Host.Do(func() {
		if _, err := (xdp.Config{Interface: "nowhere"}).Plan(); !errors.Is(err, syscall.ENODEV) {
			t.Errorf("an interface that is not there: %v", err)
		}
		if _, err := (xdp.Config{}).Plan(); err == nil {
			t.Error("no error without an interface")
		}
	})
}
