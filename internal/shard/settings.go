package shard

import (
	"cmp"
	"time"
)

// TCP are settings of a shard's TCP stack.
type TCP struct {
	// ReceiveBuffer and SendBuffer are the greatest buffers in bytes that one
	// connection grows to, 4 KB to 1 GB. Default: 32 MB. They begin with 1 MB
	// and what the engine says (Engine.FirstSend), if that is less.
	ReceiveBuffer, SendBuffer int
	// TimeWait is how long a closed connection blocks its 4-tuple. 1 ms to 4 min.
	// Default: 60 s, as in the kernel.
	TimeWait time.Duration
	// NoSACK turns selective acknowledgements (RFC 2018) off. Default: on.
	NoSACK bool
	// NoCoalescing delivers each received segment by itself, instead of joining
	// those of one flow that follow each other in a burst. Default: joined.
	NoCoalescing bool
	// Engine is the TCP that carries the connections, by the name that newEngine knows
	// it by. Default: "tpa", our own, which runs to completion in the shard.
	Engine string
	// Congestion is "reno", "cubic" or "auto". Default: "auto", what the engine says
	// (Engine.Congestion).
	Congestion string
}

func (t TCP) withDefaults() TCP {
	t.ReceiveBuffer = cmp.Or(t.ReceiveBuffer, 32<<20)
	t.SendBuffer = cmp.Or(t.SendBuffer, 32<<20)
	t.TimeWait = cmp.Or(t.TimeWait, time.Minute)
	t.Engine = cmp.Or(t.Engine, "tpa")
	return t
}
