package metrics

import (
	"strconv"

	"github.com/gotpa/tpa/accel"
)

// count makes a counter of one that belongs to a shard.
func count(name, help string, read func(*accel.ShardStats) uint64) metric[queue] {
	return metric[queue]{
		name: name, kind: counter, help: help,
		read: func(q queue) []sample { return one(read(q.shard())) },
	}
}

// icmp are what matters of ICMP.
func icmp(c *accel.ICMPCounts) []sample {
	return []sample{
		series(c.EchoRequests, "echo_request"),
		series(c.EchoReplies, "echo_reply"),
		series(c.Unreachable, "unreachable"),
		series(c.TooBig, "too_big"),
		series(c.TimeExceeded, "time_exceeded"),
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
				series(s.Link.TxNoRoute, "no_route"),
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

	// The IP layer, which sees what takes the slow path: new flows, resets, ICMP.
	count("queue_shortcut_segments_total", "Segments of known flows that went straight to TCP, past the IP layer.", func(s *accel.ShardStats) uint64 { return s.FastPath }),
	count("ip_receive_packets_total", "Packets that the IP layer received. Segments of known flows pass it by.", func(s *accel.ShardStats) uint64 { return s.IP.Received }),
	count("ip_delivered_packets_total", "Packets that the IP layer delivered to a transport protocol.", func(s *accel.ShardStats) uint64 { return s.IP.Delivered }),
	count("ip_transmit_packets_total", "Packets that the IP layer sent. Segments of known flows pass it by.", func(s *accel.ShardStats) uint64 { return s.IP.Sent }),
	count("ip_transmit_errors_total", "Packets that the IP layer could not send.", func(s *accel.ShardStats) uint64 { return s.IP.SendErrors }),
	{
		name: "ip_receive_discards_total", kind: counter, help: "Packets that the IP layer refused.",
		labels: []string{"reason"},
		read: func(q queue) []sample {
			ip := &q.shard().IP
			return []sample{
				series(ip.Malformed, "malformed"),
				series(ip.BadDestination, "destination"),
				series(ip.BadSource, "source"),
				series(ip.Disabled, "disabled"),
				series(ip.MalformedTransport, "transport"),
			}
		},
	},
	{
		name: "icmp_receive_packets_total", kind: counter, help: "ICMP messages received, of both IP versions. On a device shared with the kernel the kernel has them.",
		labels: []string{"kind"},
		read: func(q queue) []sample {
			return icmp(&q.shard().ICMP.Received)
		},
	},
	{
		name: "icmp_transmit_packets_total", kind: counter, help: "ICMP messages sent, of both IP versions.",
		labels: []string{"kind"},
		read: func(q queue) []sample {
			return icmp(&q.shard().ICMP.Sent)
		},
	},
	count("stack_malformed_packets_total", "Packets whose transport header made no sense.", func(s *accel.ShardStats) uint64 { return s.IP.MalformedTransport }),
	count("stack_dropped_packets_total", "Packets that nobody in the stack wanted.", func(s *accel.ShardStats) uint64 { return s.IP.Unclaimed }),

	// TCP.
	{
		name: "tcp_connections", kind: gauge, help: "Connections in any state but closed, those that close included.",
		read: func(q queue) []sample { return one(q.shard().TCP.Connected) },
	},
	{
		name: "tcp_established_connections", kind: gauge, help: "Connections in the state ESTABLISHED.",
		read: func(q queue) []sample { return one(q.shard().TCP.Established) },
	},
	count("tcp_active_opens_total", "Connections that dialling began, those that failed included.", func(s *accel.ShardStats) uint64 { return s.TCP.ActiveOpens }),
	count("tcp_passive_opens_total", "Connections opened by a peer.", func(s *accel.ShardStats) uint64 { return s.TCP.PassiveOpens }),
	count("tcp_failed_opens_total", "Connections that could not be opened, either way.", func(s *accel.ShardStats) uint64 { return s.TCP.FailedOpens }),
	count("tcp_port_failures_total", "Listeners and dials that found no local port.", func(s *accel.ShardStats) uint64 { return s.TCP.PortFailures }),
	count("tcp_receive_segments_total", "Valid segments received. Segments joined in a burst count once.", func(s *accel.ShardStats) uint64 { return s.TCP.SegmentsReceived }),
	count("tcp_transmit_segments_total", "Segments sent. Segments cut up later count once.", func(s *accel.ShardStats) uint64 { return s.TCP.SegmentsSent }),
	count("tcp_invalid_segments_total", "Segments received that made no sense.", func(s *accel.ShardStats) uint64 { return s.TCP.InvalidSegments }),
	{
		name: "tcp_refused_total", kind: counter, help: "Segments and ICMP errors that came from neither the peer nor a router on the way: a wrong acknowledgement number, an old timestamp, a number that is not in flight.",
		labels: []string{"reason"},
		read: func(q queue) []sample {
			r := &q.shard().Refused
			return []sample{series(r.Acks, "acknowledgement"), series(r.Timestamps, "timestamp"), series(r.Errors, "icmp")}
		},
	},
	count("tcp_checksum_errors_total", "Segments received with a wrong checksum.", func(s *accel.ShardStats) uint64 { return s.TCP.ChecksumErrors }),
	count("tcp_segment_send_errors_total", "Segments that could not be sent.", func(s *accel.ShardStats) uint64 { return s.TCP.SendErrors }),
	count("tcp_retransmits_total", "Segments sent again, for any reason.", func(s *accel.ShardStats) uint64 { return s.TCP.Retransmits }),
	count("tcp_fast_retransmits_total", "Segments sent again in fast recovery.", func(s *accel.ShardStats) uint64 { return s.TCP.FastRetransmits }),
	count("tcp_slow_start_retransmits_total", "Segments sent again in slow start.", func(s *accel.ShardStats) uint64 { return s.TCP.SlowStartRetransmits }),
	count("tcp_timeouts_total", "Retransmission timers that ran out.", func(s *accel.ShardStats) uint64 { return s.TCP.Timeouts }),
	{
		name: "tcp_recoveries_total", kind: counter, help: "Recoveries from loss, by how it was noticed.",
		labels: []string{"kind"},
		read: func(q queue) []sample {
			t := &q.shard().TCP
			return []sample{
				series(t.FastRecoveries, "fast"), series(t.SACKRecoveries, "sack"), series(t.TLPRecoveries, "tlp"),
			}
		},
	},
	{
		name: "tcp_spurious_recoveries_total", kind: counter, help: "Recoveries that turned out to be needless.",
		labels: []string{"kind"},
		read: func(q queue) []sample {
			t := &q.shard().TCP
			return []sample{series(t.SpuriousRecoveries, "recovery"), series(t.SpuriousTimeouts, "rto")}
		},
	},
	count("tcp_dsack_segments_total", "Segments acknowledged with DSACK: the peer had them already.", func(s *accel.ShardStats) uint64 { return s.TCP.DSACKs }),
	{
		name: "tcp_resets_total", kind: counter, help: "Resets sent and received.",
		labels: []string{"direction"},
		read: func(q queue) []sample {
			t := &q.shard().TCP
			return []sample{series(t.ResetsSent, "sent"), series(t.ResetsReceived, "received")}
		},
	},
	count("tcp_established_resets_total", "Established connections that ended with a reset.", func(s *accel.ShardStats) uint64 { return s.TCP.EstablishedResets }),
	count("tcp_established_closed_total", "Established connections that ended in order.", func(s *accel.ShardStats) uint64 { return s.TCP.EstablishedClosed }),
	count("tcp_established_timeouts_total", "Established connections that keep-alive ended.", func(s *accel.ShardStats) uint64 { return s.TCP.EstablishedTimeouts }),
	{
		name: "tcp_listen_overflows_total", kind: counter, help: "Segments of handshakes dropped because the accept queue was full.",
		labels: []string{"stage"},
		read: func(q queue) []sample {
			t := &q.shard().TCP
			return []sample{series(t.OverflowSYNs+q.shard().Limits.RefusedBacklog, "syn"), series(t.OverflowACKs, "ack")}
		},
	},
	{
		name: "tcp_syn_cookies_total", kind: counter, help: "SYN cookies sent, and those that came back.",
		labels: []string{"result"},
		read: func(q queue) []sample {
			t := &q.shard().TCP
			return []sample{
				series(t.CookiesSent, "sent"), series(t.CookiesValid, "valid"),
				series(t.CookiesInvalid, "invalid"),
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
	{
		name: "handlers", kind: gauge, help: "Connections with a handler in the poller, and what handlers have given to goroutines and wait for.",
		labels: []string{"kind"},
		read: func(q queue) []sample {
			h := &q.shard().Handlers
			return []sample{series(h.Coroutines, "coroutine"), series(h.Callbacks, "callback"), series(h.Detaching, "detached")}
		},
	},
	count("handler_runs_total", "Times that the poller ran a handler.", func(s *accel.ShardStats) uint64 { return s.Handlers.Runs }),
	count("handler_long_runs_total", "Runs that took longer than Polling.LongHandler: meanwhile no other connection of the shard went on.", func(s *accel.ShardStats) uint64 { return s.Handlers.Long }),
	count("handler_detached_total", "What handlers gave to goroutines.", func(s *accel.ShardStats) uint64 { return s.Handlers.Detached }),
}
