package syncookie

import (
	"net/netip"
	"testing"
)

// TestHash has the vectors that the authors of SipHash published.
func TestHash(t *testing.T) {
	k := Key{0x0706050403020100, 0x0f0e0d0c0b0a0908}
	var b []byte
	for n, want := range map[int]uint64{0: 0x726fdb47dd0e0e31, 1: 0x74f839c593dc67fd, 8: 0x93f5f5799a932462, 15: 0xa129ca6149be45e5} {
		b = b[:0]
		for i := range n {
			b = append(b, byte(i))
		}
		if got := k.hash(b); got != want {
			t.Errorf("the hash of %d bytes is %#x, want %#x", n, got, want)
		}
	}
}

func TestCookie(t *testing.T) {
	k := Key{1, 2}
	local, remote := netip.MustParseAddrPort("10.0.0.2:80"), netip.MustParseAddrPort("10.0.0.1:5000")
	for peer, want := range map[uint16]uint16{0: 216, 535: 216, 536: 536, 1000: 996, 1440: 1440, 1460: 1460, 8960: 1460} {
		for _, minute := range []uint32{0, 1, 2, 3, 1 << 31} {
			cookie := k.Make(local, remote, 7, minute, peer)
			for age := range uint32(5) {
				mss, ok := k.Check(local, remote, 7, minute+age, cookie)
				if ok != (age <= 2) || ok && mss != want {
					t.Errorf("MSS %d, %d minutes later: %d, %v; want %d for two minutes", peer, age, mss, ok, want)
				}
			}
		}
	}
	cookie := k.Make(local, remote, 7, 3, 1460)
	other := netip.MustParseAddrPort("10.0.0.3:80")
	for name, ok := range map[string]func() (uint16, bool){
		"key":     func() (uint16, bool) { return Key{1, 3}.Check(local, remote, 7, 3, cookie) },
		"local":   func() (uint16, bool) { return k.Check(other, remote, 7, 3, cookie) },
		"remote":  func() (uint16, bool) { return k.Check(local, other, 7, 3, cookie) },
		"irs":     func() (uint16, bool) { return k.Check(local, remote, 8, 3, cookie) },
		"MSS":     func() (uint16, bool) { return k.Check(local, remote, 7, 3, cookie^1) },
		"swapped": func() (uint16, bool) { return k.Check(remote, local, 7, 3, cookie) },
	} {
		if _, ok := ok(); ok {
			t.Errorf("a cookie for another %s was believed", name)
		}
	}
	// IPv4 addresses are the same in either form.
	mapped := netip.AddrPortFrom(netip.AddrFrom16(local.Addr().As16()), local.Port())
	if _, ok := k.Check(mapped, remote, 7, 3, cookie); !ok {
		t.Error("an IPv4 address mapped into IPv6 is another one")
	}
}

func TestStamp(t *testing.T) {
	for _, millis := range []uint32{0, 63, 64, 1 << 31, 1<<32 - 1} {
		for shift := -1; shift <= 14; shift++ {
			for _, sack := range []bool{false, true} {
				stamp := Stamp(millis, shift, sack)
				if gotShift, gotSACK := Told(stamp); gotShift != shift || gotSACK != sack || stamp>>6 != millis>>6 {
					t.Errorf("Stamp(%d, %d, %v) is %d, which tells %d, %v", millis, shift, sack, stamp, gotShift, gotSACK)
				}
			}
		}
	}
}
