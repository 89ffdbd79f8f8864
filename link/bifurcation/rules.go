package bifurcation

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"

	"github.com/gotpa/tpa/link"
)

// A Rule names TCP segments to ports of one local address: those whose destination
// port equals Port in the bits of Mask.
type Rule struct {
	Addr       netip.Addr
	Port, Mask uint16
}

// Rules is the filter of a device in isolated mode: one flow rule for each range
// of ports that a mask can express, so one for a listener's port and one for a
// block of a power of two.
type Rules struct {
	make func(Rule) (remove func() error, err error)

	mu    sync.Mutex            // guards rules, and is held while they change
	rules map[Rule]func() error // how to remove them
}

var _ link.Filter = (*Rules)(nil)

// NewRules returns the filter of a device without rules. make has the device
// follow a rule, and returns how to end it.
func NewRules(make func(Rule) (remove func() error, err error)) *Rules {
	return &Rules{make: make, rules: map[Rule]func() error{}}
}

// Claim implements link.Filter. It takes back the rules that it has made when one
// fails.
func (r *Rules) Claim(addr netip.Addr, first uint16, n int) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.createLocked(masks(addr, int(first), int(first)+n))
}

func (r *Rules) createLocked(rules []Rule) error {
	for i, rule := range rules {
		remove, err := r.make(rule)
		if err != nil {
			err = fmt.Errorf("flow rule for port %d, mask %#x, of %v: %w", rule.Port, rule.Mask, rule.Addr, err)
			return errors.Join(err, r.removeLocked(rules[:i]))
		}
		r.rules[rule] = remove
	}
	return nil
}

func (r *Rules) removeLocked(rules []Rule) error {
	var errs []error
	for _, rule := range rules {
		if err := r.rules[rule](); err != nil {
			errs = append(errs, fmt.Errorf("remove flow rule for port %d, mask %#x, of %v: %w", rule.Port, rule.Mask, rule.Addr, err))
			continue
		}
		delete(r.rules, rule)
	}
	return errors.Join(errs...)
}

// Release implements link.Filter. A rule that goes only in part is replaced: the rest
// has its own rules before the old one goes.
func (r *Rules) Release(addr netip.Addr, first uint16, n int) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	from, to := int(first), int(first)+n
	var old, rest []Rule
	for rule := range r.rules {
		low := int(rule.Port)
		high := low + int(^rule.Mask) + 1
		if rule.Addr != addr || high <= from || low >= to {
			continue
		}
		old = append(old, rule)
		rest = append(rest, masks(addr, low, from)...)
		rest = append(rest, masks(addr, to, high)...)
	}
	if err := r.createLocked(rest); err != nil {
		return err
	}
	return r.removeLocked(old)
}

// Stats implements link.Filter. The device does not count frames.
func (r *Rules) Stats() link.FilterStats {
	r.mu.Lock()
	defer r.mu.Unlock()
	return link.FilterStats{Backend: "rte_flow", Rules: len(r.rules)}
}

// String implements link.Filter.
func (r *Rules) String() string { return "flow rules" }

// masks returns rules for the ports from low to below high: as few as ranges of a
// power of two that start at a multiple of their size can be.
func masks(addr netip.Addr, low, high int) []Rule {
	var rules []Rule
	for low < high {
		size := 1
		for low%(2*size) == 0 && low+2*size <= high {
			size *= 2
		}
		rules = append(rules, Rule{Addr: addr, Port: uint16(low), Mask: ^uint16(size - 1)})
		low += size
	}
	return rules
}
