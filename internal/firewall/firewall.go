// Package firewall reads the rules of the host's firewall (nftables, and with it
// iptables-nft) and says which of them are about a TCP port.
//
// Frames that a filter takes at the interface never meet these rules. Who relied on
// them has to hear of it, so in doubt a rule counts.
package firewall

import "net/netip"

// A Rule is one that the kernel would apply to segments of a port.
type Rule struct {
	// Chain names the chain as nft does: "inet filter input".
	Chain string
	// Handle is the rule's number in it (nft -a), 0 for the chain's policy.
	Handle uint64
	// Does says what it does, in a word or two: "drop", "redirect", "policy drop".
	Does string
	// Named: the rule has the port in it. Else it is about more than this port.
	Named bool
}

// A Port is a TCP port of this host, at these addresses.
type Port struct {
	Number uint16
	Addrs  []netip.Addr
	// Interface is where segments come and go.
	Interface string
}

// A Ruleset is a snapshot of the rules of a network namespace.
type Ruleset struct {
	chains []*chain
	// Legacy are tables of iptables-legacy, of which nobody can tell what they say.
	Legacy []string
}
