package conformance

import (
	"context"
	"net"
	"os"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/pipe"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	gtcp "gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"

	tpanet "github.com/gotpa/tpa/net"
)

func TestConformance(t *testing.T) {
	Compare(t, kernel(), pipes(t), func(t testing.TB, why string) { t.Skip(why) })
}

func kernel() Transport {
	return Transport{
		Name: "kernel",
		Listen: func(ctx context.Context, lc net.ListenConfig, network, address string) (net.Listener, error) {
			return lc.Listen(ctx, network, address)
		},
		Dial: func(ctx context.Context, d net.Dialer, network, address string) (net.Conn, error) {
			return d.DialContext(ctx, network, address)
		},
		Server4: "127.0.0.1", Client4: "127.0.0.1",
		Server6: "::1", Client6: "::1",
	}
}

type shard struct {
	*stack.Stack
}

func (s *shard) Socket(ip6 bool) (tpanet.Endpoint, *waiter.Queue, tcpip.Error) {
	proto := ipv4.ProtocolNumber
	if ip6 {
		proto = ipv6.ProtocolNumber
	}
	var queue waiter.Queue
	ep, err := s.NewEndpoint(gtcp.ProtocolNumber, proto, &queue)
	return ep, &queue, err
}

func (s *shard) Established(tpanet.Endpoint, *tpanet.Conn) {}
func (s *shard) Closed(tpanet.Endpoint, *tpanet.Conn)      {}
func (s *shard) Index() int                                { return 0 }

func newShard(t testing.TB, link stack.LinkEndpoint, ips ...net.IP) *shard {
	t.Helper()
	s := stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, ipv6.NewProtocol, arp.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{gtcp.NewProtocolCUBIC},
	})
	if err := s.CreateNIC(1, link); err != nil {
		t.Fatal(err)
	}
	for _, ip := range ips {
		addr := tcpip.ProtocolAddress{Protocol: ipv6.ProtocolNumber, AddressWithPrefix: tcpip.AddressWithPrefix{Address: tcpip.AddrFromSlice(ip), PrefixLen: 64}}
		if len(ip) == 4 {
			addr.Protocol, addr.AddressWithPrefix.PrefixLen = ipv4.ProtocolNumber, 24
		}
		if err := s.AddProtocolAddress(1, addr, stack.AddressProperties{}); err != nil {
			t.Fatal(err)
		}
	}
	s.SetRouteTable([]tcpip.Route{
		{Destination: header.IPv4EmptySubnet, NIC: 1},
		{Destination: header.IPv6EmptySubnet, NIC: 1},
	})
	t.Cleanup(s.Destroy)
	return &shard{s}
}

func pipes(t testing.TB) Transport {
	a, b := pipe.New("\x02\x00\x00\x00\x00\x01", "\x02\x00\x00\x00\x00\x02", 1500)
	server := newShard(t, a, net.IPv4(10, 0, 0, 1).To4(), net.ParseIP("fd00::1"))
	client := newShard(t, b, net.IPv4(10, 0, 0, 2).To4(), net.ParseIP("fd00::2"))
	ka := func(idle int64, cfg net.KeepAliveConfig) net.KeepAliveConfig {
		if !cfg.Enable && idle >= 0 {
			return net.KeepAliveConfig{Enable: true}
		}
		return cfg
	}
	return Transport{
		Name: "accel",
		Listen: func(ctx context.Context, lc net.ListenConfig, network, address string) (net.Listener, error) {
			a, err := net.ResolveTCPAddr(network, address)
			if err != nil {
				return nil, &net.OpError{Op: "listen", Net: network, Err: err}
			}
			ln, err := tpanet.Listen([]tpanet.Stack{server}, a, network, tpanet.ListenOptions{KeepAlive: ka(int64(lc.KeepAlive), lc.KeepAliveConfig)})
			if err != nil {
				return nil, err
			}
			return ln, nil
		},
		Dial: func(ctx context.Context, d net.Dialer, network, address string) (net.Conn, error) {
			a, err := net.ResolveTCPAddr(network, address)
			if err != nil {
				return nil, &net.OpError{Op: "dial", Net: network, Err: err}
			}
			l, _ := d.LocalAddr.(*net.TCPAddr)
			if d.Timeout != 0 {
				var cancel func()
				ctx, cancel = context.WithTimeout(ctx, d.Timeout)
				defer cancel()
			}
			if !d.Deadline.IsZero() {
				var cancel func()
				ctx, cancel = context.WithDeadline(ctx, d.Deadline)
				defer cancel()
			}
			c, err := tpanet.Dial(ctx, client, l, a, network, tpanet.DialOptions{KeepAlive: ka(int64(d.KeepAlive), d.KeepAliveConfig)})
			if err != nil {
				return nil, err
			}
			return c, nil
		},
		Server4: "10.0.0.1", Client4: "10.0.0.2",
		Server6: "fd00::1", Client6: "fd00::2",
	}
}

var _ = os.Getenv
