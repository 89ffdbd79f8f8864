package scenario

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gotpa/tpa/accel"
	"github.com/gotpa/tpa/internal/leak"
	"github.com/gotpa/tpa/internal/testframe"
	"github.com/gotpa/tpa/link/softnic"
	"github.com/gotpa/tpa/test/virtualtime"
)

func TestMain(m *testing.M) { virtualtime.Main(m) }

// oursHost is a runtime behind a card whose other end the test holds.
type oursHost struct {
	rt      *accel.Runtime
	nic     *softnic.NIC
	packets chan arrival
}

var (
	ourMAC  = [6]byte{2, 0, 0, 0, 0, 1}
	peerMAC = [6]byte{2, 0, 0, 0, 0, 2}

	ours4, peer4 = netip.MustParseAddr("10.97.0.1"), netip.MustParseAddr("10.97.0.2")
	ours6, peer6 = netip.MustParseAddr("fd97::1"), netip.MustParseAddr("fd97::2")
)

const etherTypeIPv4, etherTypeARP, etherTypeIPv6 = 0x0800, 0x0806, 0x86dd

func newOursHost(c accel.Config) (*oursHost, error) {
	nic, err := softnic.New(softnic.Config{Name: "scenario", HardwareAddr: ourMAC[:], Ring: 8192})
	if err != nil {
		return nil, err
	}
	h := &oursHost{nic: nic, packets: make(chan arrival, 1<<14)}
	nic.Attach(h.frame)
	c.Link = nic
	c.Addrs = []netip.Prefix{netip.PrefixFrom(ours4, 16), netip.PrefixFrom(ours6, 64)}
	c.Fallback, c.DebugSocket, c.Record = accel.FallbackNever, "off", -1
	c.Logger = slog.New(slog.DiscardHandler)
	if h.rt, err = accel.New(c); err != nil {
		return nil, err
	}
	return h, nil
}

// frame takes a frame that the runtime sent. It answers for the peer when the
// runtime looks for its MAC address, and keeps the rest.
func (h *oursHost) frame(b []byte) {
	switch etherType := int(b[12])<<8 | int(b[13]); {
	case etherType == etherTypeARP && len(b) >= 42 && b[21] == 1:
		reply := make([]byte, 28)
		copy(reply, b[14:22])
		reply[7] = 2
		copy(reply[8:], peerMAC[:])
		copy(reply[14:], b[38:42])
		copy(reply[18:], b[22:32])
		h.deliver(etherTypeARP, reply)
	case etherType == etherTypeIPv6 && len(b) >= 78 && b[20] == testframe.ProtocolICMPv6 && b[54] == 135:
		target := netip.AddrFrom16([16]byte(b[62:78]))
		asker := netip.AddrFrom16([16]byte(b[22:38]))
		if target != peer6 || asker.IsUnspecified() {
			return
		}
		h.deliver(etherTypeIPv6, testframe.Advertisement(target, asker, testframe.Solicited|testframe.Override, peerMAC[:]))
	case etherType == etherTypeIPv4 || etherType == etherTypeIPv6:
		packet := append([]byte(nil), b[14:]...)
		h.packets <- arrival{time.Now(), packet}
	}
}

func (h *oursHost) deliver(etherType int, payload []byte) {
	frame := make([]byte, 0, 14+len(payload))
	frame = append(frame, ourMAC[:]...)
	frame = append(frame, peerMAC[:]...)
	frame = append(frame, byte(etherType>>8), byte(etherType))
	h.nic.Deliver(append(frame, payload...))
}

func (h *oursHost) send(packet []byte) {
	if packet[0]>>4 == 6 {
		h.deliver(etherTypeIPv6, packet)
	} else {
		h.deliver(etherTypeIPv4, packet)
	}
}

func (h *oursHost) received() <-chan arrival { return h.packets }

func (h *oursHost) addrs(v6 bool) (ours, peer netip.Addr) {
	if v6 {
		return ours6, peer6
	}
	return ours4, peer4
}

func (h *oursHost) listen(addr netip.AddrPort, sc *scenario) (net.Listener, error) {
	lc := accel.ListenConfig{Runtime: h.rt, KeepAlive: -1, Backlog: sc.backlog}
	return lc.Listen(context.Background(), "tcp", addr.String())
}

func (h *oursHost) dial(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	d := accel.Dialer{Runtime: h.rt, KeepAlive: -1}
	return d.DialContext(ctx, "tcp", to.String())
}

// settle also lets a millisecond pass: a network without any delay is none that
// TCP's timers were made for.
func (h *oursHost) settle() {
	synctest.Wait()
	time.Sleep(time.Millisecond)
}

func (h *oursHost) real() bool { return false }

// runOurs runs a scenario against our stack with one of its TCPs, in virtual time.
func runOurs(t *testing.T, sc scenario, engine accel.Engine, v6 bool) (err error) {
	leak.Check(t)
	outside := t
	virtualtime.Test(t, func(t *testing.T) {
		c := accel.Config{TCP: accel.TCP{Engine: engine, Congestion: accel.CongestionReno}}
		if sc.cubic {
			c.TCP.Congestion = accel.CongestionCubic
		}
		h, e := newOursHost(c)
		if e != nil {
			t.Fatal(e)
		}
		leak.Check(outside, h.nic)
		err = newRun(h, &sc, v6).play()
		h.rt.Close()
	})
	return err
}
