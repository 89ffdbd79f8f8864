package follower

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"reflect"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// A Follower follows one interface. Its methods may be called by anyone.
type Follower struct {
	index  int
	events Events
	log    *slog.Logger

	// kernel asks, updates listens, in the namespace that New was called in.
	kernel  *netlink.Handle
	updates *nl.NetlinkSocket
	icmp    []net.PacketConn
	// xfrm asks and policyUpdates listens for IPsec policies; nil without IPsec.
	xfrm          *netlink.Handle
	policyUpdates *nl.NetlinkSocket

	// generation changes with all that routes depend on.
	generation atomic.Uint64
	policies   atomic.Pointer[[]netlink.XfrmPolicy]
	// everything counts as covered by a policy: they could not be read.
	everything atomic.Bool

	// To the goroutine that calls Events.
	neighbours chan neighbour
	changed    chan struct{} // the state has to be read again
	rerouted   chan struct{}
	resolve    chan netip.Addr
	packets    chan []byte
	done       chan struct{}
	closing    sync.Once
	running    sync.WaitGroup

	// mu guards the following field.
	mu    sync.Mutex
	state State

	stats struct {
		changes, neighbours, resyncs, resolves, resolveErrors, icmp, icmpDropped atomic.Uint64

		known atomic.Int64
	}
}

// pause is the least time between two readings of the state, so that a burst of
// notifications costs a few of them.
const pause = 10 * time.Millisecond

// New opens a follower of the interface of that name, in the network namespace of
// the calling thread. State has the first snapshot when it returns.
func New(name string, events Events, log *slog.Logger) (_ *Follower, err error) {
	m := &Follower{
		events: events, log: log,
		neighbours: make(chan neighbour, 256),
		changed:    make(chan struct{}, 1),
		rerouted:   make(chan struct{}, 1),
		resolve:    make(chan netip.Addr, 256),
		packets:    make(chan []byte, 64),
		done:       make(chan struct{}),
	}
	defer func() {
		if err != nil {
			m.Close()
			err = fmt.Errorf("follower %s: %w", name, err)
		}
	}()
	// Listen before asking: no change gets lost between the two.
	m.updates, err = nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK, unix.RTNLGRP_NEIGH,
		unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR, unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE,
		unix.RTNLGRP_IPV4_RULE, unix.RTNLGRP_IPV6_RULE, unix.RTNLGRP_NEXTHOP)
	if err != nil {
		return nil, err
	}
	// Room for a flood of neighbours; refused without privileges, which is no harm.
	_ = m.updates.SetReceiveBufferSize(4<<20, true)
	if m.kernel, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
		return nil, err
	}
	l, err := m.kernel.LinkByName(name)
	if err != nil {
		return nil, err
	}
	m.index = l.Attrs().Index
	if m.state, err = m.readState(); err != nil {
		return nil, err
	}
	if err := m.openPolicies(); err != nil {
		return nil, err
	}
	if events.ICMP != nil {
		if err := m.openICMP(name); err != nil {
			return nil, err
		}
	}
	m.running.Add(2)
	go m.listen()
	go m.run()
	if m.policyUpdates != nil {
		m.running.Add(1)
		go m.followPolicies()
	}
	return m, nil
}

// State returns the last snapshot.
func (m *Follower) State() State {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.state
}

// Resolve has the kernel ask for a neighbour, or confirm one that it knows. The
// answer comes as an event. It does not block; when there are too many questions
// already, this one is dropped.
func (m *Follower) Resolve(addr netip.Addr) {
	select {
	case m.resolve <- addr:
	default:
		m.stats.resolves.Add(1)
		m.stats.resolveErrors.Add(1)
	}
}

// Stats returns the counters.
func (m *Follower) Stats() Stats {
	return Stats{
		Changes:       m.stats.changes.Load(),
		Neighbours:    m.stats.neighbours.Load(),
		Resyncs:       m.stats.resyncs.Load(),
		Resolves:      m.stats.resolves.Load(),
		ResolveErrors: m.stats.resolveErrors.Load(),
		Known:         int(m.stats.known.Load()),
		ICMP:          m.stats.icmp.Load(),
		ICMPDropped:   m.stats.icmpDropped.Load(),
	}
}

// Close ends the follower. No event comes once it has returned; it must not be
// called from one. Closing twice is harmless.
func (m *Follower) Close() error {
	m.closing.Do(func() {
		close(m.done)
		if m.updates != nil {
			m.updates.Close()
		}
		if m.policyUpdates != nil {
			m.policyUpdates.Close()
		}
		for _, c := range m.icmp {
			c.Close()
		}
		m.running.Wait()
		if m.kernel != nil {
			m.kernel.Close()
		}
		if m.xfrm != nil {
			m.xfrm.Close()
		}
	})
	return nil
}

func (m *Follower) closed() bool {
	select {
	case <-m.done:
		return true
	default:
		return false
	}
}

// signal sets a flag that run clears.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// listen reads notifications.
func (m *Follower) listen() {
	defer m.running.Done()
	for {
		messages, _, err := m.updates.Receive()
		switch {
		case m.closed():
			return
		case errors.Is(err, syscall.ENOBUFS):
			m.stats.resyncs.Add(1)
			m.drain()
			m.reroute()
			m.reread()
			continue
		case errors.Is(err, syscall.EINTR), errors.Is(err, syscall.EAGAIN):
			continue
		case err != nil:
			m.log.Error("news from the kernel end here: addresses, routes and neighbours stay as they are", "err", err)
			return
		}
		for _, msg := range messages {
			m.notified(msg)
		}
	}
}

// drain drops the notifications that wait: they are from before the loss, and must
// not be taken for news once everything has been read anew.
func (m *Follower) drain() {
	var b [1]byte
	for {
		_, _, err := unix.Recvfrom(m.updates.GetFd(), b[:], unix.MSG_DONTWAIT|unix.MSG_TRUNC)
		if err != nil && err != unix.ENOBUFS && err != unix.EINTR {
			return
		}
	}
}

// reread has everything read anew, after the news that are on their way.
func (m *Follower) reread() {
	select {
	case m.neighbours <- neighbour{reread: true}:
	case <-m.done:
	}
}

// notified looks at one notification.
func (m *Follower) notified(msg syscall.NetlinkMessage) {
	defer func() {
		// Package netlink believes the lengths of attributes, and panics at those that
		// are not true. What it cannot read is asked for anew.
		if recover() != nil {
			signal(m.changed)
		}
	}()
	switch msg.Header.Type {
	case unix.RTM_NEWNEIGH, unix.RTM_DELNEIGH:
		n, ok := m.parseNeighbour(msg.Data)
		if !ok {
			return
		}
		n.deleted = msg.Header.Type == unix.RTM_DELNEIGH
		select {
		case m.neighbours <- n:
		case <-m.done:
		}
	case unix.RTM_NEWRULE, unix.RTM_DELRULE, unix.RTM_NEWNEXTHOP, unix.RTM_DELNEXTHOP:
		m.reroute()
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		m.reroute()
		if len(msg.Data) >= unix.SizeofIfInfomsg && nl.DeserializeIfInfomsg(msg.Data).Index == int32(m.index) {
			signal(m.changed)
		}
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		m.reroute()
		signal(m.changed)
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		m.reroute()
		if m.routeIsOurs(msg.Data) {
			signal(m.changed)
		}
	}
}

// reroute says that what was known of routes holds no longer.
func (m *Follower) reroute() {
	m.generation.Add(1)
	signal(m.rerouted)
}

// run calls the events.
func (m *Follower) run() {
	defer m.running.Done()
	table := neighbourTable{follower: m, known: make(map[netip.Addr][6]byte)}
	table.read()
	for {
		select {
		case <-m.done:
			return
		case <-m.changed:
			if !m.update() {
				return
			}
			select {
			case <-m.done:
			case <-time.After(pause):
			}
		case n := <-m.neighbours:
			if n.reread {
				signal(m.changed)
				table.read()
				continue
			}
			table.update(n)
		case addr := <-m.resolve:
			table.resolve(addr)
		case p := <-m.packets:
			m.events.ICMP(p)
		case <-m.rerouted:
			if m.events.Rerouted != nil {
				m.events.Rerouted()
			}
			select {
			case <-m.done:
			case <-time.After(pause):
			}
		}
	}
}

// update reads the state and reports whether the interface still is there.
func (m *Follower) update() bool {
	state, err := m.readState()
	var missing netlink.LinkNotFoundError
	switch {
	case errors.As(err, &missing):
		if m.events.Gone != nil {
			m.events.Gone()
		}
		return false
	case err != nil:
		// An interrupted dump, most often: the change behind it is announced, too.
		m.log.Warn("cannot read the state of the interface, trying again", "err", err)
		time.AfterFunc(pause, func() { signal(m.changed) })
		return true
	}
	m.mu.Lock()
	same := reflect.DeepEqual(state, m.state)
	m.state = state
	m.mu.Unlock()
	if !same {
		m.stats.changes.Add(1)
		if m.events.Changed != nil {
			m.events.Changed(state)
		}
	}
	return true
}
