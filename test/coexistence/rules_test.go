//go:build dpdk && cgo && linux

package coexistence

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gotpa/tpa/accel"
	"github.com/gotpa/tpa/internal/bpf"
	"github.com/gotpa/tpa/internal/testnet"
	"github.com/gotpa/tpa/link/dpdk/flowtest"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A device that follows flow rules is played by three parts: DPDK's driver for
// packet sockets, which gets all frames and leaves the kernel a copy of each;
// flowtest, which writes down the rules; and a filter that does what they say, on
// the driver's sockets and in front of the kernel.

func init() { playRules = play }

// ruled are the fields of a rule as flowtest prints them: IP version, the
// destination address if there is one, port and mask.
var ruled = regexp.MustCompile(`^create .*/ ipv([46])(?: spec=[0-9a-f]*?([0-9a-f]{8}|[0-9a-f]{32}) mask=[0-9a-f]*f)? / tcp spec=0000([0-9a-f]{4})[0-9a-f]* mask=0000([0-9a-f]{4})[0-9a-f]* -> .* = rule$`)

// play opens the default runtime on such a device. applied has it do what the
// rules say by now; it does so by itself, too, a little later.
func play(name string) (applied func(), err error) {
	flowtest.Start(flowtest.Refuse{})
	if _, err := accel.Default(); err != nil {
		return nil, err
	}
	filter, err := bpf.OpenIngress(name)
	if err != nil {
		return nil, err
	}
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return nil, err
	}
	sockets := 0
	for _, fd := range fds {
		n, _ := strconv.Atoi(fd.Name())
		if domain, err := unix.GetsockoptInt(n, unix.SOL_SOCKET, unix.SO_DOMAIN); err != nil || domain != unix.AF_PACKET {
			continue
		}
		if err := unix.SetsockoptInt(n, unix.SOL_SOCKET, unix.SO_ATTACH_BPF, filter.Tap()); err != nil {
			return nil, err
		}
		sockets++
	}
	if sockets == 0 {
		return nil, fmt.Errorf("the driver has no packet socket")
	}
	apply := func() {
		for line := range strings.Lines(flowtest.Take()) {
			line = strings.TrimSpace(line)
			fmt.Println("device:", line)
			m := ruled.FindStringSubmatch(line)
			if m == nil {
				continue
			}
			size := 8
			if m[1] == "6" {
				size = 32
			}
			var b []byte
			fmt.Sscanf(m[2][len(m[2])-size:], "%x", &b)
			addr, _ := netip.AddrFromSlice(b)
			port, _ := strconv.ParseUint(m[3], 16, 16)
			mask, _ := strconv.ParseUint(m[4], 16, 16)
			if err := filter.Claim(addr, uint16(port), int(^uint16(mask))+1); err != nil {
				fmt.Println("error:", err)
			}
		}
	}
	turn := make(chan struct{}, 1)
	turn <- struct{}{}
	once := func() {
		<-turn
		apply()
		turn <- struct{}{}
	}
	go func() {
		for range time.Tick(time.Millisecond) {
			once()
		}
	}()
	return once, nil
}

// TestFlowRules: a server on a DPDK device in isolated mode has its own flows, by
// rules for its addresses and port, and the kernel all others.
func TestFlowRules(t *testing.T) {
	s := newSite(t, testnet.Wire{})
	neighbour4, neighbour6 := at(s.si, port+1)
	server4, server6 := at(s.si, port)
	echoServer(t, s.server, fmt.Sprintf(":%d", port+1))
	before := s.resets()

	p := s.launch(port, "TPA_DEV=net_af_packet0,iface="+s.si.Name, "TPA_STEERING=rules", "TPA_HUGEPAGES=never", "COEXISTENCE_RULES="+s.si.Name)
	var rules []string
	next := func() string {
		t.Helper()
		for {
			line := p.line()
			said, ok := strings.CutPrefix(line, "device: ")
			if !ok {
				return line
			}
			rules = append(rules, said)
		}
	}
	if line := next(); line != "serving: accelerated true (<nil>)" {
		t.Fatalf("the server says %q", line)
	}
	if rules[0] != "isolate 1" {
		t.Errorf("the first that is asked of the device is %q, want isolated mode", rules[0])
	}
	const header4, header6, behind = "00000000000000000000000000000000", "000000000000000000000000000000000000000000000000", "00000000000000000000000000000000"
	for _, want := range []string{
		"eth / ipv4 spec=" + header4 + fmt.Sprintf("%x", s.si.IPv4.Addr().AsSlice()) + " mask=" + header4 + "ffffffff",
		"eth / ipv6 spec=" + header6 + fmt.Sprintf("%x", s.si.IPv6.Addr().AsSlice()) + " mask=" + header6 + strings.Repeat("f", 32),
	} {
		want = "create group 0 priority 0 ingress / " + want + fmt.Sprintf(" / tcp spec=0000%04x", port) + behind + " mask=0000ffff" + behind + " -> queue 0 = rule"
		if !slices.Contains(rules, want) {
			t.Errorf("no rule %s\nin %s", want, strings.Join(rules, "\n"))
		}
	}
	// Only now: what plays the device began a little after the driver.
	kernel := []*load{s.load(s.client, 2, neighbour4, echo), s.load(s.client, 2, neighbour6, echo), s.udp(s.si.IPv4.Addr())}
	loads := []*load{s.load(s.client, 4, server4, ping), s.load(s.client, 4, server6, ping)}
	goOn := func(what string) {
		t.Helper()
		var from []int64
		all := append(slices.Clone(loads), kernel...)
		for _, l := range all {
			from = append(from, l.requests.Load())
		}
		s.eventually(what, func() error {
			for i, l := range all {
				if n := l.requests.Load() - from[i]; n < 200 {
					return fmt.Errorf("load %d: %d requests, %d failures, %v", i, n, l.failures.Load(), l.last.Load())
				}
			}
			return nil
		})
	}
	goOn("both serve")

	if n := s.resets() - before; n != 0 {
		t.Errorf("the kernel sent %d resets", n)
	}

	// A new address has rules, too. The first connections may meet the kernel before
	// what plays the device has read them.
	l, err := s.server.Netlink.LinkByName(s.si.Name)
	if err != nil {
		t.Fatal(err)
	}
	added := netip.MustParsePrefix("10.99.1.77/24")
	if err := s.server.Netlink.AddrAdd(l, &netlink.Addr{IPNet: &net.IPNet{IP: added.Addr().AsSlice(), Mask: net.CIDRMask(24, 32)}}); err != nil {
		t.Fatal(err)
	}
	s.eventually("address added", func() error { return s.served(netip.AddrPortFrom(added.Addr(), port).String()) })
	goOn("address added")
	for i, l := range append(loads, kernel...) {
		l.stop()
		l.ok(t, fmt.Sprintf("load %d", i))
	}
	p.terminate()
	if line := next(); line != "closed" {
		t.Errorf("the server says %q", line)
	}
	p.Wait()
}

// TestFlowRulesRefused: a driver without isolated mode says so, and what else to do.
func TestFlowRulesRefused(t *testing.T) {
	s := newSite(t, testnet.Wire{})
	p := s.launch(port, "TPA_DEV=net_af_packet0,iface="+s.si.Name, "TPA_STEERING=rules", "TPA_HUGEPAGES=never")
	if line := p.line(); !strings.Contains(line, "net_af_packet cannot change its isolated mode") {
		t.Errorf("the server says %q", line)
	}
	p = s.launch(port, "TPA_DEV=net_af_packet0,iface="+s.si.Name, "TPA_STEERING=rules", "TPA_HUGEPAGES=never", "TPA_FALLBACK=auto")
	if line := p.line(); !strings.HasPrefix(line, "serving: accelerated false") {
		t.Errorf("a server that may fall back says %q", line)
	}
	addr, _ := at(s.si, port)
	if err := s.served(addr); err != nil {
		t.Errorf("by the kernel: %v", err)
	}
	p.Process.Signal(syscall.SIGKILL)
	p.Wait()
}
