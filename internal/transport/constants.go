package transport

import "time"

// What both TCPs, or net and accel, hold to.
const (
	// ChallengeInterval is the least time between two acknowledgements of segments
	// that are not acceptable (RFC 5961 section 7), as Linux has it.
	ChallengeInterval = 500 * time.Millisecond
	// TimestampsStale is when TS.Recent is too old to judge by (RFC 7323 section 5.5).
	TimestampsStale = 24 * 24 * time.Hour
	// MinMTU4 and MinMTU6 are the least path MTUs that are believed, in bytes (RFC
	// 791 and Linux's ip_rt_min_pmtu; RFC 8200).
	MinMTU4, MinMTU6 = 552, 1280
	// KeepAlive is package net's default of idle time and interval of keep-alive
	// probes.
	KeepAlive = 15 * time.Second
	// PortAttempts is how often an automatically chosen port may turn out to be in
	// use on another shard, or with the kernel, before listening fails.
	PortAttempts = 16
	// MaxCoalesced is the greatest payload in bytes that consecutive segments of one
	// flow are joined to, as for Linux's GRO.
	MaxCoalesced = 65535
)
