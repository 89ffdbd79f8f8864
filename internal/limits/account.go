package limits

import (
	"iter"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/gotpa/tpa/internal/syncookie"
	"github.com/gotpa/tpa/internal/transport"
)

// A Shard is a shard as its limits see it.
type Shard interface {
	// Received counts the frames that its queue received.
	Received() uint64
	// Counters are those of its TCP.
	Counters() *tcpip.TCPStats
	// Held yields all connections, in whatever state, and listeners.
	Held() iter.Seq[Conn]
	// TimeWaits is how many more are in TIME-WAIT and hold nothing.
	TimeWaits() int
	MTU() int

	// SetCookies has each SYN answered with a cookie, or none that need not.
	SetCookies(bool)
	// SetTimeWait sets how long TIME-WAIT lasts.
	SetTimeWait(time.Duration)
	// SetBuffers sets the buffers of connections to come, and how large those of all
	// may grow.
	SetBuffers(receive, send Buffer)

	// Cookies are what SYN cookies are made with, nil where nobody else can make
	// them. ShareCookies replaces them, before there is traffic.
	Cookies() *syncookie.Cookies
	ShareCookies(*syncookie.Cookies)
	// ShieldFailed is told why the filter does not answer SYNs.
	ShieldFailed(error)
}

// A Conn is a connection as the limits see it.
type Conn interface {
	State() transport.State
	// Held returns how many bytes the connection keeps in memory: received ones that
	// were not read, with their overhead, and written ones that were not acknowledged.
	Held() (received, sent int)
	// Buffers returns the sizes of the buffers in bytes.
	Buffers() (receive, send int)
	// SetBuffers changes them. Automatic tuning goes on, and writers are woken for
	// which there is more room.
	SetBuffers(receive, send int)
	Abort()
}

// A Buffer is the size in bytes that a buffer begins with, and the greatest.
type Buffer struct{ First, Most int }

// Settings are those of a shard's TCP that the limits change in need.
type Settings struct {
	// ReceiveBuffer and SendBuffer are the greatest ones, FirstSend is the send buffer
	// that a connection begins with, in bytes.
	ReceiveBuffer, SendBuffer, FirstSend int
	TimeWait                             time.Duration
	// Now is the shard's clock: monotonic, in nanoseconds.
	Now func() int64
}

// An Account is a shard's with the Budget. Any goroutine may call its methods.
type Account struct {
	shard    Shard
	settings Settings
	counters *tcpip.TCPStats // of the shard's stack
	budget   *Budget

	// listeners has an accept queue for each listening endpoint.
	listeners sync.Map // transport.Endpoint to acceptQueue

	census   atomic.Pointer[Census] // the last one
	timeWait atomic.Int64           // what it found in TIME-WAIT
	// timeWaitShort belongs to Budget.Keep.
	timeWaitShort bool

	// begun counts handshakes let through to be kept in memory, and correction is
	// what the last census made of the difference to those that ended.
	begun, correction atomic.Int64
	// cookies tells whether handshakes are kept in cookies now; cookieAt when a
	// cookie was last asked for, in nanoseconds.
	cookies  atomic.Bool
	cookieAt atomic.Int64

	resets bucket

	refusedConnections, refusedMemory, refusedBacklog, refusedSource atomic.Uint64
	resetMemory, resetClosing, cut, unanswered                       atomic.Uint64
}

type acceptQueue struct {
	port    uint16
	backlog int
	waiting func() int
}

func (q acceptQueue) full() bool { return q.waiting() >= q.backlog }

// cookieLife is how long the stack takes a cookie at most.
const cookieLife = 4 * time.Minute

// Admit tells whether a segment to a listening endpoint may go on.
func (a *Account) Admit(l transport.Endpoint, flags header.TCPFlags) bool {
	switch {
	case flags&header.TCPFlagRst != 0:
		return true // the stack drops and counts it
	case flags&header.TCPFlagSyn == 0, flags&header.TCPFlagAck != 0:
		// It finishes a handshake kept in a cookie, or is a stray. As long as no
		// cookie can be on its way it is a stray.
		now := a.settings.Now()
		if at := a.cookieAt.Load(); at != 0 && now-at < int64(cookieLife) {
			return a.room()
		}
		return a.mayReset(now)
	}
	if !a.room() {
		return false
	}
	if q, ok := a.listeners.Load(l); ok && q.(acceptQueue).full() {
		a.refusedBacklog.Add(1)
		return false
	}
	a.tend()
	if a.cookies.Load() {
		a.cookieAt.Store(a.settings.Now())
		a.budget.raise()
	} else {
		a.begun.Add(1)
	}
	return true
}

// Restricted tells whether only some sources may connect.
func (a *Account) Restricted() bool { return len(*a.budget.sources.Load()) > 0 }

// Allowed tells whether a source may connect.
func (a *Account) Allowed(source netip.Addr) bool {
	for _, p := range *a.budget.sources.Load() {
		if p.Contains(source) {
			return true
		}
	}
	a.refusedSource.Add(1)
	return false
}

// MayReset tells whether a segment that belongs to no endpoint is answered with a
// reset, which happens as often as Limits.Resets allows.
func (a *Account) MayReset() bool { return a.mayReset(a.settings.Now()) }

func (a *Account) mayReset(now int64) bool {
	if a.resets.take(now) {
		return true
	}
	a.unanswered.Add(1)
	return false
}

// Cookies tells whether SYNs are answered with cookies now, because there are too
// many handshakes to remember.
func (a *Account) Cookies() bool { return a.cookies.Load() }

// room tells whether the runtime may have another connection.
func (a *Account) room() bool {
	switch {
	case a.budget.closed.Load():
		a.refusedMemory.Add(1)
	case a.budget.Full():
		a.refusedConnections.Add(1)
	default:
		return true
	}
	return false
}

// halfOpen is the number of handshakes in memory: exact at each census, and
// until the next one too high by those that failed.
func (a *Account) halfOpen() int {
	return int(max(0, a.begun.Load()-a.completed()+a.correction.Load()))
}

// completed counts handshakes that were in memory and came to their end.
func (a *Account) completed() int64 {
	return int64(a.counters.PassiveConnectionOpenings.Value()) - int64(a.counters.ListenOverflowSynCookieRcvd.Value())
}

// correct takes over what a census counted.
func (a *Account) correct(halfOpen int) {
	a.correction.Store(int64(halfOpen) - a.begun.Load() + a.completed())
	a.tend()
}

// tend turns cookies on and off.
func (a *Account) tend() {
	n, on := a.halfOpen(), a.cookies.Load()
	limit := a.budget.limits.Load().HalfOpen
	if want := n >= limit || on && n > limit*3/4; want != on && a.cookies.CompareAndSwap(on, want) {
		if want {
			a.cookieAt.Store(a.settings.Now())
		}
		a.shard.SetCookies(want)
	}
}

// Listening is transport.Stack's. The backlog is kept when the SYN comes, and not
// once more at the end of the handshake, as the stack would: a client whose
// last segment of a handshake in a cookie is dropped is lost if the server is to
// speak first, because it has nothing to send again.
func (a *Account) Listening(ep transport.Endpoint, backlog int, waiting func() int) int {
	a.listeners.Store(ep, acceptQueue{port: ep.LocalAddr().Port(), backlog: backlog, waiting: waiting})
	return MaxConnections
}

// NotListening ends what Listening began.
func (a *Account) NotListening(ep transport.Endpoint) { a.listeners.Delete(ep) }

// bucket is a token bucket that holds the tokens of one second.
type bucket struct {
	mu     sync.Mutex
	rate   int64 // tokens per second
	tokens int64
	filled int64 // when, in nanoseconds
}

// setRate changes the rate.
func (b *bucket) setRate(rate int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.rate = rate
}

// take takes a token if there is one.
func (b *bucket) take(now int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if passed := now - b.filled; passed >= int64(time.Second) || b.filled == 0 {
		b.tokens, b.filled = b.rate, now
	} else if fresh := passed * b.rate / int64(time.Second); fresh > 0 {
		b.tokens = min(b.tokens+fresh, b.rate)
		b.filled += fresh * int64(time.Second) / b.rate
	}
	if b.tokens == 0 {
		return false
	}
	b.tokens--
	return true
}
