package bpf

import (
	"errors"
	"fmt"
	"maps"

	"github.com/cilium/ebpf"
	ebpflink "github.com/cilium/ebpf/link"

	"github.com/gotpa/tpa/link"
)

// What becomes of the SYNs to a port, as in filter.c.
const (
	answer uint8 = iota
	drop
)

// Answer has the filter answer SYNs with cookies, or drop them, from the next
// frame on; nil ends that. The answers leave by the interface at once, and this
// process sees none of it: who gets such an answer acknowledges it, and TCP knows
// the cookie again. SYNs that are not sound, and those with data, are dropped. At
// most MaxSYNPorts ports can be named.
//
// The maps and programs go with the filter. The first call has the kernel verify the
// program that answers, which takes some 50 ms. Where the interface is a veth in native
// mode, it needs Linux 6.6.
func (f *Filter) Answer(c *link.SYNCookies) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return errFilterClosed
	}
	if c == nil {
		return f.answerNoneLocked()
	}
	if len(c.Ports) > MaxSYNPorts {
		return fmt.Errorf("filter: %d ports with SYN cookies: want at most %d", len(c.Ports), MaxSYNPorts)
	}
	if err := f.answerLocked(); err != nil {
		return fmt.Errorf("filter: attach what answers SYNs: %w", err)
	}
	had := f.cookies
	if had == nil {
		had = &link.SYNCookies{}
	}
	config := filterCookies{Key: c.Key, Minute: c.Minute, Mss4: c.MSS4, Mss6: c.MSS6}
	if f.answerer != nil {
		config.Behind = 1
	}
	if f.mode != Native || f.answerer != nil {
		// The answer is the packet that came, and its checksum as open.
		config.Partial = 1
	}
	err := f.maps.Cookies.Put(uint32(0), config)
	for port, answered := range c.Ports {
		if was, ok := had.Ports[port]; ok && was == answered {
			continue
		}
		action := drop
		if answered {
			action = answer
		}
		err = errors.Join(err, f.maps.SynPorts.Put(uint32(port), action))
	}
	for port := range had.Ports {
		if _, ok := c.Ports[port]; !ok {
			err = errors.Join(err, ignoreMissing(f.maps.SynPorts.Delete(uint32(port))))
		}
	}
	copied := *c
	copied.Ports = maps.Clone(c.Ports)
	f.cookies = &copied
	if err != nil {
		return fmt.Errorf("filter: SYN cookies: %w", err)
	}
	return nil
}

// answerNoneLocked ends what Answer began.
func (f *Filter) answerNoneLocked() error {
	if f.cookies == nil {
		return nil
	}
	var err error
	for port := range f.cookies.Ports {
		err = errors.Join(err, ignoreMissing(f.maps.SynPorts.Delete(uint32(port))))
	}
	f.cookies = nil
	if f.answerer != nil {
		err = errors.Join(err, f.answerer.Close())
		f.answerer = nil
	}
	return err
}

// answerLocked sees to it that a program that answers SYNs is attached: in the place of
// the one that does not, or behind it. It stays where it took the place.
func (f *Filter) answerLocked() error {
	switch {
	case f.apart && f.answerer == nil:
		return f.attachAnswererLocked()
	case f.apart || f.answers:
		return nil
	}
	name := filterProgTpaFilterSyn
	if f.mode == Ingress {
		name = filterProgTpaIngressSyn
	}
	program, err := f.loadLocked(name)
	if err != nil {
		return err
	}
	if err := f.attached.Update(program); err != nil {
		return errors.Join(err, program.Close())
	}
	f.program.Close()
	f.program, f.answers = program, true
	return nil
}

// attachAnswererLocked attaches tpa_answer behind XDP. Not before there are cookies:
// whatever is there costs each of the kernel's frames 0.1 µs.
func (f *Filter) attachAnswererLocked() error {
	if f.behind == nil {
		program, err := f.loadLocked(filterProgTpaAnswer)
		if err != nil {
			return err
		}
		f.behind = program
	}
	return f.there(func() (err error) {
		f.answerer, err = ebpflink.AttachTCX(ebpflink.TCXOptions{
			Interface: f.index, Program: f.behind, Attach: ebpf.AttachTCXIngress,
		})
		return err
	})
}

// Answered counts the SYNs that the filter answered.
func (f *Filter) Answered() uint64 { return f.Counts().Answered }
