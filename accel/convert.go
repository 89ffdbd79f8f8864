package accel

import (
	"gvisor.dev/gvisor/pkg/tcpip"

	"github.com/gotpa/tpa/internal/eventlog"
	"github.com/gotpa/tpa/internal/limits"
	"github.com/gotpa/tpa/internal/shard"
	"github.com/gotpa/tpa/link/bifurcation"
)

// What the API has as structs of its own is converted here from and to those of
// the packages below. A plain conversion does not compile when a field is added on
// one side only; a test looks after the others.

// shardTCP returns the settings as a shard has them.
func shardTCP(t TCP) shard.TCP {
	return shard.TCP{
		ReceiveBuffer: t.ReceiveBuffer, SendBuffer: t.SendBuffer, TimeWait: t.TimeWait,
		NoSACK: t.NoSACK, NoCoalescing: t.NoCoalescing,
		Engine: t.Engine.String(), Congestion: t.Congestion.String(),
	}
}

func shardStats(s *shard.Stats) ShardStats {
	return ShardStats{
		CPU: s.CPU, Poller: PollerStats(s.Poller), Queue: QueueStats(s.Queue), Link: LinkStats(s.Link),
		FastPath: s.FastPath, Handover: HandoverStats(s.Handover), Flows: s.Flows,
		Conns:  ConnStats{ReadBytes: s.Conns.ReadBytes, WrittenBytes: s.Conns.WrittenBytes, RTT: Histogram(s.Conns.RTT)},
		Limits: limitStats(s.Limits), Refused: RefusedStats(s.Refused), Handlers: HandlerStats(s.Handlers),
		IP: ipStats(&s.Stack), ICMP: icmpStats(&s.Stack.ICMP), TCP: tcpStats(&s.Stack.TCP),
	}
}

func limitStats(s limits.Stats) LimitStats {
	return LimitStats{
		Census: Census(s.Census), HalfOpen: s.HalfOpen,
		RefusedConnections: s.RefusedConnections, RefusedMemory: s.RefusedMemory, RefusedBacklog: s.RefusedBacklog,
		RefusedSource: s.RefusedSource,
		ResetMemory:   s.ResetMemory, ResetClosing: s.ResetClosing, Cut: s.Cut, Unanswered: s.Unanswered,
	}
}

func ipStats(s *tcpip.Stats) IPStats {
	ip := &s.IP
	unknown := uint64(0)
	counts := s.NICs.UnknownL4ProtocolRcvdPacketCounts
	for _, protocol := range counts.Keys() {
		if c, ok := counts.Get(protocol); ok {
			unknown += c.Value()
		}
	}
	return IPStats{
		Received: ip.PacketsReceived.Value(), Valid: ip.ValidPacketsReceived.Value(), Delivered: ip.PacketsDelivered.Value(),
		Sent: ip.PacketsSent.Value(), SendErrors: ip.OutgoingPacketErrors.Value(),
		Malformed:      ip.MalformedPacketsReceived.Value() + ip.MalformedFragmentsReceived.Value(),
		BadDestination: ip.InvalidDestinationAddressesReceived.Value(), BadSource: ip.InvalidSourceAddressesReceived.Value(),
		Disabled:           ip.DisabledPacketsReceived.Value(),
		MalformedTransport: s.NICs.MalformedL4RcvdPackets.Value(), UnknownTransport: unknown, Unclaimed: s.DroppedPackets.Value(),
	}
}

func icmpStats(s *tcpip.ICMPStats) ICMPStats {
	counts := func(v4 *tcpip.ICMPv4PacketStats, v6 *tcpip.ICMPv6PacketStats) ICMPCounts {
		return ICMPCounts{
			EchoRequests: v4.EchoRequest.Value() + v6.EchoRequest.Value(),
			EchoReplies:  v4.EchoReply.Value() + v6.EchoReply.Value(),
			Unreachable:  v4.DstUnreachable.Value() + v6.DstUnreachable.Value(),
			TooBig:       v6.PacketTooBig.Value(),
			TimeExceeded: v4.TimeExceeded.Value() + v6.TimeExceeded.Value(),
		}
	}
	in4, in6, out4, out6 := &s.V4.PacketsReceived, &s.V6.PacketsReceived, &s.V4.PacketsSent, &s.V6.PacketsSent
	return ICMPStats{
		Received: counts(&in4.ICMPv4PacketStats, &in6.ICMPv6PacketStats),
		Sent:     counts(&out4.ICMPv4PacketStats, &out6.ICMPv6PacketStats),
		Invalid:  in4.Invalid.Value() + in6.Invalid.Value(),
	}
}

func tcpStats(s *tcpip.TCPStats) TCPStats {
	return TCPStats{
		Connected: int(s.CurrentConnected.Value()), Established: int(s.CurrentEstablished.Value()),
		ActiveOpens: s.ActiveConnectionOpenings.Value(), PassiveOpens: s.PassiveConnectionOpenings.Value(),
		FailedOpens: s.FailedConnectionAttempts.Value(), PortFailures: s.FailedPortReservations.Value(),
		SegmentsReceived: s.ValidSegmentsReceived.Value(), SegmentsSent: s.SegmentsSent.Value(),
		InvalidSegments: s.InvalidSegmentsReceived.Value(), ChecksumErrors: s.ChecksumErrors.Value(), SendErrors: s.SegmentSendErrors.Value(),
		Retransmits: s.Retransmits.Value(), FastRetransmits: s.FastRetransmit.Value(), SlowStartRetransmits: s.SlowStartRetransmits.Value(),
		Timeouts:       s.Timeouts.Value(),
		FastRecoveries: s.FastRecovery.Value(), SACKRecoveries: s.SACKRecovery.Value(), TLPRecoveries: s.TLPRecovery.Value(),
		SpuriousRecoveries: s.SpuriousRecovery.Value(), SpuriousTimeouts: s.SpuriousRTORecovery.Value(),
		DSACKs:     s.SegmentsAckedWithDSACK.Value(),
		ResetsSent: s.ResetsSent.Value(), ResetsReceived: s.ResetsReceived.Value(),
		EstablishedResets: s.EstablishedResets.Value(), EstablishedClosed: s.EstablishedClosed.Value(), EstablishedTimeouts: s.EstablishedTimedout.Value(),
		OverflowSYNs: s.ListenOverflowSynDrop.Value(), OverflowACKs: s.ListenOverflowAckDrop.Value(),
		CookiesSent: s.ListenOverflowSynCookieSent.Value(), CookiesValid: s.ListenOverflowSynCookieRcvd.Value(),
		CookiesInvalid: s.ListenOverflowInvalidSynCookieRcvd.Value(),
	}
}

func steeringStats(s bifurcation.Stats) SteeringStats {
	st := SteeringStats{
		Claims: s.Claims, Ports: s.Ports, Rules: s.Rules,
		Operations: SteeringOperations{
			Claims: OperationCounts(s.Operations.Claims), Releases: OperationCounts(s.Operations.Releases),
			Exceptions: OperationCounts(s.Operations.Exceptions),
		},
	}
	for _, c := range s.Frames {
		st.Frames = append(st.Frames, FrameCount(c))
	}
	return st
}

func loggedEvents(records []eventlog.Event) []Event {
	events := make([]Event, len(records))
	for i, e := range records {
		events[i] = Event{Time: e.Time, Level: e.Level, Message: e.Message}
		for _, a := range e.Attrs {
			events[i].Attrs = append(events[i].Attrs, EventAttr(a))
		}
	}
	return events
}
