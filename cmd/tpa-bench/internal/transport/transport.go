// Package transport is the one place of the benchmark that knows two ways to
// carry TCP: the kernel's and this module's. Everything else uses a Transport.
package transport

import (
	"context"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Names of transports.
const (
	Kernel = "kernel"
	Accel  = "accel"
)

// Names lists what Open takes.
var Names = []string{Kernel, Accel}

// dialTimeout bounds one attempt to connect.
const dialTimeout = 5 * time.Second

// Transport listens and dials. Any goroutine may use it.
type Transport interface {
	// Name is Kernel or Accel.
	Name() string
	// String is the name, and the device if there is one, for people.
	String() string
	// Polls says whether the transport polls from within this process while there
	// is traffic. Then Go's timers are exact and processor time is no measure of
	// work.
	Polls() bool
	// Counters reads what the transport has counted so far.
	Counters() Counters
	Listen(ctx context.Context, addr string) (net.Listener, error)
	Dial(ctx context.Context, addr string) (net.Conn, error)
	// Close ends what Open started. Listeners and connections end with it.
	Close() error
}

// Counters count from an arbitrary start and never go back.
type Counters struct {
	// Retransmits are TCP segments sent again, by any program for Kernel.
	Retransmits uint64
	// Lost are frames dropped on this side.
	Lost uint64
	// Polls counts looks at the device's queues, Empty those that found nothing.
	Polls, Empty uint64
	// Busy and Idle are the time of the pollers: with frames to handle, which counts
	// what woke up by them and ran on the same processor, and without.
	Busy, Idle time.Duration
}

// Open starts a transport. Kernel takes nothing to start; Accel starts a runtime
// from the TPA_* variables and fails rather than fall back to the kernel, for a
// measurement must not be the kernel's unasked.
func Open(name string) (Transport, error) {
	switch name {
	case Kernel:
		return kernel{}, nil
	case Accel:
		return openAccel()
	}
	return nil, fmt.Errorf("unknown transport %q: want %s", name, strings.Join(Names, " or "))
}

// kernel is TCP by package net.
type kernel struct{}

func (kernel) Name() string   { return Kernel }
func (kernel) String() string { return Kernel }
func (kernel) Polls() bool    { return false }
func (kernel) Close() error   { return nil }

// Counters reads the statistics of the network namespace.
func (kernel) Counters() Counters {
	b, err := os.ReadFile("/proc/net/snmp")
	if err != nil {
		return Counters{}
	}
	return Counters{Retransmits: retransmits(string(b))}
}

// retransmits finds Tcp RetransSegs in /proc/net/snmp, which has a line of names
// and then a line of numbers for each protocol.
func retransmits(snmp string) (n uint64) {
	var names []string
	for line := range strings.Lines(snmp) {
		fields := strings.Fields(line)
		if len(fields) == 0 || fields[0] != "Tcp:" {
			continue
		}
		if i := slices.Index(names, "RetransSegs"); i >= 0 && i < len(fields) {
			n, _ = strconv.ParseUint(fields[i], 10, 64)
		}
		names = fields
	}
	return n
}

func (kernel) Listen(ctx context.Context, addr string) (net.Listener, error) {
	var lc net.ListenConfig
	return lc.Listen(ctx, "tcp", addr)
}

func (kernel) Dial(ctx context.Context, addr string) (net.Conn, error) {
	d := net.Dialer{Timeout: dialTimeout}
	return d.DialContext(ctx, "tcp", addr)
}
