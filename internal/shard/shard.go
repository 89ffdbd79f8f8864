package shard

import (
	"context"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"net/netip"
	"runtime/pprof"
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
	"github.com/gotpa/tpa/internal/gvisortcp"
	"github.com/gotpa/tpa/internal/handover"
	"github.com/gotpa/tpa/internal/limits"
	"github.com/gotpa/tpa/internal/netif"
	"github.com/gotpa/tpa/internal/processor"
	"github.com/gotpa/tpa/internal/recorder"
	"github.com/gotpa/tpa/internal/slowpath"
	"github.com/gotpa/tpa/internal/tcp"
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
	index  int
	device string // its name
	queue  link.Queue
	mac    link.MAC
	tcp    TCP
	log    *slog.Logger
	// recorder records the connections, nil does not.
	recorder *recorder.Recorder
	maxFrame int // of the device, in bytes
	rxRing   int

	clock  *clock.Clock
	link   *netif.Endpoint
	stack  *stack.Stack
	engine Engine
	path   *slowpath.Path
	routed atomic.Bool // SetRoutes was called
	zone   atomic.Pointer[transport.Zone]
	// stackStats are the stack's counters: the pointers to them.
	stackStats tcpip.Stats
	account    *limits.Account
	outbound   outbound
	// handover is nil when the shard is alone.
	handover *handover.Member

	poller    poller
	closeOnce sync.Once
	conns     connections
}

var _ transport.Stack = (*Shard)(nil)

// New makes a shard. Its poller starts with Start.
func New(o Options) (*Shard, error) {
	s := &Shard{
		index: o.Index, device: o.Device.Name, queue: o.Queue, tcp: o.TCP.withDefaults(),
		log: o.Logger, recorder: o.Recorder, clock: clock.New(), maxFrame: o.Device.MaxFrame, rxRing: o.Device.RxRing,
	}
	if o.Budget == nil {
		o.Budget = limits.NewBudget(limits.Limits{}, nil)
	}
	s.SetZone(o.Zone)
	copy(s.mac[:], o.Device.HardwareAddr)
	s.link = netif.NewEndpoint(o.Device, o.Queue, o.Neighbours, o.MTU)
	s.link.OnUnresolved(s.unresolved)
	if o.Router != nil {
		s.link.SetRouter(o.Router)
	}
	s.path = &slowpath.Path{Link: s.link}
	if err := s.makeStack(o); err != nil {
		return nil, err
	}
	s.stackStats = s.stack.Stats()
	if err := s.configure(); err != nil {
		s.stack.Destroy()
		return nil, err
	}
	s.account = o.Budget.Open(s.host(), limits.Settings{
		ReceiveBuffer: s.tcp.ReceiveBuffer, SendBuffer: s.tcp.SendBuffer, FirstSend: s.engine.FirstSend(), TimeWait: s.tcp.TimeWait,
		Now: s.clock.Nanos,
	})
	s.engine.Attach(s.account)
	s.path.TCP, s.path.Account = s.engine, s.account
	s.outbound = outbound{index: s.index, stack: s.stack, engine: s.engine}
	s.conns.engine = s.engine
	s.makePoller(o)
	return s, nil
}

// host is the shard as its limits see it.
func (s *Shard) host() host { return host{s.queue, s.link, s.stack, s.engine, s.log} }

// makePoller makes the poller, which Start starts.
func (s *Shard) makePoller(o Options) {
	p := &s.poller
	*p = poller{
		index: s.index, cpu: o.CPU, queue: s.queue, link: s.link, engine: s.engine, clock: s.clock, log: s.log,
		onBreak: o.Broken, recorder: s.recorder, wakeup: make(chan struct{}, 1), done: make(chan struct{}),
	}
	p.polling.Store(o.Polling.Policy())
	if !p.polling.Load().Spins() {
		s.link.NoNaps()
	}
	p.handlers = newRunQueue(s.index, s.log, p.wake, func() time.Duration { return p.polling.Load().LongHandler })
}

// makeStack makes the stack with the engine as its TCP.
func (s *Shard) makeStack(o Options) (err error) {
	if s.engine, err = s.newEngine(o); err != nil {
		return err
	}
	err = s.engine.MakeStack(func() {
		s.stack = stack.New(stack.Options{
			NetworkProtocols: []stack.NetworkProtocolFactory{
				s.path.Wrap(ipv4.NewProtocol), s.path.Wrap(ipv6.NewProtocol),
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

// newEngine makes the TCP that the shard is to have.
func (s *Shard) newEngine(o Options) (Engine, error) {
	record := s.recorder.Opener(s.clock, s.index)
	switch s.tcp.Engine {
	case "tpa":
		return tcp.NewEngine(tcp.Config{
			Link: s.link, MAC: s.mac, RxRing: s.rxRing, Slow: s.path.Take, Record: record,
			Departing: s.path.Departing, Elsewhere: s.path.Elsewhere,
		}), nil
	case "gvisor":
		return gvisortcp.NewEngine(gvisortcp.Config{
			Link: s.link, MAC: s.mac, NIC: nicID, Slow: s.path.Take, Record: record, Now: s.clock.Nanos,
			NoCoalescing: s.tcp.NoCoalescing, Pinned: o.CPU >= 0,
		})
	}
	return nil, fmt.Errorf("there is no TCP of the name %q", s.tcp.Engine)
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

// Start starts the poller.
func (s *Shard) Start() {
	s.poller.counters.started.Store(time.Now().UnixNano())
	// In a profile a poller that looks for frames is as busy as one that has them:
	// the labels tell which it is.
	labels := pprof.Labels("tpa", "poller", "shard", strconv.Itoa(s.index), "queue", fmt.Sprintf("%s/%d", s.device, s.index))
	go pprof.Do(context.Background(), labels, func(context.Context) { s.poller.run() })
}

// Close stops the poller and then the stack, whose connections are reset. It
// must be called once for each shard, started or not; the queue stays open.
func (s *Shard) Close() {
	s.closeOnce.Do(func() {
		s.poller.stop()
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

// SetPolling changes how the poller idles. Any goroutine may call it, before Start and
// after.
func (s *Shard) SetPolling(p processor.Polling) {
	s.poller.polling.Store(p.Policy())
	s.poller.wake() // it may sleep for long by the old ones
}

// RunQueue implements transport.Stack.
func (s *Shard) RunQueue() *transport.RunQueue { return s.poller.handlers }

// CheckHandlers tells, once, of a handler that has kept the poller since the call
// before. Somebody has to call it now and then.
func (s *Shard) CheckHandlers() { s.poller.checkHandlers() }

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

// Bind implements transport.Stack.
func (s *Shard) Bind(ep transport.Endpoint, local, remote netip.AddrPort) error {
	return s.outbound.bind(ep, local, remote)
}

// Conns yields the established connections. It takes no lock: of those that come and
// go meanwhile it may miss some.
func (s *Shard) Conns() iter.Seq[Conn] { return s.conns.all() }

// SampleRTT counts the round-trip times of up to limit connections, spread over
// all. It locks each of them for a moment.
func (s *Shard) SampleRTT(limit int) { s.conns.sampleRTT(limit) }

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
