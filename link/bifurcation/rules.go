package bifurcation

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"

	"github.com/gotpa/tpa/link"
)

// Rules is the filter of a device in isolated mode: one flow rule for each range
// of ports that a mask can express, so one for a listener's port and one for a
// block of a power of two.
type Rules struct {
	device link.FlowRuler

	mu      sync.Mutex
	handles map[link.FlowRule]uint64
}

var _ Filter = (*Rules)(nil)

// NewRules returns the filter of a device without rules.
func NewRules(d link.FlowRuler) *Rules {
	return &Rules{device: d, handles: make(map[link.FlowRule]uint64)}
}

// Claim implements Filter. It asks the device about all rules first, and takes
// back those it has made when one fails.
func (r *Rules) Claim(addr netip.Addr, first uint16, n int) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.create(masks(addr, int(first), int(first)+n))
}

func (r *Rules) create(rules []link.FlowRule) error {
	for _, rule := range rules {
		if err := r.device.ValidateFlowRule(rule); err != nil {
			return fmt.Errorf("flow rule for %v: %w", rule, err)
		}
	}
	for i, rule := range rules {
		handle, err := r.device.CreateFlowRule(rule)
		if err != nil {
			err = fmt.Errorf("flow rule for %v: %w", rule, err)
			return errors.Join(err, r.destroy(rules[:i]))
		}
		r.handles[rule] = handle
	}
	return nil
}

func (r *Rules) destroy(rules []link.FlowRule) error {
	var errs []error
	for _, rule := range rules {
		if err := r.device.DestroyFlowRule(r.handles[rule]); err != nil {
			errs = append(errs, fmt.Errorf("destroy flow rule for %v: %w", rule, err))
			continue
		}
		delete(r.handles, rule)
	}
	return errors.Join(errs...)
}

// Release implements Filter. A rule that goes only in part is replaced: the rest
// has its own rules before the old one goes.
func (r *Rules) Release(addr netip.Addr, first uint16, n int) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	from, to := int(first), int(first)+n
	var old, rest []link.FlowRule
	for rule := range r.handles {
		low := int(rule.Port)
		high := low + int(^rule.Mask) + 1
		if rule.Addr != addr || high <= from || low >= to {
			continue
		}
		old = append(old, rule)
		rest = append(rest, masks(addr, low, from)...)
		rest = append(rest, masks(addr, to, high)...)
	}
	if err := r.create(rest); err != nil {
		return err
	}
	return r.destroy(old)
}

// Count returns the number of rules on the device.
func (r *Rules) Count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.handles)
}

// Verdicts implements Filter: the device does not count.
func (r *Rules) Verdicts() []Verdict { return nil }

func (r *Rules) String() string { return "flow rules" }

// masks returns rules for the ports from low to below high: as few as ranges of a
// power of two that start at a multiple of their size can be.
func masks(addr netip.Addr, low, high int) []link.FlowRule {
	var rules []link.FlowRule
	for low < high {
		size := 1
		for low%(2*size) == 0 && low+2*size <= high {
			size *= 2
		}
		rules = append(rules, link.FlowRule{Addr: addr, Port: uint16(low), Mask: ^uint16(size - 1)})
		low += size
	}
	return rules
}
