package shard

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"runtime"
	"runtime/pprof"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"

	"github.com/gotpa/tpa/internal/clock"
	"github.com/gotpa/tpa/internal/flow"
	"github.com/gotpa/tpa/internal/netif"
	"github.com/gotpa/tpa/internal/recorder"
	owntcp "github.com/gotpa/tpa/internal/tcp"
	"github.com/gotpa/tpa/link"
	tpanet "github.com/gotpa/tpa/net"
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
	Polling Polling
	TCP     TCP
	// Budget keeps the limits that the shards of a runtime share. Default: one of
	// its own, that nobody keeps.
	Budget *Budget
	// Zone is that of link-local addresses; SetZone changes it. Default: none.
	Zone tpanet.Zone
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
	polling Polling
	tcp     TCP
	log     *slog.Logger
	onBreak func(error)
	// recorder records the connections, nil does not.
	recorder *recorder.Recorder
	maxFrame int // of the device, in bytes

	clock  *clock.Clock
	link   *netif.Endpoint
	stack  *stack.Stack
	routed atomic.Bool // SetRoutes was called
	zone   atomic.Pointer[tpanet.Zone]
	// stackStats are the stack's counters: the pointers to them.
	stackStats tcpip.Stats
	queuer     queuer
	// transport is the stack behind its IP layers.
	transport stack.TransportDispatcher
	flows     flow.Table[*established]
	peers     *peers // nil when alone
	outbound  outbound
	// own is our own TCP, nil when it is gVisor's. owing are connections of it that
	// have something to acknowledge at the end of the poll; the poller's alone.
	own   *owntcp.Protocol
	owing []*owntcp.Endpoint
	// conntrack guards gVisor's TCP, nil when it is our own. unclaimed answers a
	// segment as one that belongs to no connection.
	conntrack *conntrack
	unclaimed func(stack.TransportEndpointID, *stack.PacketBuffer) stack.UnknownDestinationPacketDisposition

	closing   atomic.Bool
	done      chan struct{}
	closeOnce sync.Once

	counters  pollerCounters
	shortcuts atomic.Uint64 // written by the poller alone
	conns     connCounters

	admission admission
	census    atomic.Pointer[Census] // the last one
	timeWait  atomic.Int64           // what it found in TIME-WAIT
	// timeWaitShort belongs to Budget.Keep.
	timeWaitShort bool
}

var _ tpanet.Stack = (*Shard)(nil)

// queuer is the way past IP into gVisor's TCP: its transport protocol exports
// it for its own demultiplexer.
type queuer interface {
	QueuePacket(stack.TransportEndpoint, stack.TransportEndpointID, *stack.PacketBuffer)
}

// oneProcessor guards GOMAXPROCS while a stack is made.
var oneProcessor sync.Mutex

// New makes a shard. Its poller starts with Start.
func New(o Options) (*Shard, error) {
	if errHeld != nil {
		return nil, errHeld
	}
	s := &Shard{
		index: o.Index, device: o.Device.Name, cpu: o.CPU, queue: o.Queue,
		polling: o.Polling.withDefaults(), tcp: o.TCP.withDefaults(),
		log: o.Logger, onBreak: o.Broken, recorder: o.Recorder,
		clock: clock.New(), done: make(chan struct{}), maxFrame: o.Device.MaxFrame,
	}
	if o.Budget == nil {
		o.Budget = NewBudget(Limits{})
	}
	s.admission.shard, s.admission.budget, s.admission.limits = s, o.Budget, o.Budget.Limits()
	s.admission.resets.rate = int64(s.admission.limits.Resets)
	s.census.Store(new(Census))
	s.SetZone(o.Zone)
	copy(s.mac[:], o.Device.HardwareAddr)
	s.link = netif.NewEndpoint(o.Device, o.Queue, o.Neighbours, o.MTU)
	s.link.OnUnresolved(s.unresolved)
	if s.polling.Spin >= 0 && s.polling.Spin < time.Microsecond {
		s.link.NoNaps()
	}

	// gVisor starts GOMAXPROCS goroutines per stack that share out TCP's work.
	// One is right for a stack that has one queue: more would spread each burst
	// over several wake-ups.
	oneProcessor.Lock()
	procs := runtime.GOMAXPROCS(1)
	s.stack = stack.New(stack.Options{
		NetworkProtocols: []stack.NetworkProtocolFactory{
			shortcut(ipv4.NewProtocol, s), shortcut(ipv6.NewProtocol, s),
		},
		TransportProtocols: []stack.TransportProtocolFactory{s.guarded(s.engine())},
		Clock:              s.clock,
		SecureRNG:          o.Random,
		HandleLocal:        true,
	})
	runtime.GOMAXPROCS(procs)
	oneProcessor.Unlock()

	if s.queuer == nil {
		s.stack.Destroy()
		return nil, fmt.Errorf("shard: gVisor's TCP does not export QueuePacket and SendBufferSize any more; pin the version in go.mod")
	}
	s.stackStats = s.stack.Stats()
	if err := s.configure(); err != nil {
		s.stack.Destroy()
		return nil, err
	}
	o.Budget.add(s)
	return s, nil
}

// engine makes the TCP that the shard is to have.
func (s *Shard) engine() stack.TransportProtocolFactory {
	if s.tcp.Engine == "tpa" {
		return owntcp.New(s.link)
	}
	return tcp.NewProtocolCUBIC
}

// routesChanged tells TCP to look for its routes anew.
func (s *Shard) routesChanged() {
	if s.own != nil {
		s.own.RoutesChanged()
	}
}

// configure sets TCP's options and makes the network interface.
func (s *Shard) configure() error {
	set := func(o tcpip.SettableTransportProtocolOption) error {
		if err := s.stack.SetTransportProtocolOption(tcp.ProtocolNumber, o); err != nil {
			return fmt.Errorf("shard: setting %T: %v", o, err)
		}
		return nil
	}
	sack := tcpip.TCPSACKEnabled(!s.tcp.NoSACK)
	moderate := tcpip.TCPModerateReceiveBufferOption(true)
	congestion := tcpip.CongestionControlOption(s.tcp.Congestion)
	receive, send := s.bufferRanges(false)
	timeWait := tcpip.TCPTimeWaitTimeoutOption(s.tcp.TimeWait)
	options := []tcpip.SettableTransportProtocolOption{&sack, &moderate, &congestion, &receive, &send, &timeWait}
	if s.tcp.Engine == "gvisor" {
		// Without RACK-TLP (RFC 8985): as gVisor has it, it takes segments for lost
		// that are not, on a link that loses none (149 MB/s with it, 2,143 MB/s
		// without, one connection over link/memory), and a flow that did lose the tail
		// of a burst sends two segments per retransmission timeout from then on, for
		// good. Tailscale has it off as well (tailscale/tailscale#9707). A loss at the
		// end of a flight costs a retransmission timeout then.
		// It also stops the retransmission timer on each write, sent or not: a program
		// that keeps writing into a full window never gets its losses sent again.
		recovery := tcpip.TCPRecovery(0)
		options = append(options, &recovery)
	}
	for _, o := range options {
		if err := set(o); err != nil {
			return err
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
	s.routesChanged()
	return nil
}

// RemoveAddress takes back AddAddress. Connections from the address end with
// their next segment.
func (s *Shard) RemoveAddress(a tcpip.Address) error {
	if err := s.stack.RemoveAddress(nicID, a); err != nil {
		return fmt.Errorf("removing address %v: %v", a, err)
	}
	s.routesChanged()
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
	s.routesChanged()
}

// Addresses returns our unicast addresses, sorted.
func (s *Shard) Addresses() []netip.Prefix {
	var all []netip.Prefix
	for _, a := range s.stack.AllAddresses()[nicID] {
		if ip, ok := netip.AddrFromSlice(a.AddressWithPrefix.Address.AsSlice()); ok && a.AddressWithPrefix.Address != header.IPv4Broadcast {
			all = append(all, netip.PrefixFrom(ip, a.AddressWithPrefix.PrefixLen))
		}
	}
	slices.SortFunc(all, netip.Prefix.Compare)
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
		}
		// Now nothing comes in. TCP's own goroutine has to be done with what came
		// before it is told to end: it would leave the rest in its queues.
		for _, ep := range s.stack.RegisteredEndpoints() {
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

// Index implements tpanet.Stack.
func (s *Shard) Index() int { return s.index }

// Zone implements tpanet.Stack.
func (s *Shard) Zone() tpanet.Zone { return *s.zone.Load() }

// SetZone changes what Zone returns. Connections that stand keep their addresses.
func (s *Shard) SetZone(z tpanet.Zone) { s.zone.Store(&z) }

// Socket implements tpanet.Stack.
func (s *Shard) Socket(v6 bool) (tpanet.Endpoint, *waiter.Queue, tcpip.Error) {
	proto := header.IPv4ProtocolNumber
	if v6 {
		proto = header.IPv6ProtocolNumber
	}
	wq := new(waiter.Queue)
	ep, err := s.stack.NewEndpoint(tcp.ProtocolNumber, proto, wq)
	if err != nil {
		return nil, nil, err
	}
	return ep, wq, nil
}

// Established implements tpanet.Stack.
func (s *Shard) Established(ep tpanet.Endpoint, c *tpanet.Conn) {
	if f, ok := flowOf(ep); ok {
		f.conn = c
		if s.conntrack != nil {
			f.tracked = s.conntrack.track(f.key, f.id, networkOf(f.id.LocalAddress))
		}
		s.record(ep, c, f)
		s.flows.Insert(f.key, f)
		if s.peers != nil {
			s.peers.opening.Forget(&f.key)
		}
	}
}

// Closed implements tpanet.Stack. The FIN and what follows it take the long way.
func (s *Shard) Closed(ep tpanet.Endpoint, c *tpanet.Conn) {
	if f, ok := flowOf(ep); ok {
		if s.peers != nil {
			s.peers.closing.Insert(f.key, f)
		}
		s.flows.Delete(f.key)
		s.conns.closed(c)
		if f.own == nil && c != nil && c.Trace() != nil {
			c.Trace().Close()
		}
	}
}

// flowOf returns the flow of an endpoint that the demultiplexer knows.
func flowOf(ep tpanet.Endpoint) (*established, bool) {
	t, ok := ep.(stack.TransportEndpoint)
	if !ok {
		return nil, false
	}
	e, ok := ep.(interface{ Info() tcpip.EndpointInfo })
	if !ok {
		return nil, false
	}
	info, ok := e.Info().(*stack.TransportEndpointInfo)
	if !ok || info.ID.RemotePort == 0 {
		return nil, false
	}
	f := &established{endpoint: t, id: info.ID}
	f.own, _ = t.(*owntcp.Endpoint)
	f.key, ok = keyOf(info.ID.RemoteAddress, info.ID.RemotePort, info.ID.LocalAddress, info.ID.LocalPort)
	return f, ok
}

// Stats are a shard's counters and gauges.
type Stats struct {
	// CPU is where the poller is pinned, -1 when it floats.
	CPU    int
	Poller PollerStats
	Queue  link.QueueStats
	Link   netif.EndpointStats
	// Shortcuts counts segments that went straight to TCP.
	Shortcuts uint64
	// Handover counts what arrived on another queue than its flow's.
	Handover HandoverStats
	// Flows is the number of established flows.
	Flows int
	// Conns tell about the connections, those that ended included.
	Conns ConnStats
	// Limits tell how near the limits are.
	Limits LimitStats
	// Refused counts what was not believed of those who pretend to be a peer or a
	// router.
	Refused owntcp.Refused
	// Stack holds gVisor's counters. Read its fields with Value.
	Stack tcpip.Stats
}

// Stats reads the counters. It takes no lock that the data path takes.
func (s *Shard) Stats() Stats {
	var refused owntcp.Refused
	if s.own != nil {
		refused = s.own.Refused()
	} else {
		refused = s.conntrack.refused()
	}
	return Stats{
		Refused: refused,
		CPU:     s.cpu,
		Poller:  s.pollerStats(), Queue: s.queue.Stats(), Link: s.link.Stats(),
		Shortcuts: s.shortcuts.Load(), Handover: s.handoverStats(), Flows: s.flows.Len(), Conns: s.connStats(),
		Stack: s.stackStats, Limits: s.limitStats(),
	}
}
