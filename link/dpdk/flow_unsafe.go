//go:build dpdk && cgo && linux

package dpdk

// A rule's handle is an opaque pointer of DPDK's, which is only handed back.

// #include <stdlib.h>
// #include "shim.h"
import "C"

import (
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"unsafe"
)

// flow is the driver's handle of a rule.
type flow = unsafe.Pointer

func (d *device) createRule(r Rule) (*FlowRule, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil, d.errorf("flow rule: %w", net.ErrClosed)
	}
	if err := r.check(len(d.queues)); err != nil {
		return nil, d.errorf("flow rule: %w", err)
	}
	rule := C.struct_tpa_rule{
		ipv6: C.bool(r.IPv6), has_addr: C.bool(r.Addr.IsValid()),
		port: C.uint16_t(r.Port), port_mask: C.uint16_t(r.mask()),
		queues: C.uint16_t(len(r.Queues)),
	}
	for i, b := range r.Addr.AsSlice() {
		rule.addr[i] = C.uint8_t(b)
	}
	for i, q := range r.Queues {
		rule.queue[i] = C.uint16_t(q)
	}
	var handle flow
	var why [256]C.char
	if err := errno(C.tpa_flow_create(d.id, &rule, &handle, &why[0], C.size_t(len(why)))); err != nil {
		return nil, d.errorf("%w", d.flowError("cannot take the flow rule", err, &why))
	}
	f := new(FlowRule)
	f.remove = func() error {
		d.mu.Lock()
		defer d.mu.Unlock()
		return d.removeRuleLocked(f)
	}
	if d.rules == nil {
		d.rules = make(map[*FlowRule]flow)
	}
	d.rules[f] = handle
	return f, nil
}

// removeRuleLocked removes a rule if it is there.
func (d *device) removeRuleLocked(f *FlowRule) error {
	handle, ok := d.rules[f]
	if !ok {
		return nil
	}
	delete(d.rules, f)
	var why [256]C.char
	if err := errno(C.tpa_flow_destroy(d.id, handle, &why[0], C.size_t(len(why)))); err != nil {
		return d.errorf("%w", d.flowError("cannot remove a flow rule", err, &why))
	}
	return nil
}

// removeRulesLocked removes all rules. It needs d.mu, or nobody else
// has the device yet.
func (d *device) removeRulesLocked() error {
	var errs []error
	for f := range d.rules {
		errs = append(errs, d.removeRuleLocked(f))
	}
	return errors.Join(errs...)
}

func (d *device) isolate(on bool) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return d.errorf("isolated mode: %w", net.ErrClosed)
	}
	if err := d.setIsolatedLocked(on); err != nil {
		return d.errorf("%w", err)
	}
	return nil
}

// setIsolatedLocked returns errors that do not name the device.
func (d *device) setIsolatedLocked(on bool) error {
	var why [256]C.char
	if err := errno(C.tpa_flow_isolate(d.id, C.bool(on), &why[0], C.size_t(len(why)))); err != nil {
		return d.flowError("cannot change its isolated mode", err, &why)
	}
	return nil
}

// flowError makes an error of what rte_flow returned. It does not name the device.
func (d *device) flowError(what string, err error, why *[256]C.char) error {
	reason := ""
	if text := C.GoString(&why[0]); text != "" {
		reason = " (" + text + ")"
	}
	switch err {
	case syscall.ENOSYS, syscall.ENOTSUP:
		return fmt.Errorf("the driver %s %s%s: %w", d.info.Driver, what, reason, ErrNotSupported)
	case syscall.EEXIST:
		return fmt.Errorf("%s%s: %w", what, reason, os.ErrExist)
	}
	return fmt.Errorf("%s%s: the driver says: %w", what, reason, err)
}
