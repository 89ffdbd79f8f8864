package shard

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"runtime/pprof"
	"sort"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"github.com/gotpa/tpa/internal/clock"
	"github.com/gotpa/tpa/internal/counter"
	"github.com/gotpa/tpa/internal/handover"
	"github.com/gotpa/tpa/internal/limits"
	"github.com/gotpa/tpa/internal/netif"
	"github.com/gotpa/tpa/internal/netstack"
	"github.com/gotpa/tpa/internal/processor"
	"github.com/gotpa/tpa/internal/recorder"
	"github.com/gotpa/tpa/internal/transport"
	"github.com/gotpa/tpa/link"
)

// nicID is the number of the only network interface of each stack.
const nicID tcpip.NICID = 1

// Options describe a shard. Device, Queue, Neighbours, MTU and Logger must be
// set.
type Options struct {
	Index      int
	Device     link.Info
	Queue      link.Queue
	Neighbours *netif.Neighbours
	MTU        int
	// CPU pins the poller, -1 does not.
	CPU     int
	Polling processor.Polling
	TCP     TCP
	// Budget keeps the limits that the shards of a runtime share. Default: one of
	// its own, that nobody keeps.
	Budget *limits.Budget
	// Zone is that of link-local addresses; SetZone changes it. Default: none.
	Zone transport.Zone
	// Router decides where packets go. Default: the routing table.
	Router netif.Router
	// Recorder records the connections. Default: none.
	Recorder *recorder.Recorder
	// Random is where the stack takes its secrets from. Default: the system's.
	Random io.Reader
	Logger *slog.Logger
	// Broken is called at most once, when the queue fails for good.
	Broken func(error)
}

// A Shard is one queue, one stack and one poller. All methods may be called by
// any goroutine.
type Shard struct {
	index   int
	device  string // its name
	cpu     int
	queue   link.Queue
	mac     link.MAC
	polling atomic.Pointer[processor.Policy]
	tcp     TCP
	log     *slog.Logger
	onBreak func(error)
	// recorder records the connections, nil does not.
	recorder *recorder.Recorder
	maxFrame int // of the device, in bytes
	rxRing   int

	clock  *clock.Clock
	link   *netif.Endpoint
	stack  *stack.Stack
	engine Engine
	routed atomic.Bool // SetRoutes was called
	zone   atomic.Pointer[transport.Zone]
	// stackStats are the stack's counters: the pointers to them.
	stackStats tcpip.Stats
	// slowPath is where the stack's IP layers hand on what is not for another shard.
	slowPath stack.TransportDispatcher
	account  *limits.Account
	outbound outbound

	// handover and joined, all shards of the device by their number, are nil when
	// the shard is alone.
	handover *handover.Member
	joined   []*Shard
	// parked is set while the poller sleeps. wakeup ends the sleep of one whose
	// queue cannot.
	parked atomic.Bool
	wakeup chan struct{}
	// ended is set when the poller has left its queue alone for good.
	ended atomic.Bool
	// handlers are what the poller runs beside TCP.
	handlers *transport.RunQueue
	stuck    stuckWatch

	closing   atomic.Bool
	done      chan struct{}
	closeOnce sync.Once

	counters pollerCounters
	fast     counter.Counter // written by the poller alone
	conns    connCounters
}

var _ transport.Stack = (*Shard)(nil)

// New makes a shard. Its poller starts with Start.
func New(o Options) (*Shard, error) {
	s := &Shard{
		index: o.Index, device: o.Device.Name, cpu: o.CPU, queue: o.Queue,
		tcp: o.TCP.withDefaults(),
		log: o.Logger, onBreak: o.Broken, recorder: o.Recorder,
		clock: clock.New(), done: make(chan struct{}), wakeup: make(chan struct{}, 1), maxFrame: o.Device.MaxFrame, rxRing: o.Device.RxRing,
	}
	if o.Budget == nil {
		o.Budget = limits.NewBudget(limits.Limits{}, nil)
	}
	s.SetPolling(o.Polling)
	s.SetZone(o.Zone)
	copy(s.mac[:], o.Device.HardwareAddr)
	s.link = netif.NewEndpoint(o.Device, o.Queue, o.Neighbours, o.MTU)
	s.link.OnUnresolved(s.unresolved)
	if o.Router != nil {
		s.link.SetRouter(o.Router)
	}
	if !s.polling.Load().Spins() {
		s.link.NoNaps()
	}
	if err := s.makeStack(o); err != nil {
		return nil, err
	}
	s.stackStats = s.stack.Stats()
	if err := s.configure(); err != nil {
		s.stack.Destroy()
		return nil, err
	}
	s.account = o.Budget.Open(host{s}, limits.Settings{
		ReceiveBuffer: s.tcp.ReceiveBuffer, SendBuffer: s.tcp.SendBuffer, FirstSend: s.engine.FirstSend(), TimeWait: s.tcp.TimeWait,
	})
	s.engine.Attach(s.account)
	s.handlers = s.newRunQueue()
	return s, nil
}

// makeStack makes the stack with the engine as its TCP.
func (s *Shard) makeStack(o Options) (err error) {
	if s.engine, err = s.newEngine(o.Budget.Limits()); err != nil {
		return err
	}
	err = s.engine.MakeStack(func() {
		s.stack = stack.New(stack.Options{
			NetworkProtocols: []stack.NetworkProtocolFactory{
				s.wrapNetwork(ipv4.NewProtocol), s.wrapNetwork(ipv6.NewProtocol),
			},
			TransportProtocols: []stack.TransportProtocolFactory{s.engine.NewProtocol},
			Clock:              s.clock,
			SecureRNG:          o.Random,
			HandleLocal:        true,
		})
	})
	if err != nil {
		s.stack.Destroy()
	}
	return err
}

// configure sets TCP's options and makes the network interface. What depends on
// the limits is set with the account.
func (s *Shard) configure() error {
	sack := tcpip.TCPSACKEnabled(!s.tcp.NoSACK)
	moderate := tcpip.TCPModerateReceiveBufferOption(true)
	congestion := tcpip.CongestionControlOption(s.tcp.Congestion)
	if congestion == "" || congestion == "auto" {
		congestion = tcpip.CongestionControlOption(s.engine.Congestion())
	}
	timeWait := tcpip.TCPTimeWaitTimeoutOption(s.tcp.TimeWait)
	for _, o := range append([]tcpip.SettableTransportProtocolOption{&sack, &moderate, &congestion, &timeWait}, s.engine.Options()...) {
		if err := s.stack.SetTransportProtocolOption(header.TCPProtocolNumber, o); err != nil {
			return fmt.Errorf("shard: setting %T: %v", o, err)
		}
	}
	if err := s.stack.CreateNICWithOptions(nicID, s.link, stack.NICOptions{
		Name: fmt.Sprintf("queue%d", s.index), QDisc: s.link.Discipline(),
	}); err != nil {
		return fmt.Errorf("shard: making the interface: %v", err)
	}
	return nil
}

// AddAddress makes an address with its prefix ours.
func (s *Shard) AddAddress(a tcpip.AddressWithPrefix) error {
	proto := header.IPv4ProtocolNumber
	if a.Address.Len() == header.IPv6AddressSize {
		proto = header.IPv6ProtocolNumber
	}
	err := s.stack.AddProtocolAddress(nicID, tcpip.ProtocolAddress{Protocol: proto, AddressWithPrefix: a}, stack.AddressProperties{})
	if err != nil {
		return fmt.Errorf("adding address %v: %v", a, err)
	}
	s.engine.RoutesChanged()
	return nil
}

// RemoveAddress takes back AddAddress. Connections from the address end with
// their next segment.
func (s *Shard) RemoveAddress(a tcpip.Address) error {
	if err := s.stack.RemoveAddress(nicID, a); err != nil {
		return fmt.Errorf("removing address %v: %v", a, err)
	}
	s.engine.RoutesChanged()
	return nil
}

// A Route sends a prefix to a gateway, or straight to the link when the gateway
// is empty.
type Route struct {
	Destination tcpip.Subnet
	Gateway     tcpip.Address
}

// SetRoutes replaces the routing table. The first route that fits wins.
func (s *Shard) SetRoutes(routes []Route) {
	table := make([]tcpip.Route, len(routes))
	for i, r := range routes {
		table[i] = tcpip.Route{Destination: r.Destination, Gateway: r.Gateway, NIC: nicID}
	}
	s.stack.SetRouteTable(table)
	if s.routed.Swap(true) {
		s.link.SetRoutes(table)
	}
	s.engine.RoutesChanged()
}

// Rerouted says that the router has other ways than before.
func (s *Shard) Rerouted() { s.engine.RoutesChanged() }

// Addresses returns our unicast addresses, sorted.
func (s *Shard) Addresses() []netip.Prefix {
	var all []netip.Prefix
	for _, a := range s.stack.AllAddresses()[nicID] {
		if ip := netstack.Addr(a.AddressWithPrefix.Address); ip.IsValid() && a.AddressWithPrefix.Address != header.IPv4Broadcast {
			all = append(all, netip.PrefixFrom(ip, a.AddressWithPrefix.PrefixLen))
		}
	}
	sort.Slice(all, func(i, j int) bool { return all[i].Compare(all[j]) < 0 })
	return all
}

// Routes returns the routing table.
func (s *Shard) Routes() []Route {
	var routes []Route
	for _, r := range s.stack.GetRouteTable() {
		routes = append(routes, Route{Destination: r.Destination, Gateway: r.Gateway})
	}
	return routes
}

// Start starts the poller.
func (s *Shard) Start() {
	s.counters.started.Store(time.Now().UnixNano())
	// In a profile a poller that looks for frames is as busy as one that has them:
	// the labels tell which it is.
	labels := pprof.Labels("tpa", "poller", "shard", strconv.Itoa(s.index), "queue", fmt.Sprintf("%s/%d", s.device, s.index))
	go pprof.Do(context.Background(), labels, func(context.Context) { s.run() })
}

// Close stops the poller and then the stack, whose connections are reset. It
// must be called once for each shard, started or not; the queue stays open.
func (s *Shard) Close() {
	s.closeOnce.Do(func() {
		s.closing.Store(true)
		if w, ok := s.queue.(link.Waiter); ok {
			w.Wake()
		}
		if s.counters.started.Load() != 0 {
			<-s.done
		} else {
			s.handlers.End(nil)
		}
		// Now nothing comes in. TCP's own goroutine has to be done with what came
		// before it is told to end: it would leave the rest in its queues.
		for ep := range s.engine.Endpoints() {
			ep.Abort()
		}
		s.stack.Pause()
		s.stack.Resume()
		s.stack.Destroy()
		s.link.Kick() // the resets
	})
}

func (s *Shard) broken(err error) {
	s.log.Error("queue failed", "queue", s.index, "err", err)
	if s.onBreak != nil {
		s.onBreak(err)
	}
}

// unresolved passes on that a packet's next hop did not answer.
func (s *Shard) unresolved(pkt *stack.PacketBuffer) {
	ep, err := s.stack.GetNetworkEndpoint(nicID, pkt.NetworkProtocolNumber)
	if err != nil {
		return
	}
	if r, ok := ep.(stack.LinkResolvableNetworkEndpoint); ok {
		r.HandleLinkResolutionFailure(pkt)
	}
}

// Index implements transport.Stack.
func (s *Shard) Index() int { return s.index }

// Zone implements transport.Stack.
func (s *Shard) Zone() transport.Zone { return *s.zone.Load() }

// SetZone changes what Zone returns. Connections that stand keep their addresses.
func (s *Shard) SetZone(z transport.Zone) { s.zone.Store(&z) }

// Socket implements transport.Stack.
func (s *Shard) Socket(v6, v6Only bool) (transport.Endpoint, error) {
	return s.engine.Socket(v6, v6Only)
}

// Listening implements transport.Stack.
func (s *Shard) Listening(ep transport.Endpoint, backlog int, waiting func() int) int {
	return s.account.Listening(ep, backlog, waiting)
}

// NotListening implements transport.Stack.
func (s *Shard) NotListening(ep transport.Endpoint) { s.account.NotListening(ep) }

// Established implements transport.Stack.
func (s *Shard) Established(ep transport.Endpoint, u transport.User) {
	k, ok := s.engine.Key(ep)
	if !ok {
		return
	}
	s.engine.Established(k, ep, u)
	if s.handover != nil {
		s.handover.Opened(&k)
	}
}

// Closed implements transport.Stack. The FIN and what follows it take the slow
// path.
func (s *Shard) Closed(ep transport.Endpoint, u transport.User) {
	k, ok := s.engine.Key(ep)
	if !ok {
		return
	}
	if s.handover != nil {
		s.handover.Closing(k, ep)
	}
	s.engine.Closed(k, ep)
	s.conns.closed(ep, u)
}

// Tidy forgets flows that have ended since the program closed them. Somebody has
// to call it now and then.
func (s *Shard) Tidy() {
	s.engine.Tidy()
	if s.handover != nil {
		s.handover.Tidy()
	}
}

// Stats are a shard's counters and gauges.
type Stats struct {
	// CPU is where the poller is pinned, -1 when it floats.
	CPU    int
	Poller PollerStats
	Queue  link.QueueStats
	Link   netif.EndpointStats
	// Shortcuts counts segments that took the fast path.
	Shortcuts uint64
	// Handover counts what arrived on another queue than its flow's.
	Handover handover.MemberStats
	// Flows is the number of established flows.
	Flows int
	// Conns tell about the connections, those that ended included.
	Conns ConnStats
	// Limits tell how near the limits are.
	Limits limits.Stats
	// Refused counts what was not believed of those who pretend to be a peer or a
	// router.
	Refused transport.Refused
	// Handlers tell about the handlers that the poller runs.
	Handlers transport.RunStats
	// Stack holds the stack's counters. Read its fields with Value.
	Stack tcpip.Stats
}

// Stats reads the counters. Of the locks that the data path takes it takes none but
// that of each connection, for a moment.
func (s *Shard) Stats() Stats {
	st := Stats{
		CPU: s.cpu, Poller: s.pollerStats(), Queue: s.queue.Stats(), Link: s.link.Stats(),
		Shortcuts: s.fast.Load(), Flows: s.engine.Flows(), Conns: s.connStats(),
		Limits: s.account.Stats(), Refused: s.engine.Refused(), Handlers: s.handlers.Stats(), Stack: s.stackStats,
	}
	if s.handover != nil {
		st.Handover = s.handover.Stats()
	}
	return st
}
