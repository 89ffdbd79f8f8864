package dpdk

import (
	"encoding/binary"
	"net/netip"
	"testing"
)

// FuzzRule feeds flow rules.
func FuzzRule(f *testing.F) {
	f.Add("10.0.0.1", false, uint16(80), uint16(0), []byte{0, 0, 0, 1}, uint8(2))
	f.Add("fd00::1%eth0", true, uint16(0x8000), uint16(0xf000), []byte{0, 0}, uint8(1))
	f.Add("", true, uint16(1), uint16(1), []byte{}, uint8(255))
	f.Fuzz(func(t *testing.T, addr string, v6 bool, port, mask uint16, queues []byte, ports uint8) {
		r := Rule{IPv6: v6, Port: port, PortMask: mask}
		r.Addr, _ = netip.ParseAddr(addr)
		for ; len(queues) > 1; queues = queues[2:] {
			r.Queues = append(r.Queues, binary.BigEndian.Uint16(queues))
		}
		if r.check(int(ports)) == nil {
			if len(r.Queues) == 0 || r.Port == 0 || r.Port&^r.mask() != 0 || r.Addr.Zone() != "" || r.Addr.IsValid() && r.Addr.Is4() == v6 {
				t.Errorf("%+v passes", r)
			}
			for _, q := range r.Queues {
				if int(q) >= int(ports) {
					t.Errorf("queue %d of %d passes", q, ports)
				}
			}
		}
	})
}
