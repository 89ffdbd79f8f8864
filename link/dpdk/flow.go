package dpdk

import (
	"errors"
	"fmt"
	"net/netip"
)

// Rule says which received TCP segments a port takes, and which queues they go
// to. Fragments never match: only their first part has ports.
type Rule struct {
	// IPv6 selects the IP version.
	IPv6 bool
	// Addr is the destination address, of that version. Default: any.
	Addr netip.Addr
	// Port is the destination port, PortMask the bits of it that count. A mask with
	// zeros at its end makes a block of ports. Default: all bits count.
	Port, PortMask uint16
	// Queues get the segments: all of them the one queue, or each flow one of
	// several, chosen by a hash over addresses and ports. 1 to 256, without
	// doubles.
	Queues []uint16
}

// check refuses rules that no device could follow. queues is how many the port
// has.
func (r Rule) check(queues int) error {
	var errs []error
	if r.Addr.IsValid() && (r.Addr.Is4() == r.IPv6 || r.Addr.Is4In6() || r.Addr.Zone() != "") {
		errs = append(errs, fmt.Errorf("Rule.Addr is %v: want an address of the version that Rule.IPv6 says, without a zone", r.Addr))
	}
	if r.Port == 0 {
		errs = append(errs, errors.New("Rule.Port is 0: want 1 to 65535"))
	}
	if r.Port&^r.mask() != 0 {
		errs = append(errs, fmt.Errorf("Rule.Port is %#x: it has bits that the mask %#x leaves out", r.Port, r.PortMask))
	}
	if len(r.Queues) == 0 || len(r.Queues) > maxQueues {
		errs = append(errs, fmt.Errorf("Rule.Queues has %d queues: want 1 to %d", len(r.Queues), maxQueues))
	}
	seen := make(map[uint16]bool)
	for _, q := range r.Queues {
		if int(q) >= queues || seen[q] {
			errs = append(errs, fmt.Errorf("Rule.Queues is %v: want each of 0 to %d at most once", r.Queues, queues-1))
			break
		}
		seen[q] = true
	}
	return errors.Join(errs...)
}

func (r Rule) mask() uint16 {
	if r.PortMask == 0 {
		return 0xffff
	}
	return r.PortMask
}

// FlowRule is a rule that a device follows.
type FlowRule struct{ remove func() error }

// Remove ends the rule. Removing twice, or after the port was closed, is
// harmless.
func (f *FlowRule) Remove() error { return f.remove() }

// CreateRule makes the device follow a rule, after asking it whether it can.
// Rules end with the port, or with the process.
//
// The error wraps ErrNotSupported if the driver has no rules or cannot do this
// one, and os.ErrExist if there is such a rule.
func (p *Port) CreateRule(r Rule) (*FlowRule, error) { return p.createRule(r) }

// Steer implements link.Steerer, by a rule for each IP version.
func (p *Port) Steer(port, mask uint16, queue int) error {
	for _, v6 := range []bool{false, true} {
		if _, err := p.CreateRule(Rule{IPv6: v6, Port: port, PortMask: mask, Queues: []uint16{uint16(queue)}}); err != nil {
			return err
		}
	}
	return nil
}

// Isolate turns isolated mode on or off: in it the port receives nothing but
// what its rules take, and the rest is left to the kernel. A running port is
// stopped and started for it, and nobody may use its queues meanwhile; a port
// opened with Config.Isolated never receives what is not its own.
//
// The error wraps ErrNotSupported if the driver has no such mode.
func (p *Port) Isolate(on bool) error { return p.isolate(on) }
