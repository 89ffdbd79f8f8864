package conformance

import (
	"net"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/net/nettest"

	"github.com/gotpa/tpa/accel"
	"github.com/gotpa/tpa/internal/testnet"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		// Lives as long as DPDK's EAL: until the process ends.
		goleak.IgnoreAnyFunction("github.com/gotpa/tpa/link/dpdk.(*logReader).read"))
}

// TestConformance compares accel, over every link and on both TCPs, with the
// kernel.
func TestConformance(t *testing.T) {
	references, others := []Transport{loopback()}, []Transport{
		overMemory(t), overMemoryGVisor(t), overHandlers(t, "handlers", accel.TCP{}),
	}
	if testnet.Netns.Probe() == nil {
		wire := newWire(t)
		references = []Transport{wire.kernel(), loopback()}
		others = append(others, wire.xdp())
	}
	if builtWithDPDK.Probe() == nil {
		others = append(others, overMemif(t))
	}
	Compare(t, references, others, func(t testing.TB, why string) {
		t.Helper()
		testnet.Need(t, testnet.Netns)
		t.Skip(why)
	})
}

// TestLinks fails, or is skipped, where TestConformance has to leave out a link.
func TestLinks(t *testing.T) {
	testnet.Need(t, testnet.Netns, builtWithDPDK)
}

// TestNettest runs the tests that golang.org/x/net has for any net.Conn.
func TestNettest(t *testing.T) {
	for _, link := range []struct {
		name string
		open func(t *testing.T) Transport
	}{
		{"memory", overMemory},
		{"gvisor", overMemoryGVisor},
		{"handlers", func(t *testing.T) Transport { return overHandlers(t, "handlers", accel.TCP{}) }},
		{"handlers on gvisor", func(t *testing.T) Transport {
			return overHandlers(t, "handlers", accel.TCP{Engine: accel.EngineGVisor})
		}},
		{"memif", overMemif},
		{"xdp", func(t *testing.T) Transport { return newWire(t).xdp() }},
	} {
		t.Run(link.name, func(t *testing.T) {
			tr := link.open(t)
			for _, ip := range []string{tr.Server4, tr.Server6} {
				t.Run(ip, func(t *testing.T) { testConn(t, tr, ip) })
			}
		})
	}
}

func testConn(t *testing.T, tr Transport, ip string) {
	ln, err := tr.Listen(t.Context(), net.ListenConfig{}, "tcp", net.JoinHostPort(ip, "0"))
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
		c1, err = tr.Dial(t.Context(), net.Dialer{}, "tcp", ln.Addr().String())
		if err != nil {
			return nil, nil, nil, err
		}
		if c2, err = ln.Accept(); err != nil {
			c1.Close()
			return nil, nil, nil, err
		}
		return c1, c2, func() { c1.Close(); c2.Close() }, nil
	})
}

// TestNamePort gives names to one port number on two hosts.
func TestNamePort(t *testing.T) {
	e := &Env{ports: map[string]string{}}
	e.NamePort(&net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 40000}, "L")
	e.NamePort(&net.TCPAddr{IP: net.IPv4(192, 0, 2, 2), Port: 40000}, "C")
	e.Note("from", "192.0.2.1:40000->192.0.2.2:40000 192.0.2.1:40001")
	if got, want := e.notes[0], "from: 192.0.2.1:L->192.0.2.2:C 192.0.2.1:PORT"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
