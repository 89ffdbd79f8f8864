package accel

import (
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/gotpa/tpa/internal/firewall"
)

// The host's firewall (netfilter) stands behind the filter of a shared interface, and so
// never meets the connections of a runtime, nor do ss and tcpdump. At Listen that is
// said, and which rules there are for the port.

// maxRules is how many rules a message names.
const maxRules = 4

// bypass looks for rules of the host's firewall about a port to listen on. An error says
// that Config.Firewall leaves the port to the kernel because of them.
func (s *sharing) bypass(network string, laddr *net.TCPAddr) error {
	state := s.follower.State()
	s.bypassOnce.Do(func() {
		s.log.Info("the host's firewall, ss and tcpdump do not see accelerated connections", "device", state.Name)
	})
	port := firewall.Port{Number: uint16(laddr.Port), Interface: state.Name}
	if ip := listenAddr(network, laddr); ip.IsValid() && !ip.IsUnspecified() {
		port.Addrs = []netip.Addr{ip}
	} else {
		for _, p := range state.Local() {
			port.Addrs = append(port.Addrs, p.Addr())
		}
	}
	respect := s.rt.config.Firewall == FirewallRespect
	rules, err := firewall.Read()
	if err != nil {
		if respect {
			return fmt.Errorf("the kernel keeps the port, by TPA_FIREWALL: %w", err)
		}
		s.log.Debug("cannot read the host's firewall", "err", err)
		return nil
	}
	about := rules.About(port)
	if len(about) == 0 && len(rules.Legacy) == 0 {
		return nil
	}
	why := describeRules(about, rules.Legacy)
	if respect {
		return fmt.Errorf("the kernel keeps the port, by TPA_FIREWALL: the host's firewall has rules for it: %s", why)
	}
	s.log.Warn("the host's firewall has rules for this port, which accelerated connections do not meet: see AllowFrom and Firewall of Config",
		"port", laddr.Port, "rules", why)
	return nil
}

// describeRules names rules so that nft can show them.
func describeRules(rules []firewall.Rule, legacy []string) string {
	var all []string
	for i, r := range rules {
		if i == maxRules {
			all = append(all, fmt.Sprintf("and %d more", len(rules)-maxRules))
			break
		}
		if r.Handle == 0 {
			all = append(all, fmt.Sprintf("%s (%s)", r.Chain, r.Does))
		} else {
			all = append(all, fmt.Sprintf("%s handle %d (%s)", r.Chain, r.Handle, r.Does))
		}
	}
	if len(legacy) > 0 {
		all = append(all, "tables of iptables-legacy, which cannot be read here: "+strings.Join(legacy, ", "))
	}
	return strings.Join(all, "; ")
}
