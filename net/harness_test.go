package tpanet_test

import (
	"net"
	"os"
	"testing"

	"go.uber.org/goleak"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/pipe"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"

	tpanet "github.com/gotpa/tpa/net"
)

func TestMain(m *testing.M) {
	code := m.Run()
	if code == 0 {
		if err := goleak.Find(); err != nil {
			println(err.Error())
			code = 1
		}
	}
	os.Exit(code)
}

// A shard is a gVisor stack as a tpanet.Stack.
type shard struct {
	*stack.Stack
	index int
}

func (s *shard) Socket(ip6 bool) (tpanet.Endpoint, *waiter.Queue, tcpip.Error) {
	proto := ipv4.ProtocolNumber
	if ip6 {
		proto = ipv6.ProtocolNumber
	}
	var queue waiter.Queue
	ep, err := s.NewEndpoint(tcp.ProtocolNumber, proto, &queue)
	return ep, &queue, err
}

func (s *shard) Established(tpanet.Endpoint, *tpanet.Conn) {}
func (s *shard) Closed(tpanet.Endpoint, *tpanet.Conn)      {}
func (s *shard) Index() int                                { return s.index }

const nic = 1

var (
	serverIP4 = net.IPv4(10, 0, 0, 1).To4()
	clientIP4 = net.IPv4(10, 0, 0, 2).To4()
	serverIP6 = net.ParseIP("fd00::1")
	clientIP6 = net.ParseIP("fd00::2")
)

// newShards joins two stacks by a wire.
func newShards(t testing.TB) (server, client *shard) {
	t.Helper()
	a, b := pipe.New("\x02\x00\x00\x00\x00\x01", "\x02\x00\x00\x00\x00\x02", 1500)
	server = newShard(t, a, serverIP4, serverIP6)
	client = newShard(t, b, clientIP4, clientIP6)
	return server, client
}

func newShard(t testing.TB, link stack.LinkEndpoint, ips ...net.IP) *shard {
	t.Helper()
	s := stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, ipv6.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocolCUBIC},
	})
	if err := s.CreateNIC(nic, link); err != nil {
		t.Fatal(err)
	}
	for _, ip := range ips {
		addr := tcpip.ProtocolAddress{Protocol: ipv6.ProtocolNumber, AddressWithPrefix: tcpip.AddressWithPrefix{Address: tcpip.AddrFromSlice(ip), PrefixLen: 64}}
		if len(ip) == 4 {
			addr.Protocol, addr.AddressWithPrefix.PrefixLen = ipv4.ProtocolNumber, 24
		}
		if err := s.AddProtocolAddress(nic, addr, stack.AddressProperties{}); err != nil {
			t.Fatal(err)
		}
	}
	s.SetRouteTable([]tcpip.Route{
		{Destination: header.IPv4EmptySubnet, NIC: nic},
		{Destination: header.IPv6EmptySubnet, NIC: nic},
	})
	t.Cleanup(func() {
		s.Destroy()
	})
	return &shard{Stack: s}
}
