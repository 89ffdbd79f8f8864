package tpanet

import (
	"net/netip"
	"slices"
	"sync"
	"syscall"

	"github.com/gotpa/tpa/internal/transport"
)

// Listeners set SO_REUSEADDR, as those of package net do, so that a server can
// come back to its port while connections of its predecessor last or wait in
// TIME_WAIT. Linux still keeps two listeners from sharing an address; the
// stack's option does not, hence this record of who listens where.
var listening = bindings{of: map[transport.Stack][]binding{}}

type bindings struct {
	mu sync.Mutex
	of map[transport.Stack][]binding
}

// A binding is an address that a listener has.
type binding struct {
	v4, v6 bool       // the IP versions served
	addr   netip.Addr // invalid: all addresses
	port   uint16
}

func (f family) binding(a netip.AddrPort) binding {
	addr := a.Addr().Unmap()
	b := binding{addr: addr, port: a.Port(), v4: addr.Is4(), v6: addr.Is6()}
	if !addr.IsValid() {
		b.v4, b.v6 = !f.v6Only, f.ipv6
	}
	return b
}

func (b binding) conflicts(o binding) bool {
	return b.port == o.port && (b.v4 && o.v4 || b.v6 && o.v6) &&
		(!b.addr.IsValid() || !o.addr.IsValid() || b.addr == o.addr)
}

// add records b, unless another listener is in its way.
func (l *bindings) add(s transport.Stack, b binding) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if slices.ContainsFunc(l.of[s], b.conflicts) {
		return syscall.EADDRINUSE
	}
	l.of[s] = append(l.of[s], b)
	return nil
}

func (l *bindings) remove(s transport.Stack, b binding) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if i := slices.Index(l.of[s], b); i >= 0 {
		l.of[s] = slices.Delete(l.of[s], i, i+1)
	}
	if len(l.of[s]) == 0 {
		delete(l.of, s)
	}
}
