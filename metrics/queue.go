package metrics

import (
	"strconv"

	"gvisor.dev/gvisor/pkg/tcpip"

	"github.com/gotpa/tpa/accel"
)

// count makes a counter of one that belongs to a shard.
func count(name, help string, read func(*accel.ShardStats) uint64) metric[queue] {
	return metric[queue]{
		name: name, kind: counter, help: help,
		read: func(q queue) []sample { return one(read(q.shard())) },
	}
}

// stack makes a counter of one of gVisor's.
func stack(name, help string, read func(*tcpip.Stats) *tcpip.StatCounter) metric[queue] {
	return count(name, help, func(s *accel.ShardStats) uint64 { return read(&s.Stack).Value() })
}

// icmp adds up what matters of both versions.
func icmp(v4 *tcpip.ICMPv4PacketStats, v6 *tcpip.ICMPv6PacketStats) []sample {
	return []sample{
		series(v4.EchoRequest.Value()+v6.EchoRequest.Value(), "echo_request"),
		series(v4.EchoReply.Value()+v6.EchoReply.Value(), "echo_reply"),
		series(v4.DstUnreachable.Value()+v6.DstUnreachable.Value(), "unreachable"),
		series(v6.PacketTooBig.Value(), "too_big"),
		series(v4.TimeExceeded.Value()+v6.TimeExceeded.Value(), "time_exceeded"),
	}
}

// queueMetrics are about a device queue and the TCP stack on it, in the order in
// which a packet passes.
var queueMetrics = []metric[queue]{
	{
		name: "queue_info", kind: gauge, help: "1 per queue. cpu is where its poller is pinned, -1 when it floats.",
		labels: []string{"cpu", "numa_node"},
		read: func(q queue) []sample {
			return []sample{series(1, strconv.Itoa(q.shard().CPU), strconv.Itoa(q.Info.NUMANode))}
		},
	},

	// The queue and its poller.
	count("queue_receive_packets_total", "Frames taken from the queue.", func(s *accel.ShardStats) uint64 { return s.Queue.RxFrames }),
	count("queue_receive_bytes_total", "Bytes of the frames taken from the queue.", func(s *accel.ShardStats) uint64 { return s.Queue.RxBytes }),
	count("queue_transmit_packets_total", "Frames handed to the device.", func(s *accel.ShardStats) uint64 { return s.Queue.TxFrames }),
	count("queue_transmit_bytes_total", "Bytes of the frames handed to the device.", func(s *accel.ShardStats) uint64 { return s.Queue.TxBytes }),
	{
		name: "queue_receive_dropped_total", kind: counter, help: "Received frames dropped before the IP layer.",
		labels: []string{"reason"},
		read: func(q queue) []sample {
			s := q.shard()
			return []sample{
				series(s.Queue.RxNoBuffer, "no_buffer"),
				series(s.Queue.RxMalformed+s.Link.RxMalformed, "malformed"),
				series(s.Link.RxBadChecksum, "checksum"),
				series(s.Link.RxVLAN, "vlan"),
				series(s.Link.RxUnknown, "unknown_protocol"),
				series(s.Link.RxNotOurs, "not_ours"),
				series(s.Handover.Dropped, "handover"),
			}
		},
	},
	{
		name: "queue_transmit_dropped_total", kind: counter, help: "Frames dropped on their way out.",
		labels: []string{"reason"},
		read: func(q queue) []sample {
			s := q.shard()
			return []sample{
				series(s.Link.TxNoBuffer, "ring_full"),
				series(s.Link.TxTooLong, "too_long"),
				series(s.Queue.TxDropped, "closed"),
			}
		},
	},
	count("queue_transmit_full_total", "Flushes that found the device's ring full.", func(s *accel.ShardStats) uint64 { return s.Queue.TxFull }),
	count("queue_transmit_waits_total", "Times that a sender waited because the queue was full.", func(s *accel.ShardStats) uint64 { return s.Link.TxWaits }),
	count("queue_transmit_segmented_packets_total", "Frames made from larger segments in software, for want of TSO.", func(s *accel.ShardStats) uint64 { return s.Link.TxSegmented }),
	count("queue_transmit_acks_saved_total", "Pure acknowledgements that data sent in the same poll made needless.", func(s *accel.ShardStats) uint64 { return s.Link.TxAcksSaved }),
	{
		name: "queue_polls_total", kind: counter, help: "Looks at the receive queue, and whether they found frames.",
		labels: []string{"result"},
		read: func(q queue) []sample {
			// Not Polls - Empty: they are not counted at the same moment.
			p := q.shard().Poller
			var useful uint64
			for _, n := range p.Bursts {
				useful += n
			}
			return []sample{series(useful, "useful"), series(p.Empty, "empty")}
		},
	},
	{
		name: "queue_receive_burst_packets", kind: histogram, help: "Frames per poll that found any.",
		read: func(q queue) []sample { s := q.shard(); return bursts(s.Poller.Bursts[:], s.Queue.RxFrames) },
	},
	{
		name: "queue_transmit_burst_packets", kind: histogram, help: "Frames per flush that sent any.",
		read: func(q queue) []sample { s := q.shard(); return bursts(s.Link.TxBursts[:], s.Queue.TxFrames) },
	},
	{
		name: "queue_busy_seconds_total", kind: counter, help: "Time that the poller worked on frames. Only this tells how busy it is: its processor is busy always.",
		read: func(q queue) []sample { return one(q.shard().Poller.Busy.Seconds()) },
	},
	{
		name: "queue_idle_seconds_total", kind: counter, help: "Time that the poller looked for frames in vain, or slept.",
		read: func(q queue) []sample { return one(q.shard().Poller.Idle.Seconds()) },
	},
	count("queue_sleeps_total", "Times that the idle poller went to sleep.", func(s *accel.ShardStats) uint64 { return s.Poller.Sleeps }),

	{
		name: "queue_foreign_segments_total", kind: counter, help: "Segments that arrived on the queue of a shard that does not have their connection: sent to its owner, and received from others.",
		labels: []string{"direction"},
		read: func(q queue) []sample {
			h := &q.shard().Handover
			return []sample{series(h.Sent, "sent"), series(h.Received, "received")}
		},
	},
	count("queue_foreign_errors_total", "ICMP errors that arrived on another queue than their connection's, which was told.", func(s *accel.ShardStats) uint64 { return s.Handover.Errors }),

	// The IP layer, which sees what takes the long way: new flows, resets, ICMP.
	count("queue_shortcut_segments_total", "Segments of known flows that went straight to TCP, past the IP layer.", func(s *accel.ShardStats) uint64 { return s.Shortcuts }),
	stack("ip_receive_packets_total", "Packets that the IP layer received. Segments of known flows pass it by.", func(s *tcpip.Stats) *tcpip.StatCounter { return s.IP.PacketsReceived }),
	stack("ip_delivered_packets_total", "Packets that the IP layer delivered to a transport protocol.", func(s *tcpip.Stats) *tcpip.StatCounter { return s.IP.PacketsDelivered }),
	stack("ip_transmit_packets_total", "Packets that the IP layer sent. Segments of known flows pass it by.", func(s *tcpip.Stats) *tcpip.StatCounter { return s.IP.PacketsSent }),
	stack("ip_transmit_errors_total", "Packets that the IP layer could not send.", func(s *tcpip.Stats) *tcpip.StatCounter { return s.IP.OutgoingPacketErrors }),
	{
		name: "ip_receive_discards_total", kind: counter, help: "Packets that the IP layer refused.",
		labels: []string{"reason"},
		read: func(q queue) []sample {
			ip := &q.shard().Stack.IP
			return []sample{
				series(ip.MalformedPacketsReceived.Value()+ip.MalformedFragmentsReceived.Value(), "malformed"),
				series(ip.InvalidDestinationAddressesReceived.Value(), "destination"),
				series(ip.InvalidSourceAddressesReceived.Value(), "source"),
				series(ip.DisabledPacketsReceived.Value(), "disabled"),
				series(q.shard().Stack.NICs.MalformedL4RcvdPackets.Value(), "transport"),
			}
		},
	},
	{
		name: "icmp_receive_packets_total", kind: counter, help: "ICMP messages received, of both IP versions. On a device shared with the kernel the kernel has them.",
		labels: []string{"kind"},
		read: func(q queue) []sample {
			i := &q.shard().Stack.ICMP
			return icmp(&i.V4.PacketsReceived.ICMPv4PacketStats, &i.V6.PacketsReceived.ICMPv6PacketStats)
		},
	},
	{
		name: "icmp_transmit_packets_total", kind: counter, help: "ICMP messages sent, of both IP versions.",
		labels: []string{"kind"},
		read: func(q queue) []sample {
			i := &q.shard().Stack.ICMP
			return icmp(&i.V4.PacketsSent.ICMPv4PacketStats, &i.V6.PacketsSent.ICMPv6PacketStats)
		},
	},
	stack("stack_malformed_packets_total", "Packets whose transport header made no sense.", func(s *tcpip.Stats) *tcpip.StatCounter { return s.NICs.MalformedL4RcvdPackets }),
	stack("stack_dropped_packets_total", "Packets that nobody in the stack wanted.", func(s *tcpip.Stats) *tcpip.StatCounter { return s.DroppedPackets }),

	// TCP.
	{
		name: "tcp_connections", kind: gauge, help: "Connections in any state but closed, those that close included.",
		read: func(q queue) []sample { return one(q.shard().Stack.TCP.CurrentConnected.Value()) },
	},
	{
		name: "tcp_established_connections", kind: gauge, help: "Connections in the state ESTABLISHED.",
		read: func(q queue) []sample { return one(q.shard().Stack.TCP.CurrentEstablished.Value()) },
	},
	stack("tcp_active_opens_total", "Connections that dialling began, those that failed included.", func(s *tcpip.Stats) *tcpip.StatCounter { return s.TCP.ActiveConnectionOpenings }),
	stack("tcp_passive_opens_total", "Connections opened by a peer.", func(s *tcpip.Stats) *tcpip.StatCounter { return s.TCP.PassiveConnectionOpenings }),
	stack("tcp_failed_opens_total", "Connections that could not be opened, either way.", func(s *tcpip.Stats) *tcpip.StatCounter { return s.TCP.FailedConnectionAttempts }),
	stack("tcp_port_failures_total", "Listeners and dials that found no local port.", func(s *tcpip.Stats) *tcpip.StatCounter { return s.TCP.FailedPortReservations }),
	stack("tcp_receive_segments_total", "Valid segments received. Segments joined in a burst count once.", func(s *tcpip.Stats) *tcpip.StatCounter { return s.TCP.ValidSegmentsReceived }),
	stack("tcp_transmit_segments_total", "Segments sent. Segments cut up later count once.", func(s *tcpip.Stats) *tcpip.StatCounter { return s.TCP.SegmentsSent }),
	stack("tcp_invalid_segments_total", "Segments received that made no sense.", func(s *tcpip.Stats) *tcpip.StatCounter { return s.TCP.InvalidSegmentsReceived }),
	{
		name: "tcp_refused_total", kind: counter, help: "Segments and ICMP errors that came from neither the peer nor a router on the way: a wrong acknowledgement number, an old timestamp, a number that is not in flight.",
		labels: []string{"reason"},
		read: func(q queue) []sample {
			r := &q.shard().Refused
			return []sample{series(r.Acks, "acknowledgement"), series(r.Timestamps, "timestamp"), series(r.Errors, "icmp")}
		},
	},
	stack("tcp_checksum_errors_total", "Segments received with a wrong checksum.", func(s *tcpip.Stats) *tcpip.StatCounter { return s.TCP.ChecksumErrors }),
	stack("tcp_segment_send_errors_total", "Segments that could not be sent.", func(s *tcpip.Stats) *tcpip.StatCounter { return s.TCP.SegmentSendErrors }),
	stack("tcp_retransmits_total", "Segments sent again, for any reason.", func(s *tcpip.Stats) *tcpip.StatCounter { return s.TCP.Retransmits }),
	stack("tcp_fast_retransmits_total", "Segments sent again in fast recovery.", func(s *tcpip.Stats) *tcpip.StatCounter { return s.TCP.FastRetransmit }),
	stack("tcp_slow_start_retransmits_total", "Segments sent again in slow start.", func(s *tcpip.Stats) *tcpip.StatCounter { return s.TCP.SlowStartRetransmits }),
	stack("tcp_timeouts_total", "Retransmission timers that ran out.", func(s *tcpip.Stats) *tcpip.StatCounter { return s.TCP.Timeouts }),
	{
		name: "tcp_recoveries_total", kind: counter, help: "Recoveries from loss, by how it was noticed.",
		labels: []string{"kind"},
		read: func(q queue) []sample {
			t := &q.shard().Stack.TCP
			return []sample{
				series(t.FastRecovery.Value(), "fast"), series(t.SACKRecovery.Value(), "sack"), series(t.TLPRecovery.Value(), "tlp"),
			}
		},
	},
	{
		name: "tcp_spurious_recoveries_total", kind: counter, help: "Recoveries that turned out to be needless.",
		labels: []string{"kind"},
		read: func(q queue) []sample {
			t := &q.shard().Stack.TCP
			return []sample{series(t.SpuriousRecovery.Value(), "recovery"), series(t.SpuriousRTORecovery.Value(), "rto")}
		},
	},
	stack("tcp_dsack_segments_total", "Segments acknowledged with DSACK: the peer had them already.", func(s *tcpip.Stats) *tcpip.StatCounter { return s.TCP.SegmentsAckedWithDSACK }),
	{
		name: "tcp_resets_total", kind: counter, help: "Resets sent and received.",
		labels: []string{"direction"},
		read: func(q queue) []sample {
			t := &q.shard().Stack.TCP
			return []sample{series(t.ResetsSent.Value(), "sent"), series(t.ResetsReceived.Value(), "received")}
		},
	},
	stack("tcp_established_resets_total", "Established connections that ended with a reset.", func(s *tcpip.Stats) *tcpip.StatCounter { return s.TCP.EstablishedResets }),
	stack("tcp_established_closed_total", "Established connections that ended in order.", func(s *tcpip.Stats) *tcpip.StatCounter { return s.TCP.EstablishedClosed }),
	stack("tcp_established_timeouts_total", "Established connections that keep-alive ended.", func(s *tcpip.Stats) *tcpip.StatCounter { return s.TCP.EstablishedTimedout }),
	{
		name: "tcp_listen_overflows_total", kind: counter, help: "Segments of handshakes dropped because the accept queue was full.",
		labels: []string{"stage"},
		read: func(q queue) []sample {
			t := &q.shard().Stack.TCP
			return []sample{series(t.ListenOverflowSynDrop.Value()+q.shard().Limits.RefusedBacklog, "syn"), series(t.ListenOverflowAckDrop.Value(), "ack")}
		},
	},
	{
		name: "tcp_syn_cookies_total", kind: counter, help: "SYN cookies sent, and those that came back.",
		labels: []string{"result"},
		read: func(q queue) []sample {
			t := &q.shard().Stack.TCP
			return []sample{
				series(t.ListenOverflowSynCookieSent.Value(), "sent"), series(t.ListenOverflowSynCookieRcvd.Value(), "valid"),
				series(t.ListenOverflowInvalidSynCookieRcvd.Value(), "invalid"),
			}
		},
	},
	// The limits.
	{
		name: "tcp_half_open_connections", kind: gauge, help: "Handshakes that peers began and did not finish yet.",
		read: func(q queue) []sample { return one(q.shard().Limits.HalfOpen) },
	},
	{
		name: "tcp_closing_connections", kind: gauge, help: "Connections that the program closed and the peer did not acknowledge yet, at the last census.",
		read: func(q queue) []sample { return one(q.shard().Limits.Census.Closing) },
	},
	{
		name: "tcp_time_wait_connections", kind: gauge, help: "Connections in TIME-WAIT, at the last census.",
		read: func(q queue) []sample { return one(q.shard().Limits.Census.TimeWait) },
	},
	{
		name: "tcp_buffer_bytes", kind: gauge, help: "What the buffers of all connections hold, at the last census.",
		labels: []string{"direction"},
		read: func(q queue) []sample {
			c := q.shard().Limits.Census
			return []sample{series(c.ReceiveBytes, "receive"), series(c.SendBytes, "send")}
		},
	},
	{
		name: "tcp_refused_syns_total", kind: counter, help: "SYNs dropped because a limit of the runtime was reached. A full accept queue counts as a listen overflow.",
		labels: []string{"limit"},
		read: func(q queue) []sample {
			l := &q.shard().Limits
			return []sample{series(l.RefusedConnections, "connections"), series(l.RefusedMemory, "memory")}
		},
	},
	{
		name: "tcp_limit_resets_total", kind: counter, help: "Connections reset for what they held beyond a limit.",
		labels: []string{"limit"},
		read: func(q queue) []sample {
			l := &q.shard().Limits
			return []sample{series(l.ResetMemory, "memory"), series(l.ResetClosing, "closing")}
		},
	},
	count("tcp_buffers_cut_total", "Buffers made smaller because memory was short.", func(s *accel.ShardStats) uint64 { return s.Limits.Cut }),
	count("tcp_unanswered_segments_total", "Segments of no connection that were not answered with a reset, to keep the limit of resets per second.", func(s *accel.ShardStats) uint64 { return s.Limits.Unanswered }),
	{
		name: "tcp_rtt_seconds", kind: histogram, help: "Smoothed round-trip times: of each connection when it is closed, and of up to 1,000 open ones every 10 s.",
		read: func(q queue) []sample { return durations(q.shard().Conns.RTT) },
	},

	// The program.
	{
		name: "listener_accepts_total", kind: counter, help: "Connections that Accept returned, by the address of the listener while it is open.",
		labels: []string{"address"},
		read: func(q queue) []sample {
			var all []sample
			for _, l := range q.Listeners {
				for _, a := range l.Queues {
					if a.Shard == q.index {
						all = append(all, series(a.Accepted, l.Addr))
					}
				}
			}
			return sum(nil, all)
		},
	},
	count("conn_read_bytes_total", "Bytes that the program read from connections.", func(s *accel.ShardStats) uint64 { return s.Conns.ReadBytes }),
	count("conn_written_bytes_total", "Bytes that the program wrote to connections.", func(s *accel.ShardStats) uint64 { return s.Conns.WrittenBytes }),
}
