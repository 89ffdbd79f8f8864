package follower

import (
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
)

// A neighbour is what a notification says of one; or it says that notifications
// were lost and that all neighbours have to be read again.
type neighbour struct {
	addr    netip.Addr
	mac     [6]byte
	state   int // NUD_*
	deleted bool
	reread  bool
}

// usable are the states in which the kernel sends to the MAC address.
const usable = netlink.NUD_REACHABLE | netlink.NUD_STALE | netlink.NUD_DELAY | netlink.NUD_PROBE |
	netlink.NUD_PERMANENT | netlink.NUD_NOARP

func (m *Follower) parseNeighbour(b []byte) (neighbour, bool) {
	if len(b) < 12 { // struct ndmsg
		return neighbour{}, false
	}
	n, err := netlink.NeighDeserialize(b)
	if err != nil {
		return neighbour{}, false
	}
	return m.neighbour(n)
}

func (m *Follower) neighbour(n *netlink.Neigh) (neighbour, bool) {
	addr, ok := netip.AddrFromSlice(n.IP)
	if !ok || n.LinkIndex != m.index || addr.IsMulticast() {
		return neighbour{}, false
	}
	v := neighbour{addr: addr.Unmap(), state: n.State}
	if copy(v.mac[:], n.HardwareAddr) != len(v.mac) {
		v.state &^= usable
	}
	return v, true
}

// maxKnown is the greatest number of neighbours to remember. The kernel has 1024
// by default, but any number of those that were entered by hand.
const maxKnown = 4096

// neighbourTable has the usable neighbours of the kernel. The goroutine that
// calls events owns it.
type neighbourTable struct {
	follower *Follower
	known    map[netip.Addr][6]byte
	// partial: the kernel may have neighbours that known has not.
	partial bool
}

func (t *neighbourTable) remember(addr netip.Addr, mac [6]byte) {
	if _, ok := t.known[addr]; !ok && len(t.known) >= maxKnown {
		t.partial = true
		for any := range t.known {
			delete(t.known, any)
			break
		}
	}
	t.known[addr] = mac
	t.follower.stats.known.Store(int64(len(t.known)))
}

func (t *neighbourTable) forget(addr netip.Addr) {
	delete(t.known, addr)
	t.follower.stats.known.Store(int64(len(t.known)))
}

// lookup returns the MAC address of a neighbour that the kernel has.
func (t *neighbourTable) lookup(addr netip.Addr) ([6]byte, bool) {
	mac, ok := t.known[addr]
	if ok || !t.partial {
		return mac, ok
	}
	family := netlink.FAMILY_V4
	if addr.Is6() {
		family = netlink.FAMILY_V6
	}
	all, err := t.follower.kernel.NeighList(t.follower.index, family)
	if err != nil {
		return mac, false
	}
	for i := range all {
		if n, ok := t.follower.neighbour(&all[i]); ok && n.addr == addr && n.state&usable != 0 {
			t.remember(addr, n.mac)
			return n.mac, true
		}
	}
	return mac, false
}

// read takes the kernel's table.
func (t *neighbourTable) read() {
	m := t.follower
	all, err := m.kernel.NeighList(m.index, 0)
	if err != nil {
		m.log.Warn("cannot read the neighbours of the interface, trying again", "err", err)
		time.AfterFunc(pause, m.reread)
		return
	}
	clear(t.known)
	t.partial = false
	for i := range all {
		if n, ok := m.neighbour(&all[i]); ok {
			t.update(n)
		}
	}
}

// update takes in news of a neighbour.
func (t *neighbourTable) update(n neighbour) {
	e := &t.follower.events
	t.follower.stats.neighbours.Add(1)
	switch {
	case n.deleted:
		t.forget(n.addr)
	case n.state&usable != 0:
		t.remember(n.addr, n.mac)
		if e.Neighbour != nil {
			e.Neighbour(n.addr, n.mac)
		}
	default:
		t.forget(n.addr)
		if n.state&netlink.NUD_FAILED != 0 && e.Unreachable != nil {
			e.Unreachable(n.addr)
		}
	}
}

// resolve asks the kernel to resolve or confirm a neighbour, as it does for
// packets of its own, and tells what it knows already.
func (t *neighbourTable) resolve(addr netip.Addr) {
	m := t.follower
	if mac, ok := t.lookup(addr); ok && m.events.Neighbour != nil {
		m.events.Neighbour(addr, mac)
	}
	m.stats.resolves.Add(1)
	// NTF_USE leaves an entry that is there as it is, and starts the kernel's own
	// procedure for the state that it is in.
	err := m.kernel.NeighSet(&netlink.Neigh{
		LinkIndex: m.index, IP: addr.AsSlice(), State: netlink.NUD_NONE, Flags: netlink.NTF_USE,
	})
	if err != nil {
		m.stats.resolveErrors.Add(1)
		m.log.Debug("the kernel does not resolve a neighbour", "addr", addr, "err", err)
	}
}
