package xdp_test

import (
	"net/netip"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/gotpa/tpa/internal/testframe"
	"github.com/gotpa/tpa/internal/testnet"
	"github.com/gotpa/tpa/link"
	"github.com/gotpa/tpa/link/xdp"
)

// BenchmarkBulk compares the two ways out for 64 KB of a connection: as segments of an
// MSS through the transmit ring, as zero-copy mode has to, and as one large segment
// through a packet socket. The ring's frames are copied here, too, which a device in
// zero-copy mode saves. The receiver drops them.
func BenchmarkBulk(b *testing.B) {
	for _, tt := range []struct {
		name        string
		cfg         xdp.Config
		frames, mss int
		segment     int
	}{
		{"ring", xdp.Config{RingSize: 2048}.SendByRing(), 45, 0, 1448},
		{"packet socket", xdp.Config{}, 1, 1448, 45 * 1448},
	} {
		b.Run(tt.name, func(b *testing.B) {
			n := testnet.New(b)
			far, near := n.Connect(n.Host("far"), n.Host("near"), testnet.Wire{})
			tt.cfg.Interface = near.Name
			var dev *xdp.Device
			var err error
			near.Host.Do(func() { dev, err = xdp.Open(tt.cfg) })
			if err != nil {
				b.Fatal(err)
			}
			defer dev.Close()
			q := dev.Queue(0)
			s := testframe.TCP{DstMAC: far.MAC, SrcMAC: near.MAC, Flags: header.TCPFlagRst, Payload: make([]byte, tt.segment),
				Src: netip.AddrPortFrom(near.IPv4.Addr(), 6379), Dst: netip.AddrPortFrom(far.IPv4.Addr(), 40000)}
			tx := link.TxOffload{}
			if tt.mss != 0 {
				s.Sum = testframe.Partial
				tx = link.TxOffload{Flags: link.TxTCPChecksum, L2Len: 14, L3Len: 20, L4Len: 20, MSS: uint16(tt.mss)}
			}
			frame := s.Frame()
			b.SetBytes(45 * 1448)
			for b.Loop() {
				for range tt.frames {
					room := q.Reserve(len(frame))
					for room == nil {
						if _, err := q.Flush(); err != nil {
							b.Fatal(err)
						}
						room = q.Reserve(len(frame))
					}
					copy(room, frame)
					q.Commit(len(frame), tx)
				}
				for pending := 1; pending > 0; {
					if pending, err = q.Flush(); err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
}
