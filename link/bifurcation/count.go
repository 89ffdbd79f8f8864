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
	Filter
	claims, releases, exceptions outcomes
}

// countedSharer is a counted filter that can tell flows apart.
type countedSharer struct {
	*counted
	sharer Sharer
}

var _ Sharer = countedSharer{}

// count returns a filter that counts, a Sharer if f is one.
func count(f Filter) (Filter, *counted) {
	c := &counted{Filter: f}
	if s, ok := f.(Sharer); ok {
		return countedSharer{c, s}, c
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

func (c countedSharer) ClaimExcept(addr netip.Addr, port uint16, kept []link.Flow) error {
	return c.claims.add(c.sharer.ClaimExcept(addr, port, kept))
}

func (c countedSharer) Drain(addr netip.Addr, port uint16, kept []link.Flow) error {
	return c.exceptions.add(c.sharer.Drain(addr, port, kept))
}

func (c countedSharer) Except(flows []link.Flow) error {
	return c.exceptions.add(c.sharer.Except(flows))
}

func (c countedSharer) Others(port uint16) ([]link.Flow, error) { return c.sharer.Others(port) }
