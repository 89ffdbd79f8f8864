package testnet

import (
	"net"
	"net/netip"
	"time"

	"github.com/gotpa/tpa/internal/ethtool"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// An Interface is one end of a wire.
type Interface struct {
	Host *Host
	// Name and Index are the interface's, inside its host.
	Name  string
	Index int
	MAC   net.HardwareAddr
	// IPv4 and IPv6 are the addresses that belong to this end. The kernel has
	// them until Release.
	IPv4, IPv6 netip.Prefix
}

func (i *Interface) configure(w Wire) {
	i.Host.tb.Helper()
	link := i.link()
	i.Index, i.MAC = link.Attrs().Index, link.Attrs().HardwareAddr
	if !w.Offloads {
		i.Host.Do(func() {
			i.Host.tb.Helper()
			// Segmentation offload goes with checksum offload.
			s, err := ethtool.Open()
			if err == nil {
				err = s.SetTxChecksum(i.Name, false)
				s.Close()
			}
			if err != nil {
				i.Host.tb.Fatalf("turn off checksum offload of %s in host %s: %v", i.Name, i.Host.Name, err)
			}
		})
	}
	for _, p := range []netip.Prefix{i.IPv4, i.IPv6} {
		addr := &netlink.Addr{IPNet: &net.IPNet{
			IP:   p.Addr().AsSlice(),
			Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen()),
		}, Flags: unix.IFA_F_NODAD} // else IPv6 addresses are tentative at first
		if err := i.Host.Netlink.AddrAdd(link, addr); err != nil {
			i.Host.tb.Fatalf("add %v to %s in host %s: %v", p, i.Name, i.Host.Name, err)
		}
	}
	if err := i.Host.Netlink.LinkSetUp(link); err != nil {
		i.Host.tb.Fatalf("set up %s in host %s: %v", i.Name, i.Host.Name, err)
	}
}

// waitUp returns when the kernel sends through the interface.
func (i *Interface) waitUp() {
	i.Host.tb.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for i.link().Attrs().OperState != netlink.OperUp {
		if time.Now().After(deadline) {
			i.Host.tb.Fatalf("%s in host %s is not up after 10 s", i.Name, i.Host.Name)
		}
		time.Sleep(time.Millisecond)
	}
}

// LinkLocal returns the address that the kernel has made for the interface.
func (i *Interface) LinkLocal() netip.Addr {
	i.Host.tb.Helper()
	addrs, err := i.Host.Netlink.AddrList(i.link(), netlink.FAMILY_V6)
	if err != nil {
		i.Host.tb.Fatalf("list addresses of %s in host %s: %v", i.Name, i.Host.Name, err)
	}
	for _, a := range addrs {
		if addr, ok := netip.AddrFromSlice(a.IP); ok && addr.IsLinkLocalUnicast() {
			return addr
		}
	}
	i.Host.tb.Fatalf("%s in host %s has no link-local address", i.Name, i.Host.Name)
	return netip.Addr{}
}

// Release takes all IP addresses of the interface from the kernel, which from
// then on answers nothing that arrives there: another stack can have them.
func (i *Interface) Release() {
	i.Host.tb.Helper()
	i.Host.Sysctl("net/ipv6/conf/"+i.Name+"/disable_ipv6", "1")
	link := i.link()
	addrs, err := i.Host.Netlink.AddrList(link, netlink.FAMILY_ALL)
	if err != nil {
		i.Host.tb.Fatalf("list addresses of %s in host %s: %v", i.Name, i.Host.Name, err)
	}
	for _, a := range addrs {
		if err := i.Host.Netlink.AddrDel(link, &a); err != nil {
			i.Host.tb.Fatalf("take %v from %s in host %s: %v", a.IPNet, i.Name, i.Host.Name, err)
		}
	}
}

func (i *Interface) link() netlink.Link {
	i.Host.tb.Helper()
	link, err := i.Host.Netlink.LinkByName(i.Name)
	if err != nil {
		i.Host.tb.Fatalf("find %s in host %s: %v", i.Name, i.Host.Name, err)
	}
	return link
}
