package bifurcation

import (
	"net/netip"
	"sync/atomic"

	"github.com/gotpa/tpa/link"
)

// Operations count changes of a filter, by what was asked and whether it was done.
type Operations struct {
	// Claims and Releases are those of ports; Exceptions are changes of who gets
	// single flows at a port.
	Claims, Releases, Exceptions Outcomes
}

// Outcomes count what became of operations.
type Outcomes struct{ Done, Failed uint64 }

// outcomes are Outcomes in the making.
type outcomes struct{ done, failed atomic.Uint64 }

func (o *outcomes) add(err error) error {
	if err != nil {
		o.failed.Add(1)
	} else {
		o.done.Add(1)
	}
	return err
}

func (o *outcomes) load() Outcomes { return Outcomes{o.done.Load(), o.failed.Load()} }

// counted is a filter that counts what it is asked to do.
type counted struct {
	link.Filter
	claims, releases, exceptions outcomes
}

// countedFlows is a counted filter that can tell flows apart.
type countedFlows struct {
	*counted
	flows link.FlowFilter
}

var _ link.FlowFilter = countedFlows{}

// count returns a filter that counts, a link.FlowFilter if f is one.
func count(f link.Filter) (link.Filter, *counted) {
	c := &counted{Filter: f}
	if s, ok := f.(link.FlowFilter); ok {
		return countedFlows{c, s}, c
	}
	return c, c
}

func (c *counted) operations() Operations {
	return Operations{Claims: c.claims.load(), Releases: c.releases.load(), Exceptions: c.exceptions.load()}
}

func (c *counted) Claim(addr netip.Addr, first uint16, n int) error {
	return c.claims.add(c.Filter.Claim(addr, first, n))
}

func (c *counted) Release(addr netip.Addr, first uint16, n int) error {
	return c.releases.add(c.Filter.Release(addr, first, n))
}

func (c countedFlows) ClaimExcept(addr netip.Addr, port uint16, kept []link.Flow) error {
	return c.claims.add(c.flows.ClaimExcept(addr, port, kept))
}

func (c countedFlows) Drain(addr netip.Addr, port uint16, kept []link.Flow) error {
	return c.exceptions.add(c.flows.Drain(addr, port, kept))
}

func (c countedFlows) Except(flows []link.Flow) error {
	return c.exceptions.add(c.flows.Except(flows))
}

func (c countedFlows) Others(port uint16) ([]link.Flow, error) { return c.flows.Others(port) }
