package netif

import (
	"maps"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"github.com/gotpa/tpa/link"
)

// Limits of the neighbour table. A flood of packets to unknown neighbours, or of
// unasked answers, costs at most this much memory.
const (
	// maxNeighbours is the greatest number of entries: enough for a /20. A
	// random one makes room for a new one.
	maxNeighbours = 4096
	// maxUnresolved is the greatest number of addresses being asked for.
	maxUnresolved = 256
	// maxHeld is how many bytes of packets are held for one of them, with
	// heldOverhead for each: as many as Linux holds (unres_qlen_bytes), so that a
	// client can start with hundreds of connections at once.
	maxHeld      = 208 << 10
	heldOverhead = 512
)

// Timing of address resolution, after RFC 4861 section 10 and Linux's ARP.
const (
	// retransTime is the pause between two questions (RetransTimer).
	retransTime = time.Second
	// maxQuestions is how often an address is asked for before packets to it
	// fail with "no route to host".
	maxQuestions = 3
	// reachableTime is the age at which an entry that is still in use is
	// confirmed by questions to the neighbour itself (ReachableTime).
	reachableTime = 30 * time.Second
	// staleTime is the age at which an entry that nobody uses is forgotten.
	staleTime = 5 * time.Minute
)

// A Resolver finds addresses for a Neighbours table that does not ask by itself
// because somebody else, the kernel, owns ARP and ND on the device. It answers
// with Neighbours.Set, at once for an address that it knows. Resolve is called
// again and again for entries that are in use, to have them confirmed. It must not
// block.
type Resolver interface {
	Resolve(addr tcpip.Address)
}

// Neighbours maps next hops to MAC addresses. One table serves all queues of a
// device, because a reply arrives on one queue only.
//
// Lookups take no lock: the table is a map that is replaced, never changed.
// Everything else goes through mu and is rare.
type Neighbours struct {
	mac      link.MAC
	clock    tcpip.Clock
	resolver Resolver

	// known is the current map; its values are shared between generations.
	known atomic.Pointer[map[tcpip.Address]*neighbour]
	// generation changes with each change of known, so that endpoints can keep
	// the last look-up for themselves.
	generation atomic.Uint32

	// mu guards the following fields.
	mu         sync.Mutex
	local      map[tcpip.Address]bool
	unresolved map[tcpip.Address]*resolution
	ticking    tcpip.Timer
	closed     bool

	stats neighbourStats
}

// neighbour is one entry. mac does not change; a new one is a new entry.
type neighbour struct {
	mac link.MAC
	// via and source are where and under which address to ask again; via is nil
	// for entries that a Resolver looks after.
	via    *Endpoint
	source tcpip.Address
	// used is set by look-ups and cleared by the ageing timer.
	used atomic.Bool
	// What follows is guarded by Neighbours.mu. confirmed is when the neighbour was
	// last heard; questions counts those sent since, and asking, if set, runs
	// retransTime after the last one.
	confirmed tcpip.MonotonicTime
	questions int
	asking    tcpip.Timer
}

// confirmLocked notes that the neighbour has answered from the address that it has.
func (e *neighbour) confirmLocked(now tcpip.MonotonicTime) {
	e.confirmed = now
	e.restLocked()
}

// restLocked ends the questions.
func (e *neighbour) restLocked() {
	e.questions = 0
	if e.asking != nil {
		e.asking.Stop()
		e.asking = nil
	}
}

// resolution is an address being asked for, guarded by Neighbours.mu.
type resolution struct {
	held      []heldPacket
	bytes     int // the size of held
	via       *Endpoint
	source    tcpip.Address
	questions int
	timer     tcpip.Timer
}

// heldPacket is a packet that waits for its next hop's address, and the endpoint
// that it leaves by. The resolution holds a reference to pkt.
type heldPacket struct {
	pkt *stack.PacketBuffer
	via *Endpoint
}

type neighbourStats struct {
	requestsSent, repliesSent, repliesReceived, failures, heldDropped, changes atomic.Uint64
}

// NeighbourStats are counters since the table was made, and its current size.
type NeighbourStats struct {
	// RequestsSent counts ARP requests and neighbour solicitations, RepliesSent
	// the answers to those for our own addresses, RepliesReceived the answers
	// that resolved or confirmed an address.
	RequestsSent, RepliesSent, RepliesReceived uint64
	// Failures counts addresses that nobody answered for.
	Failures uint64
	// HeldDropped counts packets dropped while their address was asked for.
	HeldDropped uint64
	// Changes counts neighbours that came back with another MAC address.
	Changes uint64
	// Entries and Unresolved are the sizes of the table and of the waiting list.
	Entries, Unresolved int
}

// NewNeighbours returns an empty table for a device with the given MAC address.
// With a nil resolver the table sends and answers ARP and neighbour discovery
// itself.
func NewNeighbours(mac link.MAC, clock tcpip.Clock, resolver Resolver) *Neighbours {
	n := &Neighbours{
		mac: mac, clock: clock, resolver: resolver,
		local:      make(map[tcpip.Address]bool),
		unresolved: make(map[tcpip.Address]*resolution),
	}
	n.known.Store(&map[tcpip.Address]*neighbour{})
	return n
}

// AddLocal declares an address as ours: questions for it are answered.
func (n *Neighbours) AddLocal(addr tcpip.Address) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.local[addr] = true
}

// RemoveLocal takes back AddLocal.
func (n *Neighbours) RemoveLocal(addr tcpip.Address) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.local, addr)
}

// Lookup returns the MAC address of a next hop. Anyone may call it.
func (n *Neighbours) Lookup(addr tcpip.Address) (link.MAC, bool) {
	e := (*n.known.Load())[addr]
	if e == nil {
		return link.MAC{}, false
	}
	if !e.used.Load() {
		e.used.Store(true)
	}
	return e.mac, true
}

// Set enters what another authority knows of a neighbour, and sends what was
// held for it.
func (n *Neighbours) Set(addr tcpip.Address, mac link.MAC) {
	n.learn(addr, mac, true, nil, tcpip.Address{})
}

// Delete forgets a neighbour.
func (n *Neighbours) Delete(addr tcpip.Address) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if e := (*n.known.Load())[addr]; e != nil {
		e.restLocked()
		n.replaceLocked(func(m map[tcpip.Address]*neighbour) { delete(m, addr) })
	}
}

// All returns the table's entries.
func (n *Neighbours) All() map[tcpip.Address]link.MAC {
	known := *n.known.Load()
	all := make(map[tcpip.Address]link.MAC, len(known))
	for addr, e := range known {
		all[addr] = e.mac
	}
	return all
}

// Stats returns the counters.
func (n *Neighbours) Stats() NeighbourStats {
	n.mu.Lock()
	unresolved := len(n.unresolved)
	n.mu.Unlock()
	return NeighbourStats{
		RequestsSent:    n.stats.requestsSent.Load(),
		RepliesSent:     n.stats.repliesSent.Load(),
		RepliesReceived: n.stats.repliesReceived.Load(),
		Failures:        n.stats.failures.Load(),
		HeldDropped:     n.stats.heldDropped.Load(),
		Changes:         n.stats.changes.Load(),
		Entries:         len(*n.known.Load()),
		Unresolved:      unresolved,
	}
}

// Close stops the timers and drops what is held.
func (n *Neighbours) Close() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.closed = true
	if n.ticking != nil {
		n.ticking.Stop()
	}
	for _, e := range *n.known.Load() {
		e.restLocked()
	}
	for addr, r := range n.unresolved {
		if r.timer != nil {
			r.timer.Stop()
		}
		n.dropHeldLocked(r)
		delete(n.unresolved, addr)
	}
}

func (n *Neighbours) dropHeldLocked(r *resolution) {
	for _, h := range r.held {
		h.pkt.DecRef()
	}
	n.stats.heldDropped.Add(uint64(len(r.held)))
	r.held = nil
}

// replaceLocked publishes a changed copy of the table.
func (n *Neighbours) replaceLocked(change func(map[tcpip.Address]*neighbour)) {
	m := maps.Clone(*n.known.Load())
	change(m)
	n.known.Store(&m)
	n.generation.Add(1)
}

// hold keeps pkt until addr is known, and asks for addr. It takes its own
// reference. source is the local address to ask from.
func (n *Neighbours) hold(addr, source tcpip.Address, pkt *stack.PacketBuffer, via *Endpoint) tcpip.Error {
	n.mu.Lock()
	r := n.unresolved[addr]
	switch {
	case n.closed, r == nil && len(n.unresolved) >= maxUnresolved:
		n.mu.Unlock()
		n.stats.heldDropped.Add(1)
		return &tcpip.ErrNoBufferSpace{}
	case r == nil:
		r = &resolution{via: via, source: source}
		n.unresolved[addr] = r
	}
	r.held = append(r.held, heldPacket{pkt.Clone(), via})
	for r.bytes += pkt.Size() + heldOverhead; r.bytes > maxHeld && len(r.held) > 1; {
		// RFC 4861 section 7.2.2: the new arrival replaces the oldest.
		oldest := r.held[0].pkt
		r.bytes -= oldest.Size() + heldOverhead
		oldest.DecRef()
		r.held = append(r.held[:0], r.held[1:]...)
		n.stats.heldDropped.Add(1)
	}
	first := r.timer == nil
	if first {
		r.timer = n.clock.AfterFunc(retransTime, func() { n.retry(addr, r) })
		r.questions = 1
	}
	n.mu.Unlock()
	if first {
		n.ask(addr, r)
	}
	return nil
}

// ask sends one question for addr. It is called without mu: sending takes the
// endpoint's transmit lock.
func (n *Neighbours) ask(addr tcpip.Address, r *resolution) {
	if n.resolver != nil {
		n.resolver.Resolve(addr)
		return
	}
	n.request(r.via, addr, r.source, link.MAC{})
}

// request sends an ARP request or a neighbour solicitation for addr: to
// everyone, or to the neighbour itself when its address is known.
func (n *Neighbours) request(via *Endpoint, addr, source tcpip.Address, to link.MAC) {
	n.stats.requestsSent.Add(1)
	if addr.Len() == 4 {
		via.sendARPRequest(addr, source, to)
	} else {
		via.sendSolicitation(addr, source, to)
	}
}

// retry runs each retransTime until addr is known or nobody has answered.
func (n *Neighbours) retry(addr tcpip.Address, r *resolution) {
	n.mu.Lock()
	if n.unresolved[addr] != r {
		n.mu.Unlock()
		return
	}
	if r.questions < maxQuestions {
		r.questions++
		r.timer.Reset(retransTime)
		n.mu.Unlock()
		n.ask(addr, r)
		return
	}
	delete(n.unresolved, addr)
	n.mu.Unlock()
	n.stats.failures.Add(1)
	for _, h := range r.held {
		h.via.resolutionFailed(h.pkt)
		h.pkt.DecRef()
	}
	n.stats.heldDropped.Add(uint64(len(r.held)))
}

// learn takes in that addr is at mac. Unless create is set, only addresses that
// are in the table or being asked for are taken: nobody can fill the table with
// unasked replies. via and source are where we were told and as whom.
func (n *Neighbours) learn(addr tcpip.Address, mac link.MAC, create bool, via *Endpoint, source tcpip.Address) {
	if mac.Multicast() || mac == (link.MAC{}) || addr.Unspecified() {
		return
	}
	n.mu.Lock()
	if n.closed || n.local[addr] {
		n.mu.Unlock()
		return
	}
	known := *n.known.Load()
	e, r := known[addr], n.unresolved[addr]
	if e == nil && r == nil && !create {
		n.mu.Unlock()
		return
	}
	now := n.clock.NowMonotonic()
	if e != nil && e.mac == mac {
		e.confirmLocked(now)
	} else {
		if e != nil {
			e.restLocked()
			n.stats.changes.Add(1)
		}
		fresh := &neighbour{mac: mac, via: via, source: source, confirmed: now}
		fresh.used.Store(true)
		n.replaceLocked(func(m map[tcpip.Address]*neighbour) {
			if e == nil && len(m) >= maxNeighbours {
				evictLocked(m)
			}
			m[addr] = fresh
		})
	}
	var held []heldPacket
	if r != nil {
		delete(n.unresolved, addr)
		r.timer.Stop()
		held = r.held
	}
	if n.ticking == nil {
		n.ticking = n.clock.AfterFunc(reachableTime, n.age)
	}
	n.mu.Unlock()
	for _, h := range held {
		h.via.write(h.pkt)
		h.pkt.DecRef()
	}
	for _, h := range held {
		h.via.Kick()
	}
}

// evictLocked removes a random entry, as an attacker cannot choose which.
func evictLocked(m map[tcpip.Address]*neighbour) {
	skip := rand.IntN(len(m))
	for addr := range m {
		if skip == 0 {
			m[addr].restLocked()
			delete(m, addr)
			return
		}
		skip--
	}
}

// age runs each reachableTime while the table has entries. Entries in use are
// asked for again, those that nobody uses go.
func (n *Neighbours) age() {
	questions := make(map[tcpip.Address]*neighbour)
	n.mu.Lock()
	if n.closed {
		n.mu.Unlock()
		return
	}
	now := n.clock.NowMonotonic()
	var gone []tcpip.Address
	for addr, e := range *n.known.Load() {
		age := now.Sub(e.confirmed)
		switch used := e.used.Swap(false); {
		case age < reachableTime, e.asking != nil:
		case !used && age >= staleTime:
			gone = append(gone, addr) // a Resolver says so with Delete
		case used && n.doubtLocked(addr, e):
			questions[addr] = e
		}
	}
	// Even without a change: endpoints must look up again, which marks the
	// entries that are in use.
	n.replaceLocked(func(m map[tcpip.Address]*neighbour) {
		for _, addr := range gone {
			delete(m, addr)
		}
	})
	n.ticking = nil
	if len(*n.known.Load()) > 0 {
		n.ticking = n.clock.AfterFunc(reachableTime, n.age)
	}
	n.mu.Unlock()
	for addr, e := range questions {
		n.confirm(addr, e)
	}
}

// Doubt has a neighbour confirmed to whom packets seem to go in vain: its address
// may be another one by now, or was damaged on its way here, which nothing protects.
// The neighbour is asked itself, three times (RFC 4861 section 7.3.3, state PROBE).
// Without an answer it is forgotten, so that the next packet asks everyone. Linux
// does the same when TCP's timeouts pile up.
//
// Anyone may call it as often as he likes, without a lock that sending takes.
func (n *Neighbours) Doubt(addr tcpip.Address) {
	n.mu.Lock()
	e := (*n.known.Load())[addr]
	ask := !n.closed && e != nil && e.asking == nil &&
		n.clock.NowMonotonic().Sub(e.confirmed) >= retransTime && n.doubtLocked(addr, e)
	n.mu.Unlock()
	if ask {
		n.confirm(addr, e)
	}
}

// doubtLocked begins to ask for an entry that is known. It returns whether a question
// is to be sent.
func (n *Neighbours) doubtLocked(addr tcpip.Address, e *neighbour) bool {
	if e.via == nil && n.resolver == nil {
		return false
	}
	e.questions = 1
	e.asking = n.clock.AfterFunc(retransTime, func() { n.askAgain(addr, e) })
	return true
}

// askAgain runs retransTime after a question to a known neighbour.
func (n *Neighbours) askAgain(addr tcpip.Address, e *neighbour) {
	n.mu.Lock()
	if n.closed || (*n.known.Load())[addr] != e || e.asking == nil {
		n.mu.Unlock()
		return
	}
	if n.resolver != nil { // it asks three times by itself, and says so with Delete
		e.restLocked()
		n.mu.Unlock()
		return
	}
	if e.questions >= maxQuestions {
		n.replaceLocked(func(m map[tcpip.Address]*neighbour) { delete(m, addr) })
		n.mu.Unlock()
		return
	}
	e.questions++
	e.asking.Reset(retransTime)
	n.mu.Unlock()
	n.confirm(addr, e)
}

// confirm asks a known neighbour. It is called without mu, as ask is.
func (n *Neighbours) confirm(addr tcpip.Address, e *neighbour) {
	if n.resolver != nil {
		n.resolver.Resolve(addr)
		return
	}
	n.request(e.via, addr, e.source, e.mac)
}
