package gvisortcp

import (
	"encoding/binary"
	"math"
	"sync"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/gotpa/tpa/internal/recorder"
)

// A trace records one connection, whose events come from several places at once:
// it locks itself. It also knows how much the peer has not acknowledged, which
// gVisor's TCP does not tell.
type trace struct {
	mu sync.Mutex
	*recorder.Trace

	// first is the sequence number of the first byte that the program wrote, acked
	// what the peer acknowledged last.
	first, acked            uint32
	hasFirst, anythingAcked bool
}

// trace marks packets with their owner, by which the way out finds it.
var _ tcpip.PacketOwner = (*trace)(nil)

// KUID implements tcpip.PacketOwner. gVisor asks for it only in iptables rules, of which we have none.
func (t *trace) KUID() uint32 { return 0 }

// KGID implements tcpip.PacketOwner. gVisor asks for it only in iptables rules, of which we have none.
func (t *trace) KGID() uint32 { return 0 }

// Received records a segment. The poller calls it.
func (t *trace) Received(h header.TCP, size int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.Trace.Received(h, size)
	if h.Flags()&header.TCPFlagAck != 0 {
		t.acked, t.anythingAcked = h.AckNumber(), true
	}
}

// Sent records a segment that is sent, or held back. The holder of the transmit
// lock calls it.
func (t *trace) Sent(h []byte, size int, held bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.Trace.Sent(h, size, held)
	if !held && !t.hasFirst {
		// Recording began with the connection.
		t.first, t.hasFirst = binary.BigEndian.Uint32(h[header.TCPSeqNumOffset:]), true
	}
}

// Read records what the program read.
func (t *trace) Read(size int) {
	t.mu.Lock()
	t.Trace.Read(size)
	t.mu.Unlock()
}

// Write records what the program wrote.
func (t *trace) Write(size int) {
	t.mu.Lock()
	t.Trace.Write(size)
	t.mu.Unlock()
}

// sendQueue returns how many of the bytes that the program wrote the peer has not
// acknowledged, sent or not.
func (t *trace) sendQueue(written uint64) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.hasFirst {
		return int(min(written, math.MaxInt32)) // nothing has left
	}
	acked := t.first
	if t.anythingAcked {
		acked = t.acked
	}
	// More than 2 GB cannot wait, so that the difference tells how much. It is
	// negative for the FIN, and for what was written since written was read.
	return int(max(0, int32(uint32(written)-(acked-t.first))))
}
