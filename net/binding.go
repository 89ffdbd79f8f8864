package tpanet

import (
	"net/netip"
	"slices"
	"sync"

	"gvisor.dev/gvisor/pkg/tcpip"
)

// Listeners set SO_REUSEADDR, as those of package net do, so that a server can
// come back to its port while connections of its predecessor last or wait in
// TIME_WAIT. Linux still keeps two listeners from sharing an address; the
// stack's option does not, hence this record of who listens where.
var listening = bindings{of: map[Stack][]binding{}}

type bindings struct {
	mu sync.Mutex
	of map[Stack][]binding
}

// A binding is an address that a listener has.
type binding struct {
	v4, v6 bool       // the IP versions served
	addr   netip.Addr // invalid: all addresses
	port   uint16
}

func (f family) binding(a tcpip.FullAddress) binding {
	addr, _ := netip.AddrFromSlice(a.Addr.AsSlice())
	addr = addr.Unmap()
	b := binding{addr: addr, port: a.Port, v4: addr.Is4(), v6: addr.Is6()}
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
func (l *bindings) add(s Stack, b binding) tcpip.Error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if slices.ContainsFunc(l.of[s], b.conflicts) {
		return &tcpip.ErrPortInUse{}
	}
	l.of[s] = append(l.of[s], b)
	return nil
}

func (l *bindings) remove(s Stack, b binding) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if i := slices.Index(l.of[s], b); i >= 0 {
		l.of[s] = slices.Delete(l.of[s], i, i+1)
	}
	if len(l.of[s]) == 0 {
		delete(l.of, s)
	}
}
