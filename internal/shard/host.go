package shard

import (
	"iter"
	"log/slog"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"github.com/gotpa/tpa/internal/limits"
	"github.com/gotpa/tpa/internal/netif"
	"github.com/gotpa/tpa/internal/syncookie"
	"github.com/gotpa/tpa/link"
)

// A host is a shard as its limits see it.
type host struct {
	queue  link.Queue
	link   *netif.Endpoint
	stack  *stack.Stack
	engine Engine
	log    *slog.Logger
}

var _ limits.Shard = host{}

// minBuffer is the least buffer that TCP lets a program set, in bytes.
const minBuffer = 4 << 10

func (h host) Received() uint64                  { return h.queue.Stats().RxFrames }
func (h host) Counters() *tcpip.TCPStats         { st := h.stack.Stats(); return &st.TCP }
func (h host) TimeWaits() int                    { return h.engine.TimeWaits() }
func (h host) MTU() int                          { return int(h.link.MTU()) }
func (h host) Cookies() *syncookie.Cookies       { return h.engine.Cookies() }
func (h host) ShareCookies(c *syncookie.Cookies) { h.engine.ShareCookies(c) }

func (h host) Held() iter.Seq[limits.Conn] {
	return func(yield func(limits.Conn) bool) {
		for ep := range h.engine.Endpoints() {
			if c, ok := h.engine.Conn(ep); ok && !yield(c) {
				return
			}
		}
	}
}

// set sets an option of TCP, which cannot fail for those below.
func (h host) set(o tcpip.SettableTransportProtocolOption) {
	h.stack.SetTransportProtocolOption(header.TCPProtocolNumber, o)
}

func (h host) SetCookies(on bool) {
	o := tcpip.TCPAlwaysUseSynCookies(on)
	h.set(&o)
}

func (h host) SetTimeWait(d time.Duration) {
	o := tcpip.TCPTimeWaitTimeoutOption(d)
	h.set(&o)
}

func (h host) SetBuffers(receive, send limits.Buffer) {
	r := tcpip.TCPReceiveBufferSizeRangeOption{Min: minBuffer, Default: receive.First, Max: receive.Most}
	s := tcpip.TCPSendBufferSizeRangeOption{Min: minBuffer, Default: send.First, Max: send.Most}
	h.set(&r)
	h.set(&s)
}

func (h host) ShieldFailed(err error) {
	h.log.Warn("the filter does not answer SYNs; TCP does", "err", err)
}
