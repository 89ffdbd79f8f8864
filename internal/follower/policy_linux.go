package follower

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// IPsec policies (xfrm) say what the kernel encrypts, or refuses to send in the
// clear. Another stack knows nothing of them, so what they cover is the kernel's.

// xfrmPolicyGroup is XFRMNLGRP_POLICY of linux/xfrm.h.
const xfrmPolicyGroup = 4

// openPolicies subscribes to the policies and reads them. A kernel without IPsec has
// none.
func (m *Follower) openPolicies() error {
	updates, err := nl.Subscribe(unix.NETLINK_XFRM, xfrmPolicyGroup)
	if errors.Is(err, unix.EPROTONOSUPPORT) {
		return nil
	}
	if err == nil {
		m.policyUpdates = updates
		if m.xfrm, err = netlink.NewHandle(unix.NETLINK_XFRM); err == nil {
			err = m.readPolicies()
		}
	}
	if err != nil {
		return fmt.Errorf("IPsec policies: %w", err)
	}
	return nil
}

func (m *Follower) readPolicies() error {
	policies, err := m.xfrm.XfrmPolicyList(netlink.FAMILY_ALL)
	if err != nil {
		return err
	}
	m.policies.Store(&policies)
	m.generation.Add(1)
	return nil
}

// followPolicies reads the policies anew when they change.
func (m *Follower) followPolicies() {
	defer m.running.Done()
	for {
		_, _, err := m.policyUpdates.Receive()
		switch {
		case m.closed():
			return
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.EAGAIN):
			continue
		case err != nil && !errors.Is(err, unix.ENOBUFS):
			m.everything.Store(true)
			m.log.Error("news of IPsec policies end here: new connections are the kernel's", "err", err)
			return
		}
		// A dump that a change interrupted is followed by that change.
		err = m.readPolicies()
		m.everything.Store(err != nil)
		if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
			m.log.Error("cannot read IPsec policies: new connections are the kernel's", "err", err)
		}
		signal(m.rerouted)
	}
}

// encrypted tells whether an IPsec policy covers packets between two addresses. The
// policy with the lowest priority decides. One for some ports only counts for all of
// them if it protects, and for none if it does not.
func (m *Follower) encrypted(source, destination netip.Addr) bool {
	if m.everything.Load() {
		return true
	}
	policies := m.policies.Load()
	if policies == nil {
		return false
	}
	best := -1
	protects := false
	for i := range *policies {
		p := &(*policies)[i]
		if p.Dir != netlink.XFRM_DIR_OUT || p.Proto != 0 && p.Proto != unix.IPPROTO_TCP ||
			!covers(p.Dst, destination) || source.IsValid() && !covers(p.Src, source) {
			continue
		}
		guard := len(p.Tmpls) > 0 || p.Action == netlink.XFRM_POLICY_BLOCK
		if !guard && (p.SrcPort != 0 || p.DstPort != 0 || p.Mark != nil || p.Ifindex != 0) {
			continue
		}
		if best < 0 || p.Priority < best || p.Priority == best && guard {
			best, protects = p.Priority, guard
		}
	}
	return protects
}

func covers(n *net.IPNet, addr netip.Addr) bool {
	p, ok := prefix(n)
	if !ok || p.Bits() == 0 {
		return true
	}
	return p.Contains(addr)
}
