package shard

import (
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"

	"github.com/gotpa/tpa/internal/handover"
	"github.com/gotpa/tpa/internal/limits"
	"github.com/gotpa/tpa/internal/netif"
	"github.com/gotpa/tpa/internal/transport"
	"github.com/gotpa/tpa/link"
)

// Totals are counters that can be read every second, whatever the number of
// connections.
type Totals struct {
	// RxFrames to TxBytes are those of the queue.
	RxFrames, RxBytes, TxFrames, TxBytes uint64
	// Busy is the time in which the poller had frames to handle.
	Busy time.Duration
	// Retransmits counts TCP segments sent again.
	Retransmits uint64
	// Flows is how many connections programs have now.
	Flows int
}

// Totals reads the counters. It takes no lock that the data path takes.
func (s *Shard) Totals() Totals {
	q := s.queue.Stats()
	return Totals{
		RxFrames: q.RxFrames, RxBytes: q.RxBytes, TxFrames: q.TxFrames, TxBytes: q.TxBytes,
		Busy: s.poller.stats().Busy, Retransmits: s.stackStats.TCP.Retransmits.Value(), Flows: s.engine.Flows(),
	}
}

// Stats are a shard's counters and gauges.
type Stats struct {
	// CPU is where the poller is pinned, -1 when it floats.
	CPU    int
	Poller PollerStats
	Queue  link.QueueStats
	Link   netif.EndpointStats
	// FastPath counts segments that took the fast path.
	FastPath uint64
	// Handover counts what arrived on another queue than its flow's.
	Handover handover.MemberStats
	// Flows is how many connections programs have.
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

// Stats reads the counters. It takes no lock that the data path takes.
func (s *Shard) Stats() Stats {
	st := Stats{
		CPU: s.poller.cpu, Poller: s.poller.stats(), Queue: s.queue.Stats(), Link: s.link.Stats(),
		FastPath: s.poller.fast.Load(), Flows: s.engine.Flows(), Conns: s.conns.stats(),
		Limits: s.account.Stats(), Refused: s.engine.Refused(), Handlers: s.poller.handlers.Stats(), Stack: s.stackStats,
	}
	if s.handover != nil {
		st.Handover = s.handover.Stats()
	}
	return st
}
