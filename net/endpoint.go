package tpanet

import (
	"io"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/waiter"
)

// Endpoint is the seam between a Conn and the TCP below it: what a Conn needs
// of one connection, and no more. gVisor's *tcp.Endpoint satisfies it, and so
// does any other TCP that is registered with a gVisor stack.
//
// All methods may be called by any goroutine, except from inside a callback of
// the endpoint's waiter.Queue.
type Endpoint interface {
	Read(io.Writer, tcpip.ReadOptions) (tcpip.ReadResult, tcpip.Error)
	Write(tcpip.Payloader, tcpip.WriteOptions) (int64, tcpip.Error)
	Bind(tcpip.FullAddress) tcpip.Error
	Connect(tcpip.FullAddress) tcpip.Error
	Listen(backlog int) tcpip.Error
	Accept(*tcpip.FullAddress) (tcpip.Endpoint, *waiter.Queue, tcpip.Error)
	Shutdown(tcpip.ShutdownFlags) tcpip.Error
	Close()
	Abort()
	Readiness(waiter.EventMask) waiter.EventMask
	LastError() tcpip.Error
	GetLocalAddress() (tcpip.FullAddress, tcpip.Error)
	GetRemoteAddress() (tcpip.FullAddress, tcpip.Error)
	ModerateRecvBuf(copied int)
	SetSockOpt(tcpip.SettableSocketOption) tcpip.Error
	GetSockOpt(tcpip.GettableSocketOption) tcpip.Error
	SetSockOptInt(tcpip.SockOptInt, int) tcpip.Error
	GetSockOptInt(tcpip.SockOptInt) (int, tcpip.Error)
	SocketOptions() *tcpip.SocketOptions
}

// Stack is one shard as seen from above: where endpoints are made, and who is
// told when they start and end to carry data.
type Stack interface {
	// Socket makes an endpoint and the queue that announces its events. An IPv6
	// endpoint also serves IPv4 unless its V6Only option is set.
	Socket(ipv6 bool) (Endpoint, *waiter.Queue, tcpip.Error)
	// Bind gives ep, which is about to connect to remote, a local address. Of local,
	// each part may be empty: what the stack does not fill in then, Connect does.
	Bind(ep Endpoint, local, remote tcpip.FullAddress) tcpip.Error
	// Established says that ep has finished its handshake: its segments may take
	// the short way past IP from now on. c stands on ep. It is called once,
	// before the first Read or Write.
	Established(ep Endpoint, c *Conn)
	// Closed ends what Established began. It is called once, before ep.Close or
	// ep.Abort.
	Closed(ep Endpoint, c *Conn)
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
}
