package accel

import (
	"time"

	"github.com/gotpa/tpa/link"
)

// ShardStats are the counters and gauges of one shard: a device queue, its
// poller, and the stack on it. Counters count since the shard was made.
type ShardStats struct {
	// CPU is where the poller is pinned, -1 when it floats.
	CPU int `json:"cpu"`
	// Poller tells what the poller did with its time.
	Poller PollerStats `json:"poller"`
	// Queue counts the frames of the device queue.
	Queue QueueStats `json:"queue"`
	// Link counts what became of frames between the queue and IP.
	Link LinkStats `json:"link"`
	// FastPath counts segments of known flows that went straight to TCP, past IP.
	FastPath uint64 `json:"fast_path"`
	// Handover counts what arrived on another queue than its flow's.
	Handover HandoverStats `json:"handover"`
	// Flows is the number of established flows.
	Flows int `json:"flows"`
	// Conns tell about the connections, those that ended included.
	Conns ConnStats `json:"conns"`
	// Limits tell how near the limits are.
	Limits LimitStats `json:"limits"`
	// Refused counts what was not believed of those who pretend to be a peer or a
	// router.
	Refused RefusedStats `json:"refused"`
	// Handlers tell about the handlers that the poller runs.
	Handlers HandlerStats `json:"handlers"`
	// IP counts packets of the slow path, both versions together.
	IP IPStats `json:"ip"`
	// ICMP counts ICMP messages, both versions together.
	ICMP ICMPStats `json:"icmp"`
	// TCP counts connections and segments.
	TCP TCPStats `json:"tcp"`
}

// PollerStats tell what a poller did with its time.
type PollerStats struct {
	// Polls counts looks at the queue.
	Polls uint64 `json:"polls"`
	// Empty counts those that found nothing.
	Empty uint64 `json:"empty"`
	// Sleeps counts pauses of an idle poller.
	Sleeps uint64 `json:"sleeps"`
	// Busy is the time spent on frames.
	Busy time.Duration `json:"busy_ns"`
	// Idle is the rest of the time since the poller started.
	Idle time.Duration `json:"idle_ns"`
	// Bursts counts receive bursts of 1, 2-3, 4-7, … 32-63 and more frames.
	Bursts [link.BurstBuckets]uint64 `json:"bursts"`
}

// QueueStats count the frames of a device queue.
type QueueStats struct {
	// RxFrames and RxBytes count frames taken from the queue.
	RxFrames uint64 `json:"rx_frames"`
	RxBytes  uint64 `json:"rx_bytes"`
	// TxFrames and TxBytes count frames handed to the device.
	TxFrames uint64 `json:"tx_frames"`
	TxBytes  uint64 `json:"tx_bytes"`
	// RxMalformed counts frames dropped for their shape: too short, too long for
	// one buffer, chains that cannot be joined, lengths that do not add up.
	RxMalformed uint64 `json:"rx_malformed"`
	// RxNoBuffer counts frames lost for want of a receive buffer.
	RxNoBuffer uint64 `json:"rx_no_buffer"`
	// TxDropped counts staged frames that an error or Close kept from leaving.
	TxDropped uint64 `json:"tx_dropped"`
	// TxFull counts flushes that found the device's ring full.
	TxFull uint64 `json:"tx_full"`
}

// LinkStats count what became of frames between a queue and IP.
type LinkStats struct {
	// RxMalformed counts frames too short for their headers, and neighbour
	// discovery that breaks RFC 4861.
	RxMalformed uint64 `json:"rx_malformed"`
	// RxBadChecksum counts frames with a wrong checksum.
	RxBadChecksum uint64 `json:"rx_bad_checksum"`
	// RxVLAN counts frames tagged for a VLAN; the stack belongs to none.
	RxVLAN uint64 `json:"rx_vlan"`
	// RxUnknown counts frames that are neither IPv4, IPv6 nor ARP.
	RxUnknown uint64 `json:"rx_unknown"`
	// RxNotOurs counts frames for another station.
	RxNotOurs uint64 `json:"rx_not_ours"`
	// TxWaits counts times that a sender waited because the queue was full.
	TxWaits uint64 `json:"tx_waits"`
	// TxNoBuffer counts frames dropped because the queue stayed full.
	TxNoBuffer uint64 `json:"tx_no_buffer"`
	// TxTooLong counts frames dropped because they exceed the device's frame size.
	TxTooLong uint64 `json:"tx_too_long"`
	// TxNoRoute counts what must not leave by this device, because the kernel would
	// send it elsewhere, encrypt it or not send it at all.
	TxNoRoute uint64 `json:"tx_no_route"`
	// TxSegmented counts frames made from larger segments in software.
	TxSegmented uint64 `json:"tx_segmented"`
	// TxAcksSaved counts acknowledgements that a later segment of the same poll made
	// needless.
	TxAcksSaved uint64 `json:"tx_acks_saved"`
	// TxBursts counts flushes by how many frames they handed over: 1, 2-3, 4-7, …
	// 32-63 and more.
	TxBursts [link.BurstBuckets]uint64 `json:"tx_bursts"`
}

// HandoverStats count what arrived on the queue of one shard and belonged to
// another.
type HandoverStats struct {
	// Sent counts segments and fragments that arrived here and were handed over.
	Sent uint64 `json:"sent"`
	// Dropped counts those that found the ring to their owner full: TCP sends them
	// again.
	Dropped uint64 `json:"dropped"`
	// Received counts those that other shards handed to this one.
	Received uint64 `json:"received"`
	// Errors counts ICMP errors that arrived here and were about a flow of another
	// shard, which was told.
	Errors uint64 `json:"errors"`
}

// ConnStats tell about the connections of a shard.
type ConnStats struct {
	// ReadBytes is what the program read from all connections.
	ReadBytes uint64 `json:"read_bytes"`
	// WrittenBytes is what the program wrote to all connections.
	WrittenBytes uint64 `json:"written_bytes"`
	// RTT counts smoothed round-trip times: that of each connection when it is
	// closed, and those of up to 1,000 open ones every 10 s.
	RTT Histogram `json:"rtt"`
}

// LimitStats tell how near a shard is to its limits, and what they cost.
type LimitStats struct {
	// Census is what the last count found.
	Census Census `json:"census"`
	// HalfOpen is the number of handshakes that peers began, as of now.
	HalfOpen int `json:"half_open"`
	// RefusedConnections counts SYNs dropped because Limits.Connections was reached.
	RefusedConnections uint64 `json:"refused_connections"`
	// RefusedMemory counts SYNs dropped because Limits.Memory was near.
	RefusedMemory uint64 `json:"refused_memory"`
	// RefusedBacklog counts SYNs dropped because the accept queue was full.
	RefusedBacklog uint64 `json:"refused_backlog"`
	// RefusedSource counts SYNs dropped because Config.AllowFrom does not have their
	// source. On a shared interface the filter drops them, and counts by itself.
	RefusedSource uint64 `json:"refused_source"`
	// ResetMemory counts connections reset for what they held beyond Limits.Memory.
	ResetMemory uint64 `json:"reset_memory"`
	// ResetClosing counts connections reset beyond Limits.Closing.
	ResetClosing uint64 `json:"reset_closing"`
	// Cut counts buffers made smaller because Limits.Memory was near.
	Cut uint64 `json:"cut"`
	// Unanswered counts segments of no connection that were not answered with a
	// reset, because of Limits.Resets.
	Unanswered uint64 `json:"unanswered"`
}

// A Census is a count of a shard's connections. It is taken once a second, and ten
// times a second near a limit.
type Census struct {
	// HalfOpen are handshakes that peers began.
	HalfOpen int `json:"half_open"`
	// Open are the established connections, those included that wait for Accept.
	Open int `json:"open"`
	// Closing are those that the program closed and the peer did not acknowledge.
	Closing int `json:"closing"`
	// TimeWait are those that wait for old duplicates.
	TimeWait int `json:"time_wait"`
	// ReceiveBytes is what their receive buffers hold.
	ReceiveBytes int64 `json:"receive_bytes"`
	// SendBytes is what their send buffers hold.
	SendBytes int64 `json:"send_bytes"`
}

// RefusedStats count segments and errors that came from neither the peer nor a
// router on the way.
type RefusedStats struct {
	// Acks counts segments that acknowledged what was never sent, or what was
	// acknowledged long ago (RFC 5961 section 5).
	Acks uint64 `json:"acks"`
	// Timestamps counts segments with an old timestamp (PAWS, RFC 7323 section 5).
	Timestamps uint64 `json:"timestamps"`
	// Errors counts ICMP errors about a sequence number that is not in flight (RFC
	// 5927 section 4.1).
	Errors uint64 `json:"errors"`
}

// HandlerStats tell about the handlers that a poller runs: Serve, Go, and the
// callbacks of tpanet.Server.
type HandlerStats struct {
	// Coroutines and Callbacks are the handlers that have a connection now.
	Coroutines int64 `json:"coroutines"`
	Callbacks  int64 `json:"callbacks"`
	// Runs counts how often the poller ran a handler.
	Runs uint64 `json:"runs"`
	// Long counts runs that took longer than Polling.LongHandler.
	Long uint64 `json:"long"`
	// Longest is the time of the longest of them.
	Longest time.Duration `json:"longest_ns"`
	// Detached counts what handlers gave to goroutines.
	Detached uint64 `json:"detached"`
	// Detaching is how much of it is under way.
	Detaching int64 `json:"detaching"`
}

// IPStats count packets of the slow path: new flows, resets, ICMP. Segments of
// known flows pass it by.
type IPStats struct {
	// Received counts packets received, Valid those of them with a valid header,
	// Delivered those given to TCP or ICMP.
	Received  uint64 `json:"received"`
	Valid     uint64 `json:"valid"`
	Delivered uint64 `json:"delivered"`
	// Sent counts packets sent, SendErrors those that could not be sent.
	Sent       uint64 `json:"sent"`
	SendErrors uint64 `json:"send_errors"`
	// Malformed counts packets and fragments that made no sense.
	Malformed uint64 `json:"malformed"`
	// BadDestination and BadSource count packets dropped for that address.
	BadDestination uint64 `json:"bad_destination"`
	BadSource      uint64 `json:"bad_source"`
	// Disabled counts packets that came while IP was off.
	Disabled uint64 `json:"disabled"`
	// MalformedTransport counts packets whose transport header made no sense.
	MalformedTransport uint64 `json:"malformed_transport"`
	// UnknownTransport counts packets of a protocol other than TCP and ICMP.
	UnknownTransport uint64 `json:"unknown_transport"`
	// Unclaimed counts packets that nobody in the stack wanted.
	Unclaimed uint64 `json:"unclaimed"`
}

// ICMPStats count ICMP messages.
type ICMPStats struct {
	// Received counts messages received.
	Received ICMPCounts `json:"received"`
	// Sent counts messages sent.
	Sent ICMPCounts `json:"sent"`
	// Invalid counts messages received that made no sense.
	Invalid uint64 `json:"invalid"`
}

// ICMPCounts count ICMP messages by type.
type ICMPCounts struct {
	// EchoRequests and EchoReplies are pings and their answers.
	EchoRequests uint64 `json:"echo_requests"`
	EchoReplies  uint64 `json:"echo_replies"`
	// Unreachable counts Destination Unreachable, which in IPv4 includes that a
	// packet was too big.
	Unreachable uint64 `json:"unreachable"`
	// TooBig counts Packet Too Big of ICMPv6.
	TooBig uint64 `json:"too_big"`
	// TimeExceeded counts Time Exceeded.
	TimeExceeded uint64 `json:"time_exceeded"`
}

// TCPStats count connections and segments.
type TCPStats struct {
	// Connected is the number of connections in any state but closed.
	Connected int `json:"connected"`
	// Established is the number of connections in the state ESTABLISHED.
	Established int `json:"established"`
	// ActiveOpens counts connections that dialing began, those that failed included.
	ActiveOpens uint64 `json:"active_opens"`
	// PassiveOpens counts connections opened by a peer.
	PassiveOpens uint64 `json:"passive_opens"`
	// FailedOpens counts connections that could not be opened, either way.
	FailedOpens uint64 `json:"failed_opens"`
	// PortFailures counts listeners and dials that found no local port.
	PortFailures uint64 `json:"port_failures"`
	// SegmentsReceived counts valid segments; those joined in a burst count once.
	SegmentsReceived uint64 `json:"segments_received"`
	// SegmentsSent counts segments sent; those cut up later count once.
	SegmentsSent uint64 `json:"segments_sent"`
	// InvalidSegments counts segments received that made no sense.
	InvalidSegments uint64 `json:"invalid_segments"`
	// ChecksumErrors counts segments received with a wrong checksum.
	ChecksumErrors uint64 `json:"checksum_errors"`
	// SendErrors counts segments that could not be sent.
	SendErrors uint64 `json:"send_errors"`
	// Retransmits counts segments sent again for any reason, FastRetransmits those in
	// fast recovery, SlowStartRetransmits those in slow start.
	Retransmits          uint64 `json:"retransmits"`
	FastRetransmits      uint64 `json:"fast_retransmits"`
	SlowStartRetransmits uint64 `json:"slow_start_retransmits"`
	// Timeouts counts retransmission timers that ran out.
	Timeouts uint64 `json:"timeouts"`
	// FastRecoveries, SACKRecoveries and TLPRecoveries count recoveries from loss by
	// how it was noticed: duplicate acknowledgements, SACK, tail loss probe.
	FastRecoveries uint64 `json:"fast_recoveries"`
	SACKRecoveries uint64 `json:"sack_recoveries"`
	TLPRecoveries  uint64 `json:"tlp_recoveries"`
	// SpuriousRecoveries counts recoveries that turned out to be needless,
	// SpuriousTimeouts those that a retransmission timer began.
	SpuriousRecoveries uint64 `json:"spurious_recoveries"`
	SpuriousTimeouts   uint64 `json:"spurious_timeouts"`
	// DSACKs counts segments acknowledged with DSACK: the peer had them already.
	DSACKs uint64 `json:"dsacks"`
	// ResetsSent and ResetsReceived count resets.
	ResetsSent     uint64 `json:"resets_sent"`
	ResetsReceived uint64 `json:"resets_received"`
	// EstablishedResets, EstablishedClosed and EstablishedTimeouts count established
	// connections that ended: with a reset, in order, by keep-alive.
	EstablishedResets   uint64 `json:"established_resets"`
	EstablishedClosed   uint64 `json:"established_closed"`
	EstablishedTimeouts uint64 `json:"established_timeouts"`
	// OverflowSYNs and OverflowACKs count segments of handshakes that TCP dropped
	// because an accept queue was full.
	OverflowSYNs uint64 `json:"overflow_syns"`
	OverflowACKs uint64 `json:"overflow_acks"`
	// CookiesSent counts SYN cookies sent, CookiesValid those that came back,
	// CookiesInvalid acknowledgements with a wrong one.
	CookiesSent    uint64 `json:"cookies_sent"`
	CookiesValid   uint64 `json:"cookies_valid"`
	CookiesInvalid uint64 `json:"cookies_invalid"`
}
