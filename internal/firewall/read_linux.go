package firewall

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// A chain is a chain of nftables, with its rules.
type chain struct {
	name  string // as nft writes it
	table string // family and table, by which jumps find other chains
	short string
	hook  *nftables.ChainHook // nil for one that is only jumped to
	// netdev: the hook is one of an interface.
	netdev bool
	policy *nftables.ChainPolicy
	rules  []rule
}

// A rule is its expressions, with the sets that they look into.
type rule struct {
	handle uint64
	exprs  []expr.Any
	sets   map[string][]nftables.SetElement
}

var families = map[nftables.TableFamily]string{
	nftables.TableFamilyINet: "inet", nftables.TableFamilyIPv4: "ip", nftables.TableFamilyIPv6: "ip6",
	nftables.TableFamilyNetdev: "netdev",
}

// Read reads the rules of the calling thread's network namespace. It needs
// CAP_NET_ADMIN. A kernel without nftables has none.
func Read() (*Ruleset, error) {
	r := &Ruleset{Legacy: legacy()}
	c, err := nftables.New()
	if err != nil {
		return nil, fmt.Errorf("read the firewall's rules: %w", err)
	}
	all, err := c.ListChains()
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EPROTONOSUPPORT) {
		return r, nil // nobody has asked the kernel for nftables
	}
	if err != nil {
		return nil, fmt.Errorf("read the firewall's chains: %w", err)
	}
	for _, nc := range all {
		family, ok := families[nc.Table.Family]
		if !ok {
			continue // of bridges, and ARP
		}
		ch := &chain{
			table: family + " " + nc.Table.Name, short: nc.Name, hook: nc.Hooknum, policy: nc.Policy,
			netdev: nc.Table.Family == nftables.TableFamilyNetdev,
		}
		ch.name = ch.table + " " + nc.Name
		rules, err := c.GetRules(nc.Table, nc)
		if err != nil {
			return nil, fmt.Errorf("read the firewall's chain %s: %w", ch.name, err)
		}
		for _, nr := range rules {
			out := rule{handle: nr.Handle, exprs: nr.Exprs, sets: make(map[string][]nftables.SetElement)}
			for _, e := range nr.Exprs {
				l, ok := e.(*expr.Lookup)
				if !ok {
					continue
				}
				set, err := c.GetSetByName(nc.Table, l.SetName)
				if err != nil {
					continue // in doubt it matches
				}
				if elements, err := c.GetSetElements(set); err == nil {
					out.sets[l.SetName] = elements
				}
			}
			ch.rules = append(ch.rules, out)
		}
		r.chains = append(r.chains, ch)
	}
	return r, nil
}

// legacy lists the tables of iptables-legacy in use, which netlink does not show.
func legacy() (tables []string) {
	for _, file := range []string{"ip_tables_names", "ip6_tables_names"} {
		b, err := os.ReadFile("/proc/thread-self/net/" + file)
		if err != nil {
			continue
		}
		for _, name := range strings.Fields(string(b)) {
			tables = append(tables, strings.TrimSuffix(file, "_names")+" "+name)
		}
	}
	return tables
}
