package xdp

import (
	"errors"
	"fmt"
	"maps"

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
// The maps and programs go with the filter. It needs Linux 6.6 where the interface
// is a veth in native mode.
func (f *Filter) Answer(c *link.SYNCookies) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return errFilterClosed
	}
	if c == nil {
		return f.answerNone()
	}
	if len(c.Ports) > MaxSYNPorts {
		return fmt.Errorf("xdp: filter: %d ports with SYN cookies: want at most %d", len(c.Ports), MaxSYNPorts)
	}
	if f.noAnswers != nil {
		return fmt.Errorf("xdp: filter: what answers SYNs is not attached: %w", f.noAnswers)
	}
	had := f.cookies
	if had == nil {
		had = &link.SYNCookies{}
	}
	config := filterCookies{Key: c.Key, Minute: c.Minute, Mss4: c.MSS4, Mss6: c.MSS6}
	if f.answerer != nil {
		config.Behind = 1
	}
	if f.attach != AttachNative || f.answerer != nil {
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
		return fmt.Errorf("xdp: filter: SYN cookies: %w", err)
	}
	return nil
}

// answerNone ends what Answer began.
func (f *Filter) answerNone() error {
	if f.cookies == nil {
		return nil
	}
	var err error
	for port := range f.cookies.Ports {
		err = errors.Join(err, ignoreMissing(f.maps.SynPorts.Delete(uint32(port))))
	}
	f.cookies = nil
	return errors.Join(err, f.maps.Cookies.Put(uint32(0), filterCookies{}))
}

// Answered counts the SYNs that the filter answered.
func (f *Filter) Answered() uint64 { return f.Verdicts().Answered }
