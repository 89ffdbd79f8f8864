package netdevgenl

import (
	"errors"
	"fmt"
	"time"

	"github.com/vishvananda/netlink/nl"

	"github.com/gotpa/tpa/internal/genetlink"
)

// Deferral is how a NAPI context holds back interrupts while somebody polls
// (Documentation/networking/napi.rst).
type Deferral struct {
	// HardIRQs is how many empty polls in a row it takes until the interrupt is
	// switched on again. 0: it is on whenever nothing is there.
	HardIRQs int
	// FlushTimeout is how long the interrupt stays off after a poll, if nobody polls
	// again.
	FlushTimeout time.Duration
	// SuspendTimeout is how long the interrupt stays off after epoll_wait returned
	// frames that it had polled for, if it is not called again.
	SuspendTimeout time.Duration
}

// A NAPI is a context in which a driver polls some of its queues.
type NAPI struct {
	ID int
	Deferral
}

// NAPIs returns the contexts of an interface (Linux 6.13).
func NAPIs(c *genetlink.Conn, ifindex int) ([]NAPI, error) {
	all, err := c.Dump(family, cmdNAPIGet, genetlink.Uint32(napiIfindex, uint32(ifindex)))
	if err != nil {
		return nil, err
	}
	var napis []NAPI
	for _, a := range all {
		n, err := parseNAPI(a)
		if err != nil {
			return nil, err
		}
		napis = append(napis, n)
	}
	if len(napis) == 0 {
		return nil, fmt.Errorf("the interface tells no NAPI context: %w", errors.ErrUnsupported)
	}
	return napis, nil
}

// GetDeferral returns how a NAPI context holds back interrupts (Linux 6.13).
func GetDeferral(c *genetlink.Conn, napi int) (Deferral, error) {
	a, err := c.Ask(family, cmdNAPIGet, genetlink.Uint32(napiID, uint32(napi)))
	if err != nil {
		return Deferral{}, err
	}
	n, err := parseNAPI(a)
	return n.Deferral, err
}

func parseNAPI(a genetlink.Attributes) (NAPI, error) {
	id, ok1 := a.Uint(napiID)
	hard, ok2 := a.Uint(napiDeferIRQs)
	flush, ok3 := a.Uint(napiFlushTimeout)
	suspend, ok4 := a.Uint(napiSuspendTimeout)
	if !ok1 || !ok2 || !ok3 || !ok4 {
		return NAPI{}, fmt.Errorf("the kernel does not defer interrupts by NAPI context: %w", errors.ErrUnsupported)
	}
	return NAPI{int(id), Deferral{int(hard), time.Duration(flush), time.Duration(suspend)}}, nil
}

// Defer changes how a NAPI context holds back interrupts (Linux 6.13). It stays so
// until somebody changes it, or the context is gone.
func Defer(c *genetlink.Conn, napi int, d Deferral) error {
	_, err := c.Ask(family, cmdNAPISet, genetlink.Uint32(napiID, uint32(napi)), genetlink.Uint32(napiDeferIRQs, uint32(d.HardIRQs)),
		nl.NewRtAttr(napiFlushTimeout, nl.Uint64Attr(uint64(d.FlushTimeout))),
		nl.NewRtAttr(napiSuspendTimeout, nl.Uint64Attr(uint64(d.SuspendTimeout))))
	return err
}
