// Package transport is the seam between package net and a TCP: what a connection
// needs of its TCP, and no more. It names no type of either side. Two packages
// implement it: internal/tcp, and internal/gvisortcp for gVisor's TCP.
//
// # Errors
//
// An error is nil, ErrWouldBlock, io.EOF, or a syscall.Errno as Linux reports it
// for the same call.
//
// # Threads
//
// All methods may be called by any goroutine, but not from within Sink.Notify.
package transport

import (
	"errors"
	"net"
	"net/netip"
	"syscall"
	"time"
)

// ErrWouldBlock says that there is nothing to read or to accept, or no room to
// write: an event will tell when to try again.
var ErrWouldBlock = errors.New("operation would block")

// ErrPortsTaken says that a shard has no local port left for a connection to some
// address. Linux has no error of its own for that: it wraps EADDRNOTAVAIL.
var ErrPortsTaken error = portsTaken{}

type portsTaken struct{}

func (portsTaken) Error() string { return syscall.EADDRNOTAVAIL.Error() }
func (portsTaken) Unwrap() error { return syscall.EADDRNOTAVAIL }

// Events are what a Sink is told.
type Events uint8

const (
	// Readable: data came or the peer's end, or a connection to accept, once for
	// each.
	Readable Events = 1 << iota
	// Writable: there is room to write again, or the handshake is through.
	Writable
	// Ended: the endpoint is at its end, by itself or by the peer.
	Ended
)

// A Sink is told of an endpoint's events.
type Sink interface {
	// Notify must neither wait nor call the endpoint, whose locks may be held.
	Notify(Events)
	// Prefetch has the processor fetch what Notify, and whoever it wakes, will need:
	// with Near the sink itself, with Far, some time later, what that points to. The
	// endpoint's locks are held.
	Prefetch(Distance)
}

// A Distance is how many pointers away something is.
type Distance uint8

const (
	Near Distance = iota
	Far
)

// A User is the connection that stands on an endpoint.
type User interface {
	Sink
	// Bytes are what was read and written so far. It takes no lock.
	Bytes() (read, written uint64)
	// Conn is the connection as programs have it.
	Conn() net.Conn
}

// An Endpoint is a listener or one end of a connection.
type Endpoint interface {
	// Bind gives the endpoint a local address, of which each part may be empty. With
	// shared, other connections and former listeners may have it, too
	// (SO_REUSEADDR).
	Bind(local netip.AddrPort, shared bool) error
	// Connect sends a SYN. Writable tells of the answer, Ended of its failure.
	Connect(remote netip.AddrPort) error
	// Listen begins to listen, for backlog connections that wait for Accept.
	Listen(backlog int) error
	// Accept returns a connection that waits.
	Accept() (Endpoint, error)
	// SetSink says who is told of events from now on: what came before is not told.
	// It is called once, before Listen, Connect or the first Read. The sink is
	// forgotten with Close.
	SetSink(Sink)

	// Read reads up to len(b) bytes, at least one. more tells whether reading again
	// would bring something at once, data or the end; if not, Readable will tell. With
	// an empty b it takes nothing, and tells by its error whether there is something.
	Read(b []byte) (n int, more bool, err error)
	// Post has what arrives from now on put into b, past the receive buffer, unless
	// something is there already: who is about to wait for Readable saves a copy. The
	// next Read must have the same b, or Withdraw must come before it; until then b is
	// the endpoint's.
	Post(b []byte)
	// Withdraw ends that, and returns how many bytes of b were filled.
	Withdraw() int
	// Lend reads without a copy: it takes received bytes out of the endpoint, in
	// memory that is the caller's until Return. nil without an error means that they
	// are few, which Read had better copy.
	Lend() (Loan, error)
	// Write takes bytes of b into the send buffer, as many as there is room for. With
	// none to write it tells whether there is room.
	Write(b []byte) (int, error)
	// Writev is Write for the bytes of several buffers, in one piece.
	Writev(bufs [][]byte) (int, error)
	// Draft returns memory to be filled for WriteDraft.
	Draft() Draft
	// WriteDraft writes the first n bytes of a draft, n > 0, and takes it over. After
	// ErrWouldBlock the caller tries again with the same n; after any other error the
	// draft is still the caller's.
	WriteDraft(d Draft, n int) error

	// CloseWrite sends a FIN behind what was written.
	CloseWrite() error
	// Close is the program's last call but for State and Info. What was written is
	// still sent; a reset leaves instead where data was not read, or after
	// SetLinger(0).
	Close()
	// Abort resets the connection.
	Abort()

	LocalAddr() netip.AddrPort
	// RemoteAddr is the peer's address, false while there is no connection and after
	// it has ended.
	RemoteAddr() (netip.AddrPort, bool)
	// LastError returns what went wrong, once (SO_ERROR).
	LastError() error
	State() State
	Info() Info

	// SetNoDelay turns Nagle's algorithm off, which is the default, or on.
	SetNoDelay(bool)
	// SetLinger is SO_LINGER: less than 0, the default, turns it off.
	SetLinger(time.Duration)
	SetKeepAlive(bool)
	// TuneKeepAlive sets the times and number of keep-alive probes. What is 0 or
	// less stays.
	TuneKeepAlive(idle, interval time.Duration, count int)
	// SetUserTimeout is TCP_USER_TIMEOUT, 0 for none.
	SetUserTimeout(time.Duration)
	// SetReadBuffer and SetWriteBuffer set the size of a buffer in bytes, within the
	// limits of the stack, and stop its automatic tuning.
	SetReadBuffer(bytes int)
	SetWriteBuffer(bytes int)
}

// A Loan is received data in the memory in which TCP has it.
type Loan interface {
	// Bytes may be changed.
	Bytes() []byte
	// Return gives the memory back, once.
	Return()
}

// A Draft is memory that is to be filled and sent.
type Draft interface {
	Space() []byte
	// Return gives back a draft that was not written, once.
	Return()
}

// Info is what TCP knows of a connection at one moment.
type Info struct {
	State State
	// ReceiveQueue is how many bytes wait to be read.
	ReceiveQueue int
	// SendQueue is how many bytes wait to be acknowledged, sent or not; -1 when it is
	// not known.
	SendQueue int
	// RTT is the smoothed round-trip time, RTTVar its variation; 0 until data was
	// acknowledged.
	RTT, RTTVar time.Duration
	// RTO is the retransmission timeout.
	RTO time.Duration
	// CongestionWindow and SlowStartThreshold are in segments.
	CongestionWindow, SlowStartThreshold uint32
	// Retransmits counts segments sent again, for any reason; FastRetransmits how
	// often recovery from loss began; Timeouts how often the RTO ran out.
	Retransmits, FastRetransmits, Timeouts uint64
}

// A Stack is one shard as package net sees it: where endpoints are made, and who
// is told when they start and end to carry data.
type Stack interface {
	// Socket makes an endpoint. One for IPv6 also serves IPv4 unless v6Only is set.
	Socket(v6, v6Only bool) (Endpoint, error)
	// Bind gives ep, which is about to connect to remote, a local address. Of local,
	// each part may be empty: what the stack does not fill in then, Connect does.
	Bind(ep Endpoint, local, remote netip.AddrPort) error
	// Established says that ep has finished its handshake: its segments may take
	// the fast path from now on. u stands on ep. It is called once, before the first
	// Read or Write.
	Established(ep Endpoint, u User)
	// Closed ends what Established began. It is called once, before ep.Close or
	// ep.Abort.
	Closed(ep Endpoint, u User)
	// Listening says that ep is about to listen, for backlog connections that wait
	// for Accept; waiting tells how many do. It returns the backlog for ep itself,
	// which is greater where the Stack keeps the limit when the SYN comes.
	Listening(ep Endpoint, backlog int, waiting func() int) int
	// NotListening ends what Listening began.
	NotListening(ep Endpoint)
	// Index is the number of the shard, and so of its queue.
	Index() int
	// Zone is that of the device's link-local addresses.
	Zone() Zone
	// RunQueue is what the shard's poller runs beside TCP.
	RunQueue() *RunQueue
}

// A Zone is the network on which link-local addresses of IPv6 are valid (RFC
// 4007): that of a stack's only device.
type Zone struct {
	// Name follows the % in an address, as in fe80::1%eth0.
	Name string
	// Index may stand for the name: the number of the kernel's interface, 0 where
	// the kernel has none.
	Index int
}

// Refused counts what claimed to be of a connection's peer, or of a router on its
// way, and was not believed.
type Refused struct {
	// Acks counts segments that acknowledged what was never sent, or what was
	// acknowledged long ago (RFC 5961 section 5). Their data is dropped, too.
	Acks uint64
	// Timestamps counts segments with an old timestamp (PAWS, RFC 7323 section 5).
	Timestamps uint64
	// Errors counts ICMP errors about a sequence number that is not in flight (RFC
	// 5927 section 4.1).
	Errors uint64
}
