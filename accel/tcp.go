package accel

import (
	"errors"
	"fmt"
	"time"
)

// TCP are settings of the TCP of all shards.
type TCP struct {
	// ReceiveBuffer is the greatest receive buffer in bytes that one connection
	// grows to, 4 KB to 1 GB. It begins with 1 MB, if that is less. Default: 32 MB,
	// which 1 Gb/s over 200 ms need and 100 Gb/s over 1 ms do not fill.
	ReceiveBuffer int
	// SendBuffer is the greatest send buffer in bytes that one connection grows to,
	// 4 KB to 1 GB. It begins with 256 KB (1 MB with gVisor's TCP), if that is less.
	// Default: 32 MB.
	SendBuffer int
	// TimeWait is how long a closed connection blocks its 4-tuple. 1 ms to 4 min.
	// Default: 60 s, as in the kernel.
	TimeWait time.Duration
	// NoSACK turns selective acknowledgements (RFC 2018) off. Default: on.
	NoSACK bool
	// NoCoalescing delivers each received segment by itself, instead of joining
	// those of one flow that follow each other in a burst. Default: joined.
	NoCoalescing bool
	// Engine is the TCP that carries the connections. Default: EngineTPA.
	Engine Engine
	// Congestion is the congestion control. Default: CongestionAuto, which is CUBIC.
	Congestion Congestion
}

const (
	minBuffer, maxBuffer     = 4 << 10, 1 << 30
	minTimeWait, maxTimeWait = time.Millisecond, 4 * time.Minute
)

// check refuses values out of range.
func (t TCP) check() error {
	var errs []error
	for _, b := range []struct {
		name  string
		bytes int
	}{{"ReceiveBuffer", t.ReceiveBuffer}, {"SendBuffer", t.SendBuffer}} {
		if b.bytes != 0 && (b.bytes < minBuffer || b.bytes > maxBuffer) {
			errs = append(errs, fmt.Errorf("TCP.%s is %d: want 4096 bytes to 1 GB", b.name, b.bytes))
		}
	}
	if t.TimeWait != 0 && (t.TimeWait < minTimeWait || t.TimeWait > maxTimeWait) {
		errs = append(errs, fmt.Errorf("TCP.TimeWait is %v: want %v to 4m", t.TimeWait, minTimeWait))
	}
	if !engines.has(t.Engine) {
		errs = append(errs, fmt.Errorf("TCP.Engine is %v: want EngineTPA or EngineGVisor", t.Engine))
	}
	if !congestions.has(t.Congestion) {
		errs = append(errs, fmt.Errorf("TCP.Congestion is %v: want CongestionAuto, CongestionReno or CongestionCubic", t.Congestion))
	}
	return errors.Join(errs...)
}
