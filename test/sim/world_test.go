package sim

import (
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"gvisor.dev/gvisor/pkg/refs"
	"gvisor.dev/gvisor/pkg/tcpip"

	"github.com/gotpa/tpa/accel"
	"github.com/gotpa/tpa/link/fault"
	"github.com/gotpa/tpa/link/softnic"
	"github.com/gotpa/tpa/test/virtualtime"
)

func TestMain(m *testing.M) {
	refs.SetLeakMode(refs.LeaksPanic)
	virtualtime.Main(m)
}

// A world is two hosts and the wire between them.
type world struct {
	t      *testing.T
	seed   uint64
	setup  setup
	random *rand.Rand
	start  time.Time
	wire   *wire
	box    *middlebox // nil for none
	hosts  [2]*host
	// slept is for how long the machine slept: what waits may be that much late.
	slept time.Duration
}

// A host is a runtime on a card behind impairments, which may be started again.
type host struct {
	addrs [2]netip.Addr // IPv4 and IPv6
	boots int
	mu    sync.Mutex
	// What follows are others after a start; mu guards them, see now.
	hardware
}

// hardware is what a host runs on from one start to the next.
type hardware struct {
	rt     *accel.Runtime
	nic    *softnic.NIC
	device *fault.Device
}

// now is what the host runs on at the moment.
func (h *host) now() hardware {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.hardware
}

// A locked source of random bytes is what a runtime takes its secrets from.
type locked struct {
	mu     sync.Mutex
	random *rand.ChaCha8
}

func (l *locked) Read(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.random.Read(b)
}

// seeded returns an independent source for each name.
func seeded(seed uint64, name string) *rand.ChaCha8 {
	var key [32]byte
	copy(key[:], fmt.Sprintf("%016x %s", seed, name))
	return rand.NewChaCha8(key)
}

// outcome is what a run leaves behind.
type outcome struct {
	frames  int
	digest  uint64 // of all frames, their directions and times
	virtual time.Duration
}

// run makes a world, lets the program run in it, and checks that nothing is left.
func run(t *testing.T, seed uint64, s setup, program func(*world)) (o outcome) {
	t.Helper()
	done := false
	defer func() {
		if !done || t.Failed() {
			t.Logf("replay: %s", replay(t, seed))
			t.Logf("set-up: %v", s)
		}
	}()
	virtualtime.Test(t, func(t *testing.T) {
		w := &world{t: t, seed: seed, setup: s, random: rand.New(seeded(seed, "program")), start: time.Now()}
		w.wire = newWire(s.mtu, t.Errorf)
		w.wire.gaps = s.early
		w.wire.damage = s.early && s.there.Corrupt+s.there.Cut+s.back.Corrupt+s.back.Cut > 0
		if s.middlebox {
			w.box = newMiddlebox(s.paths)
		}
		for i := range w.hosts {
			w.hosts[i] = &host{}
			w.boot(i)
		}
		for i, h := range w.hosts {
			w.plug(i, h.nic)
		}
		dog := w.watch(liveness)
		if !t.Failed() {
			program(w)
		}
		dog.Stop()
		w.settle()
		o.virtual = time.Since(w.start)
		for _, h := range w.hosts {
			h.rt.Close()
		}
		w.leftovers()
		o.frames, o.digest = w.wire.frames, w.wire.digest.Sum64()
	})
	done = true
	return o
}

// replay is the command that repeats a run of a test.
func replay(t *testing.T, seed uint64) string {
	return fmt.Sprintf("SEED=%d go test ./test/sim -run '^%s$' -v", seed, t.Name())
}

// boot starts a host, again after it went down.
func (w *world) boot(i int) {
	s, h := &w.setup, w.hosts[i]
	nic, err := softnic.New(softnic.Config{
		Name: fmt.Sprint("host", i), HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, byte(i + 1)},
		MTU: s.mtu, Queues: s.queues[i], Capabilities: s.nic, Ring: 8192,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	in, out := s.back, s.there
	if i == 1 {
		in, out = out, in
	}
	impaired := fault.Config{Seed: w.seed + uint64(i)}
	if s.early {
		impaired.Transmit = out
	} else {
		impaired.Receive = in
	}
	device, err := fault.Wrap(nic, impaired)
	if err != nil {
		w.t.Fatal(err)
	}
	h.addrs[0] = netip.AddrFrom4([4]byte{10, 0, 0, byte(i + 1)})
	prefixes := []netip.Prefix{netip.PrefixFrom(h.addrs[0], 24)}
	if s.v6 {
		h.addrs[1] = netip.AddrFrom16([16]byte{0: 0xfd, 15: byte(i + 1)})
		prefixes = append(prefixes, netip.PrefixFrom(h.addrs[1], 64))
	}
	tcp := s.tcp
	tcp.Engine = s.engines[i]
	name := nic.Info().Name
	if h.boots > 0 {
		name = fmt.Sprint(name, " ", h.boots) // other secrets
	}
	h.boots++
	rt, err := accel.New(accel.Config{
		Link: device, Addrs: prefixes, TCP: tcp, Fallback: accel.FallbackNever, DebugSocket: "off", Record: -1,
		Random: &locked{random: seeded(w.seed, name)},
		Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		w.t.Fatal(err)
	}
	h.mu.Lock()
	h.hardware = hardware{rt, nic, device}
	h.mu.Unlock()
}

// plug puts the cable into a card.
func (w *world) plug(i int, nic *softnic.NIC) {
	nic.Attach(w.wire.carry("><"[i], w.towards(1-i)))
}

// towards returns the way of frames to a host from the wire on.
func (w *world) towards(to int) func([]byte) {
	deliver := func(i int) func([]byte) {
		return func(frame []byte) { w.hosts[i].now().nic.Deliver(frame) }
	}
	if w.box == nil {
		return deliver(to)
	}
	return func(frame []byte) { w.box.pass(to, frame, deliver(to), deliver(1-to)) }
}

// liveness is how long a run may take, in virtual time. Where one frame in ten is
// lost and acknowledgements are not selective, a few kilobytes take half an hour:
// gVisor's retransmission timeout grows to a minute and shrinks slowly.
const liveness = time.Hour

// watch ends a run that makes no progress: after that much virtual time it says
// where everybody stands.
func (w *world) watch(limit time.Duration) *time.Timer {
	return time.AfterFunc(limit, func() {
		w.t.Errorf("not finished after %v\n%s", limit, ourStacks())
		for _, h := range w.hosts {
			h.now().rt.Close()
		}
	})
}

// ourStacks returns the stacks of the goroutines that run this package's code.
func ourStacks() string {
	all := make([]byte, 1<<20)
	all = all[:runtime.Stack(all, true)]
	var ours []string
	for stack := range strings.SplitSeq(string(all), "\n\n") {
		if strings.Contains(stack, "synctest bubble") && strings.Contains(stack, "test/sim.(*") {
			ours = append(ours, stack)
		}
	}
	return strings.Join(ours, "\n\n")
}

// settle waits until closed connections have left TIME-WAIT and checks that no
// flow and no buffer is left.
func (w *world) settle() {
	for _, h := range w.hosts {
		none := fault.Impairment{}
		if err := h.device.SetReceive(none); err != nil {
			w.t.Error(err)
		}
		if err := h.device.SetTransmit(none); err != nil {
			w.t.Error(err)
		}
	}
	time.Sleep(5 * time.Minute)
	if w.wire.apart || w.wire.gaps {
		time.Sleep(25 * time.Minute) // some send to nobody until they give up
	}
	synctest.Wait()
	for i, h := range w.hosts {
		s := h.rt.Stats()
		for _, shard := range s.Shards {
			if shard.Flows != 0 {
				w.t.Errorf("host %d: %d flows are left", i, shard.Flows)
			}
			if n := shard.TCP.Established; n != 0 {
				w.t.Errorf("host %d: %d connections are left established", i, n)
			}
			if n := shard.TCP.Connected; n != 0 {
				w.t.Errorf("host %d: %d connections are left", i, n)
			}
		}
		if len(s.Listeners) != 0 {
			w.t.Errorf("host %d: %d listeners are left", i, len(s.Listeners))
		}
		if s.Device.BuffersInUse != 0 {
			w.t.Errorf("host %d: %d device buffers are in use", i, s.Device.BuffersInUse)
		}
	}
}

// leftovers checks what closed runtimes must not leave.
func (w *world) leftovers() {
	synctest.Wait()
	w.wire.ended()
	if n := virtualtime.Timers(); n > 0 {
		w.t.Errorf("%d timers are left", n)
	}
	defer func() {
		if leaks := recover(); leaks != nil {
			w.t.Error(leaks)
			refs.SetLeakMode(refs.NoLeakChecking) // the next run would report them again
		}
	}()
	refs.DoRepeatedLeakCheck()
	for _, ep := range tcpip.GetDanglingEndpoints() {
		w.t.Errorf("an endpoint is left: %+v", ep.Info())
	}
	tcpip.ReleaseDanglingEndpoints()
}
