// Package attack floods, starves and confuses a server across a wire, with the
// tools that attackers use (hping3, nmap, scapy) and with frames of its own
// making, and looks whether clients that mean well are still served, whether
// memory stays bounded, and whether all that is refused is counted. Each attack
// goes several ways: over AF_XDP and DPDK, IPv4 and IPv6, our TCP and gVisor's. It
// holds tests only; docs/testing.md has the figures.
package attack
