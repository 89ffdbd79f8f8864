package transport

import (
	"cmp"
	"context"
	"log/slog"
	"net"
	"os"
	"strings"
	"time"

	"github.com/gotpa/tpa/accel"
	"github.com/gotpa/tpa/link/dpdk"
)

// accelerated is TCP by package accel.
type accelerated struct {
	runtime *accel.Runtime
	device  string
}

// timeWait is how long a closed connection keeps its port. Over loopback Linux
// gives ports out again after a second (tcp_tw_reuse); with the minute that
// stands in RFC 9293 a generator that connects anew for each request would be
// out of ports before the end of its run.
const timeWait = time.Second

func openAccel() (Transport, error) {
	c, err := accel.ConfigFromEnv()
	if err != nil {
		return nil, err
	}
	c.Fallback = accel.FallbackNever
	c.TCP.TimeWait = timeWait
	c.Logger = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	rt, err := accel.New(c)
	if err != nil {
		return nil, err
	}
	device, _, _ := strings.Cut(c.Device, ",") // the rest are the driver's arguments
	return &accelerated{rt, device}, nil
}

// Runtime is for those who want to look inside.
func (a *accelerated) Runtime() *accel.Runtime { return a.runtime }

func (a *accelerated) Name() string   { return Accel }
func (a *accelerated) String() string { return Accel + ", " + a.device }
func (a *accelerated) Polls() bool    { return true }
func (a *accelerated) Close() error   { return a.runtime.Close() }

func (a *accelerated) Counters() (c Counters) {
	stats := a.runtime.Stats()
	c.Lost = stats.Device.RxMissed + stats.Device.RxErrors + stats.Device.TxErrors
	for _, s := range stats.Shards {
		c.Retransmits += s.TCP.Retransmits
		c.Lost += s.Queue.RxMalformed + s.Queue.RxNoBuffer + s.Queue.TxDropped + s.Link.RxBadChecksum + s.Link.TxNoBuffer
		c.Polls += s.Poller.Polls
		c.Empty += s.Poller.Empty
		c.Busy += s.Poller.Busy
		c.Idle += s.Poller.Idle
	}
	return c
}

func (a *accelerated) Listen(ctx context.Context, addr string) (net.Listener, error) {
	return (&accel.ListenConfig{Runtime: a.runtime}).Listen(ctx, "tcp", addr)
}

func (a *accelerated) Dial(ctx context.Context, addr string) (net.Conn, error) {
	return (&accel.Dialer{Runtime: a.runtime, Timeout: dialTimeout}).DialContext(ctx, "tcp", addr)
}

// DPDKVersion is the version of DPDK in this program, or "none".
func DPDKVersion() string { return cmp.Or(strings.TrimPrefix(dpdk.Version(), "DPDK "), "none") }
