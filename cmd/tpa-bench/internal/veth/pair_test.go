package veth

import (
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/gotpa/tpa/internal/testnet"
)

var first, second = netip.MustParsePrefix("198.18.0.1/24"), netip.MustParsePrefix("198.18.0.2/24")

// TestPair looks at both ends of a pair from the inside.
func TestPair(t *testing.T) {
	testnet.Need(t, testnet.Root, testnet.Netns)
	before := namespaces(t)
	p, err := New(2, 9000, first, second)
	if err != nil {
		t.Fatal(err)
	}
	for i, end := range []*os.File{p.First(), p.Second()} {
		h, err := netlink.NewHandleAt(netns.NsHandle(end.Fd()), unix.NETLINK_ROUTE)
		if err != nil {
			t.Fatal(err)
		}
		l, err := h.LinkByName(Interface)
		if err != nil {
			t.Fatal(err)
		}
		addrs, err := h.AddrList(l, netlink.FAMILY_V4)
		want := []netip.Prefix{first, second}[i]
		if a := l.Attrs(); err != nil || len(addrs) != 1 || addrs[0].IPNet.String() != want.String() ||
			a.NumRxQueues != 2 || a.OperState != netlink.OperUp || l.Type() != "veth" {
			t.Errorf("end %d: %v %+v, addresses %v, %v; want 2 queues, up, %v", i, l.Type(), a, addrs, err, want)
		}
		h.Close()
	}
	p.Close()
	if after := namespaces(t); !slices.Equal(after, before) {
		t.Errorf("namespaces open after Close: %v, before New: %v", after, before)
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if own, err := netns.Get(); err != nil || !own.Equal(netns.NsHandle(mustOpen(t, "/proc/self/ns/net").Fd())) {
		t.Errorf("the test's thread is in another namespace, or %v", err)
	}
}

// namespaces returns the network namespaces that this process holds open.
func namespaces(t *testing.T) (held []string) {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		if to, _ := os.Readlink("/proc/self/fd/" + fd.Name()); strings.HasPrefix(to, "net:") {
			held = append(held, to)
		}
	}
	return held
}

func mustOpen(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}
