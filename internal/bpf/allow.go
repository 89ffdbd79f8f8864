package bpf

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"
)

// Allow makes SYNs of these sources ours, and has the filter drop those of others: at
// the ports that are claimed, from the next frame on. Without prefixes, all sources may
// connect. A new filter allows all. On error, no source is allowed that is not among
// the prefixes, or was not before.
func (f *Filter) Allow(sources []netip.Prefix) error {
	if len(sources) > MaxSources {
		return fmt.Errorf("filter: %d prefixes of sources: want at most %d", len(sources), MaxSources)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return errFilterClosed
	}
	want := make(map[filterPrefix]bool)
	for _, p := range sources {
		if !p.IsValid() {
			return fmt.Errorf("filter: source %v: want a prefix", p)
		}
		want[prefixKey(p)] = true
	}
	if len(sources) == 0 {
		want[filterPrefix{}] = true // everything
	}
	// First those that go: there is room for the others then.
	var errs []error
	for key := range f.allowed {
		if !want[key] {
			errs = append(errs, ignoreMissing(f.maps.Allowed.Delete(key)))
			delete(f.allowed, key)
		}
	}
	for key := range want {
		if f.allowed[key] {
			continue
		}
		if err := f.maps.Allowed.Update(key, uint8(1), ebpf.UpdateAny); err != nil {
			errs = append(errs, fmt.Errorf("filter: allow sources: %w", err))
			continue
		}
		f.allowed[key] = true
	}
	return errors.Join(errs...)
}

// prefixKey returns a prefix as the filter sees it, IPv4 mapped into IPv6.
func prefixKey(p netip.Prefix) filterPrefix {
	p = p.Masked()
	bits := p.Bits()
	if p.Addr().Is4() {
		bits += 96
	}
	return filterPrefix{Bits: uint32(bits), Addr: addrKey(p.Addr())}
}

// allowAll is Allow for a new filter.
func (f *Filter) allowAll() error {
	f.allowed = make(map[filterPrefix]bool)
	return f.Allow(nil)
}
