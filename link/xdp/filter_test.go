package xdp_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/gotpa/tpa/internal/bpf"
	"github.com/gotpa/tpa/internal/testnet"
	"github.com/gotpa/tpa/link"
	"github.com/gotpa/tpa/link/xdp"
)

// edit returns a copy of a frame with bytes from offset on replaced.
func edit(frame []byte, offset int, with ...byte) []byte {
	f := bytes.Clone(frame)
	copy(f[offset:], with)
	return f
}

// insert returns a copy of a frame with bytes added at offset.
func insert(frame []byte, offset int, what ...byte) []byte {
	return slices.Insert(bytes.Clone(frame), offset, what...)
}

func TestFilterActions(t *testing.T) {
	for _, m := range modes[:2] {
		t.Run(m.name, func(t *testing.T) {
			b := newBench(t, m.cfg, testnet.Wire{})
			v4 := b.segment(b.near.IPv4.Addr(), b.claimed, 100, 1)
			v6 := b.segment(b.near.IPv6.Addr(), b.claimed, 100, 1)
			mac := append(bytes.Clone(b.near.MAC), b.far.MAC...)
			const (
				ip     = 14
				tcp4   = ip + 20
				tcp6   = ip + 40
				proto4 = ip + 9
				next6  = ip + 6
			)
			tests := []struct {
				name  string
				frame []byte
				want  bpf.Counts
			}{
				{"IPv4, ours", v4, bpf.Counts{Redirected: 1}},
				{"IPv6, ours", v6, bpf.Counts{Redirected: 1}},
				{"IPv4, shortest", v4[:tcp4+20], bpf.Counts{Redirected: 1}},
				{"IPv6, shortest", v6[:tcp6+20], bpf.Counts{Redirected: 1}},
				{"IPv4, don't fragment", edit(v4, ip+6, 0x40, 0), bpf.Counts{Redirected: 1}},
				{"IPv4, traffic class", edit(v4, ip+1, 0xff), bpf.Counts{Redirected: 1}},
				{"IPv6, traffic class and flow label", edit(v6, ip, 0x6f, 0xff, 0xff, 0xff), bpf.Counts{Redirected: 1}},
				{"IPv4, port before", edit(v4, tcp4+2, byte((b.claimed-1)>>8), byte(b.claimed-1)), bpf.Counts{OtherPort: 1}},
				{"IPv4, port after", edit(v4, tcp4+2, byte((b.claimed+1)>>8), byte(b.claimed+1)), bpf.Counts{OtherPort: 1}},
				{"IPv6, other port", edit(v6, tcp6+2, 0, 22), bpf.Counts{OtherPort: 1}},
				{"IPv4, port 0", edit(v4, tcp4+2, 0, 0), bpf.Counts{OtherPort: 1}},
				{"IPv4, our port as source", edit(v4, tcp4, byte(b.claimed>>8), byte(b.claimed), 0, 22), bpf.Counts{OtherPort: 1}},
				{"IPv4, other address", edit(v4, ip+16, 10, 0, 0, 1), bpf.Counts{OtherAddress: 1}},
				{"IPv4, our address as source", edit(v4, ip+12, append(b.near.IPv4.Addr().AsSlice(), 10, 0, 0, 1)...), bpf.Counts{OtherAddress: 1}},
				{"IPv6, other address", edit(v6, ip+24+15, 9), bpf.Counts{OtherAddress: 1}},
				{"IPv6, IPv4 address mapped", edit(v6, ip+24, addr16(netip.AddrFrom16(b.near.IPv4.Addr().As16()))...), bpf.Counts{Redirected: 1}},
				{"IPv4, UDP", edit(v4, proto4, 17), bpf.Counts{NotTCP: 1}},
				{"IPv4, ICMP", edit(v4, proto4, 1), bpf.Counts{NotTCP: 1}},
				{"IPv6, UDP", edit(v6, next6, 17), bpf.Counts{NotTCP: 1}},
				{"IPv6, ICMP", edit(v6, next6, 58), bpf.Counts{NotTCP: 1}},
				{"IPv4, first fragment", edit(v4, ip+4, 0, 1, 0x20, 0), bpf.Counts{Redirected: 1}},
				{"IPv4, last fragment", edit(v4, ip+4, 0, 1, 0, 9), bpf.Counts{Redirected: 1}},
				{"IPv4, first fragment of 8 bytes", edit(v4, ip+4, 0, 2, 0x20, 0)[:tcp4+8], bpf.Counts{Redirected: 1}},
				{"IPv4, first fragment for the kernel", edit(edit(v4, ip+4, 0, 1, 0x20, 0), tcp4+2, 0, 22), bpf.Counts{OtherPort: 1}},
				{"IPv4, last fragment for the kernel", edit(v4, ip+4, 0, 1, 0, 9), bpf.Counts{Fragment: 1}},
				{"IPv4, fragment before its first", edit(v4, ip+4, 0, 3, 0x20, 9), bpf.Counts{Fragment: 1}},
				{"IPv4, fragment of another peer", edit(v4, ip+4, 0, 2, 0, 9, 64, 6, 0, 0, 10, 99, 1, 77), bpf.Counts{Fragment: 1}},
				{"IPv4, fragment of UDP", edit(edit(v4, ip+4, 0, 2, 0, 9), proto4, 17), bpf.Counts{NotTCP: 1}},
				{"IPv6, first fragment", insert(edit(v6, next6, 44), tcp6, 6, 0, 0, 1, 0, 0, 0, 1), bpf.Counts{Redirected: 1}},
				{"IPv6, last fragment", insert(edit(v6, next6, 44), tcp6, 6, 0, 0, 8, 0, 0, 0, 1), bpf.Counts{Redirected: 1}},
				{"IPv6, another fragment", insert(edit(v6, next6, 44), tcp6, 6, 0, 0, 8, 0, 0, 0, 2), bpf.Counts{Fragment: 1}},
				{"IPv6, first fragment of UDP", insert(edit(v6, next6, 44), tcp6, 17, 0, 0, 1, 0, 0, 0, 3), bpf.Counts{NotTCP: 1}},
				{"IPv6, whole packet with a fragment header", insert(edit(v6, next6, 44), tcp6, 6, 0, 0, 0, 0, 0, 0, 4), bpf.Counts{Redirected: 1}},
				{"IPv4, options", insert(edit(v4, ip, 0x46), tcp4, 1, 1, 1, 0), bpf.Counts{Redirected: 1}},
				{"IPv4, options, other port", insert(edit(edit(v4, ip, 0x46), tcp4+2, 0, 22), tcp4, 1, 1, 1, 0), bpf.Counts{OtherPort: 1}},
				{"IPv4, cut behind options", insert(edit(v4, ip, 0x46), tcp4, 1, 1, 1, 0)[:tcp4+4+19], bpf.Counts{Malformed: 1}},
				{"IPv6, hop-by-hop options", insert(edit(v6, next6, 0), tcp6, 6, 0, 1, 4, 0, 0, 0, 0), bpf.Counts{Redirected: 1}},
				{"IPv6, destination options of 16 bytes", insert(edit(v6, next6, 60), tcp6, 6, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0), bpf.Counts{Redirected: 1}},
				{"IPv6, options of UDP", insert(edit(v6, next6, 60), tcp6, 17, 0, 1, 4, 0, 0, 0, 0), bpf.Counts{NotTCP: 1}},
				{"IPv6, options that end nowhere", edit(v6, next6, 0)[:tcp6+4], bpf.Counts{Malformed: 1}},
				{"IPv6, six headers", insert(edit(v6, next6, 60), tcp6, append(bytes.Repeat([]byte{60, 0, 1, 4, 0, 0, 0, 0}, 5), 6, 0, 1, 4, 0, 0, 0, 0)...), bpf.Counts{IPOptions: 1}},
				{"IPv6, authentication header", edit(v6, next6, 51), bpf.Counts{NotTCP: 1}},
				{"IPv4, header too short", edit(v4, ip, 0x44), bpf.Counts{Malformed: 1}},
				{"IPv4, wrong version", edit(v4, ip, 0x65), bpf.Counts{Malformed: 1}},
				{"IPv6, wrong version", edit(v6, ip, 0x45), bpf.Counts{Malformed: 1}},
				{"IPv4, cut in the IP header", v4[:ip+19], bpf.Counts{Malformed: 1}},
				{"IPv4, cut in the TCP header", v4[:tcp4+19], bpf.Counts{Malformed: 1}},
				{"IPv6, cut in the IP header", v6[:ip+39], bpf.Counts{Malformed: 1}},
				{"IPv6, cut in the TCP header", v6[:tcp6+19], bpf.Counts{Malformed: 1}},
				{"ARP", append(bytes.Clone(mac), edit(make([]byte, 48), 0, 0x08, 0x06)...), bpf.Counts{NotIP: 1}},
				{"unknown protocol", append(bytes.Clone(mac), edit(make([]byte, 48), 0, 0x88, 0xb5)...), bpf.Counts{NotIP: 1}},
				{"no payload", append(bytes.Clone(mac), 0x88, 0xb5), bpf.Counts{NotIP: 1}},
				{"broadcast", edit(v4, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff), bpf.Counts{NotIP: 1}},
				{"multicast", edit(v4, 0, 0x01, 0, 0x5e, 0, 0, 1), bpf.Counts{NotIP: 1}},
				// The kernel of this end may take the tag off before the generic filter.
				{"VLAN", insert(v4, 12, 0x81, 0, 0, 5), bpf.Counts{NotIP: 1}},
			}
			for _, tt := range tests {
				t.Run(tt.name, func(t *testing.T) {
					before := b.dev.Filter().Counts()
					b.send(tt.frame)
					var got bpf.Counts
					for deadline := time.Now().Add(2 * time.Second); got != tt.want && time.Now().Before(deadline); {
						got = minus(b.dev.Filter().Counts(), before)
						// The kernels talk, too: neighbour discovery and ICMP errors.
						got.NotIP = min(got.NotIP, tt.want.NotIP)
						got.NotTCP = min(got.NotTCP, tt.want.NotTCP)
					}
					if diff := cmp.Diff(tt.want, got); diff != "" {
						t.Errorf("counts (-want +got):\n%s", diff)
					}
				})
			}
		})
	}
}

func addr16(a netip.Addr) []byte { b := a.As16(); return b[:] }

// minus returns how much the counts grew.
func minus(now, before bpf.Counts) bpf.Counts {
	return bpf.Counts{
		Redirected:   now.Redirected - before.Redirected,
		NoSocket:     now.NoSocket - before.NoSocket,
		NotIP:        now.NotIP - before.NotIP,
		NotTCP:       now.NotTCP - before.NotTCP,
		Fragment:     now.Fragment - before.Fragment,
		IPOptions:    now.IPOptions - before.IPOptions,
		Malformed:    now.Malformed - before.Malformed,
		OtherAddress: now.OtherAddress - before.OtherAddress,
		OtherPort:    now.OtherPort - before.OtherPort,
		Answered:     now.Answered - before.Answered,
		Dropped:      now.Dropped - before.Dropped,
	}
}

// ours tells whether a segment to a port goes to the device.
func (b *bench) ours(local netip.Addr, remotePort, port uint16) bool {
	b.Helper()
	before := b.dev.Filter().Counts()
	f := b.segment(local, port, 100, 0)
	offset := 34
	if local.Is6() {
		offset = 54
	}
	binary.BigEndian.PutUint16(f[offset:], remotePort)
	b.send(f)
	var v bpf.Counts
	until(b, "a count", func() bool {
		v = minus(b.dev.Filter().Counts(), before)
		return v.Redirected+v.OtherPort+v.OtherAddress > 0
	})
	if _, err := b.dev.Queue(0).Receive(b.frames); err != nil {
		b.Fatal(err)
	}
	return v.Redirected > 0
}

func TestClaimAndRelease(t *testing.T) {
	b := newBench(t, xdp.Config{}, testnet.Wire{})
	f := b.dev.Filter()
	v4, v6 := b.near.IPv4.Addr(), b.near.IPv6.Addr()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	check := func(when string, a netip.Addr, want map[uint16]bool) {
		t.Helper()
		for port, ours := range want {
			if got := b.ours(a, 40000, port); got != ours {
				t.Errorf("%s: %v port %d: ours is %v, want %v", when, a, port, got, ours)
			}
		}
	}

	must(f.Claim(v4, 61440, 128)) // two words
	block := map[uint16]bool{61439: false, 61440: true, 61503: true, 61504: true, 61567: true, 61568: false}
	check("block", v4, block)
	check("block", v6, map[uint16]bool{61440: false, b.claimed: true})

	must(f.Claim(v4, 61500, 100)) // overlaps, and not aligned
	check("overlap", v4, map[uint16]bool{61499: true, 61567: true, 61568: true, 61599: true, 61600: false})
	must(f.Release(v4, 61440, 128))
	check("release", v4, map[uint16]bool{61440: false, 61567: false, 61568: true, 61599: true, b.claimed: true})
	must(f.Release(v4, 61440, 4096)) // more than was claimed
	check("release all", v4, map[uint16]bool{61568: false, b.claimed: true})

	must(f.Claim(v4, 1, 65535))
	check("all ports", v4, map[uint16]bool{1: true, 65535: true})
	must(f.Release(v4, 1, 65535))
	check("no port", v4, map[uint16]bool{1: false, 65535: false, b.claimed: false})
	must(f.Release(v4, 1, 65535)) // nothing left
	check("no port", v6, map[uint16]bool{b.claimed: true})

	for _, bad := range []struct {
		addr  netip.Addr
		first uint16
		n     int
	}{{v4, 0, 1}, {v4, 1, 0}, {v4, 65535, 2}, {netip.Addr{}, 1, 1}, {netip.IPv4Unspecified(), 1, 1}, {netip.MustParseAddr("ff02::1"), 1, 1}} {
		if err := f.Claim(bad.addr, bad.first, bad.n); err == nil {
			t.Errorf("Claim(%v, %d, %d) is nil, want an error", bad.addr, bad.first, bad.n)
		}
	}
}

func TestAddressLimit(t *testing.T) {
	b := newBench(t, xdp.Config{}, testnet.Wire{}) // claims ports of two addresses
	f := b.dev.Filter()
	addr := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}) }
	for i := 2; i < bpf.MaxAddrs; i++ {
		if err := f.Claim(addr(i), 80, 1); err != nil {
			t.Fatalf("address %d: %v", i, err)
		}
	}
	if err := f.Claim(addr(0), 80, 1); err == nil {
		t.Errorf("claimed ports of more than %d addresses", bpf.MaxAddrs)
	}
	if err := f.Claim(addr(5), 81, 1); err != nil {
		t.Errorf("another port of a known address: %v", err)
	}
	// An address without ports makes room.
	if err := f.Release(b.near.IPv4.Addr(), b.claimed, 1); err != nil {
		t.Fatal(err)
	}
	if err := f.Claim(addr(0), 80, 1); err != nil {
		t.Errorf("after a release: %v", err)
	}
	if b.ours(b.near.IPv4.Addr(), 40000, b.claimed) {
		t.Error("a released address is still ours")
	}
}

func TestExceptions(t *testing.T) {
	for _, version := range []string{"IPv4", "IPv6"} {
		t.Run(version, func(t *testing.T) {
			b := newBench(t, xdp.Config{}, testnet.Wire{})
			f := b.dev.Filter()
			local, remote := b.near.IPv4.Addr(), b.far.IPv4.Addr()
			if version == "IPv6" {
				local, remote = b.near.IPv6.Addr(), b.far.IPv6.Addr()
			}
			flow := func(remotePort uint16) link.Flow {
				return link.Flow{Local: netip.AddrPortFrom(local, b.claimed), Remote: netip.AddrPortFrom(remote, remotePort)}
			}
			check := func(when string, want map[uint16]bool) {
				t.Helper()
				for remotePort, ours := range want {
					if got := b.ours(local, remotePort, b.claimed); got != ours {
						t.Errorf("%s: flow from port %d: ours is %v, want %v", when, remotePort, got, ours)
					}
				}
			}
			must := func(err error) {
				t.Helper()
				if err != nil {
					t.Fatal(err)
				}
			}
			check("claimed", map[uint16]bool{1000: true, 1001: true, 1002: true})
			must(f.Drain(local, b.claimed, []link.Flow{flow(1000), flow(1001)}))
			check("draining", map[uint16]bool{1000: true, 1001: true, 1002: false})
			must(f.Drain(local, b.claimed, []link.Flow{flow(1002)}))
			check("one more", map[uint16]bool{1000: true, 1001: true, 1002: true, 1003: false})
			must(f.Except([]link.Flow{flow(1001), flow(1005)}))
			check("one less", map[uint16]bool{1000: true, 1001: false, 1002: true})
			must(f.Release(local, b.claimed, 1))
			check("released", map[uint16]bool{1000: false, 1001: false, 1002: false})

			// A port that drained can be claimed again, and forgets its exceptions.
			must(f.Claim(local, b.claimed, 1))
			check("claimed again", map[uint16]bool{1000: true, 1003: true})
			must(f.Drain(local, b.claimed, nil))
			check("drained of nothing", map[uint16]bool{1000: false, 1003: false})

			must(f.ClaimExcept(local, b.claimed, []link.Flow{flow(1000), flow(1001)}))
			check("claimed but for two", map[uint16]bool{1000: false, 1001: false, 1002: true})
			must(f.Except([]link.Flow{flow(1000)}))
			check("claimed but for one", map[uint16]bool{1000: true, 1001: false, 1002: true})
			must(f.Drain(local, b.claimed, []link.Flow{flow(1002)}))
			check("drained while mixed", map[uint16]bool{1000: false, 1001: false, 1002: true})
			must(f.Except([]link.Flow{flow(1001), flow(1002)}))
			check("no exception left", map[uint16]bool{1001: false, 1002: false})

			if err := f.ClaimExcept(local, b.claimed, []link.Flow{{Local: netip.AddrPortFrom(local, 1), Remote: netip.AddrPortFrom(remote, 1)}}); err == nil {
				t.Error("ClaimExcept took a flow of another port")
			}
			if err := f.Drain(netip.MustParseAddr("192.0.2.1"), 80, nil); err == nil {
				t.Error("Drain took a port that is not claimed")
			}
		})
	}
}

// Claims change under traffic: no frame is lost on the way from one owner to the
// other.
func TestClaimUnderTraffic(t *testing.T) {
	b := newBench(t, xdp.Config{}, testnet.Wire{})
	f, local := b.dev.Filter(), b.near.IPv4.Addr()
	kept := b.segment(local, b.claimed, 100, 0)
	changing := b.segment(local, b.claimed+1, 100, 0)
	before := f.Counts()
	done := make(chan error, 1)
	go func() {
		for range 2000 {
			if err := f.Claim(local, b.claimed+1, 1); err != nil {
				done <- err
				return
			}
			if err := f.Release(local, b.claimed+1, 1); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	sent := uint64(0)
	for finished := false; !finished; {
		select {
		case err := <-done:
			if err != nil {
				t.Fatal(err)
			}
			finished = true
		default:
		}
		b.send(kept)
		b.send(changing)
		sent += 2
		if _, err := b.dev.Queue(0).Receive(b.frames); err != nil {
			t.Fatal(err)
		}
	}
	until(t, fmt.Sprintf("%d counts", sent), func() bool {
		v := minus(f.Counts(), before)
		return v.Redirected+v.OtherPort == sent && v.Redirected >= sent/2
	})
}
