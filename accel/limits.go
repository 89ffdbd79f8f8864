package accel

// Limits bound what peers can make a runtime hold, so that nothing that comes
// from outside grows without end. What becomes of the excess is said at each, and
// counted in LimitStats. Of each, 0 means the default.
type Limits struct {
	// Connections is how many connections all shards together hold: established
	// ones, those being opened and those being closed. Beyond it SYNs are dropped,
	// which peers repeat, and dials fail with ENOBUFS. 1 to 16777216. Default:
	// 65536, which take about 1 GB while idle, with a goroutine for each.
	Connections int `json:"connections"`
	// HalfOpen is how many handshakes of peers a shard keeps in memory. Beyond it,
	// SYN cookies (RFC 4987) take the place of memory, and those connections do
	// without window scaling and SACK. 1 to 65535. Default: 1024.
	HalfOpen int `json:"half_open"`
	// Closing is how many connections of a shard may wait for their peers to
	// acknowledge the end after the program closed them. The excess is reset,
	// largest buffers first. 1 to 16777216. Default: 16384.
	Closing int `json:"closing"`
	// TimeWait is how many connections of a shard may be in TIME-WAIT. Beyond it,
	// they wait for 1 s instead of TCP.TimeWait. 1 to 16777216. Default: 65536.
	TimeWait int `json:"time_wait"`
	// Memory is how many bytes the receive and send buffers of all connections
	// hold together. From three quarters of it on, until it is half, buffers are
	// cut to what they hold, at least 16 KB each, and SYNs are dropped. If that
	// lasts for a second, or at the limit, the connections that hold most are reset
	// until it is half. It is looked at ten times a second. 16 MB to 1 TB. Default:
	// a quarter of the machine's memory.
	Memory int64 `json:"memory"`
	// Resets is how many resets per second a shard sends in answer to segments that
	// belong to no connection. 1 to 1000000. Default: 1000.
	Resets int `json:"resets"`
}
