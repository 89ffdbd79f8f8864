package ethtool_test

import (
	"net"
	"testing"

	"github.com/gotpa/tpa/internal/ethtool"
	"github.com/gotpa/tpa/internal/genetlink"
	"github.com/gotpa/tpa/internal/testnet"
)

// TestVeth asks a driver that has no RSS, and an interface that is not there.
func TestVeth(t *testing.T) {
	n := testnet.New(t)
	near, _ := n.Connect(n.Host("near"), n.Host("far"), testnet.Wire{Queues: 3})
	near.Host.Do(func() {
		s, err := ethtool.Open()
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if d, err := s.Driver(near.Name); err != nil || d.Name != "veth" {
			t.Errorf("driver: got %+v, %v, want veth", d, err)
		}
		if c, err := s.Channels(near.Name); err != nil || c.Receiving() != 3 || c.MaxReceiving() != 3 {
			t.Errorf("channels: got %+v, %v, want 3 of 3", c, err)
		}
		if r, err := s.RSS(near.Name); err == nil {
			t.Errorf("RSS: got %+v, want an error", r)
		}
		if four, err := s.FourTuple(near.Name, ethtool.TCPv4); err == nil {
			t.Errorf("hash fields: got %v, want an error", four)
		}
		// A number that does not change, and one of each queue.
		if all, err := s.Statistics(near.Name).Read(); err != nil || all["peer_ifindex"] == 0 {
			t.Errorf("statistics: got %v, %v, want peer_ifindex", all, err)
		} else if _, ok := all["rx_queue_2_xdp_packets"]; !ok {
			t.Errorf("statistics: got %v, want those of 3 queues", all)
		}
		c, err := genetlink.Open()
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		lo, _ := net.InterfaceByName("lo")
		if on, err := ethtool.Features(c, lo.Index); err != nil || !on["tx-tcp-segmentation"] || on["rx-lro"] {
			t.Errorf("features of lo: got %v, %v", on, err)
		}
		if on, err := ethtool.Features(c, 1<<20); err == nil {
			t.Errorf("features of an interface that is not there: got %v", on)
		}
		if _, err := s.Driver("nowhere"); err == nil {
			t.Error("no error for an interface that is not there")
		}
	})
}

// BenchmarkStatistics is what a look at a driver's counters costs, here those of 8
// queues.
func BenchmarkStatistics(b *testing.B) {
	n := testnet.New(b)
	near, _ := n.Connect(n.Host("near"), n.Host("far"), testnet.Wire{Queues: 8})
	var s *ethtool.Socket
	near.Host.Do(func() { s, _ = ethtool.Open() })
	defer s.Close()
	for name, read := range map[string]func() *ethtool.Statistics{
		"names once": func() func() *ethtool.Statistics {
			st := s.Statistics(near.Name)
			return func() *ethtool.Statistics { return st }
		}(),
		"names each time": func() *ethtool.Statistics { return s.Statistics(near.Name) },
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if _, err := read().Read(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
