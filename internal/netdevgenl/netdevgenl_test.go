package netdevgenl_test

import (
	"testing"

	"github.com/gotpa/tpa/internal/genetlink"
	"github.com/gotpa/tpa/internal/netdevgenl"
	"github.com/gotpa/tpa/internal/testnet"
)

func TestGet(t *testing.T) {
	n := testnet.New(t)
	near, _ := n.Connect(n.Host("near"), n.Host("far"), testnet.Wire{})
	var c *genetlink.Conn
	near.Host.Do(func() {
		var err error
		if c, err = genetlink.Open(); err != nil {
			t.Fatal(err)
		}
	})
	t.Cleanup(c.Close)
	// The connection asks where it was opened, whatever the thread that asks.
	d, err := netdevgenl.Get(c, near.Index)
	testnet.Need(t, testnet.Requirement{Name: "the netlink family netdev", Probe: func() error { return err }, Fix: "use Linux 6.3 or newer"})
	if !d.Features.Has(netdevgenl.Basic|netdevgenl.Redirect) || d.Features.Has(netdevgenl.ZeroCopy) || d.TxChecksum {
		t.Errorf("veth: got %+v, want native XDP with redirection, without zero-copy mode", d)
	}
	if d, err := netdevgenl.Get(c, 1<<20); err == nil {
		t.Errorf("an interface that is not there: got %+v, want an error", d)
	}
	if _, err := c.Ask("no-such-family", 1); err == nil {
		t.Error("no error from a family that is not there")
	}
}
