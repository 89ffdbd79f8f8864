package xdp

import (
	"errors"
	"fmt"
	"math/bits"
	"os"
	"time"

	"github.com/gotpa/tpa/internal/bpf"
)

// Config describes a device. Only Interface has to be set.
type Config struct {
	// Interface is the name of an Ethernet interface in the network namespace of
	// the calling thread.
	Interface string

	// Queues is the number of link queues, 1 to the number of receive queues that
	// the interface has. Where it is smaller, each link queue serves several
	// receive queues, so that no flow is missed. Default: one for each.
	Queues int

	// Attach is how the filter is attached. Default: AttachAuto.
	Attach Attach

	// Place is where another process had its filter, which has stepped aside
	// (Device.StepAside) and passed it on: ours takes its place there, in the same
	// mode, without a moment in which there is none. Open closes it. Default: the
	// filter is attached anew, where the interface has none.
	Place *os.File

	// Copy forces copy mode where the driver could do without. Default: zero-copy
	// where the driver has it.
	Copy bool

	// RingSize is the number of frames in each ring, a power of two from 64 to
	// 32768. A link queue has as many chunks for sending, and as many for
	// receiving for each of its receive queues. Default: 2048.
	RingSize int

	// BusyPoll makes an empty Receive run the driver's own receive routine
	// (SO_PREFER_BUSY_POLL), and Wait have the kernel poll the device for that long
	// before it sleeps (EPIOCSPARAMS, Linux 6.9). It pays where frames come often, and
	// costs latency where they do not: from Linux 6.13 on, interrupts are deferred
	// meanwhile, for 200 µs after a poll (napi_defer_hard_irqs, gro_flush_timeout), and
	// for up to 20 ms while the poller is at work (irq_suspend_timeout); the device puts
	// that back when it is closed, and Open or Clean after a crash. Before, interrupts
	// go on unless both were set by hand: see Device.NotDeferred. 1 µs to 1 s.
	// Default: off.
	BusyPoll time.Duration

	// Pin leaves the filter attached when the device is closed or its process ends in
	// any way, without a socket: it passes every frame to the kernel, until the next
	// Open, with Pin or without, takes its place. Where a driver makes its queues anew
	// or drops the carrier when XDP is attached, that then happens once, and not with
	// each start. Its price: between two starts, each frame for the kernel still runs
	// through the filter, the driver keeps what XDP switches off (offloads, half of the
	// queues), and 5 MB of kernel memory stay. It needs a BPF file system at
	// /sys/fs/bpf. Clean removes it. Default: off, nothing stays.
	Pin bool

	sendByRing       bool // in copy mode, too: for tests
	softwareChecksum bool // with TX metadata for the kernel: for tests
	deferAnyway      bool // interrupts, although the kernel cannot poll: for tests
}

// Attach is how the filter is attached to an interface.
type Attach int

const (
	// AttachAuto tries native mode, then generic mode.
	AttachAuto = Attach(bpf.Auto)
	// AttachNative runs the filter in the driver, before the kernel has made a
	// packet of the frame.
	AttachNative = Attach(bpf.Native)
	// AttachGeneric runs the filter in the kernel's receive path, on any driver,
	// at a higher price per frame.
	AttachGeneric = Attach(bpf.Generic)
)

func (a Attach) String() string { return bpf.Mode(a).String() }

// withDefaults returns the configuration with its zero fields filled in, except
// Queues, which depends on the interface.
func (c Config) withDefaults() (Config, error) {
	if c.RingSize == 0 {
		c.RingSize = 2048
	}
	var errs []error
	if c.Interface == "" {
		errs = append(errs, errors.New("xdp: Config.Interface is empty: want the name of an interface"))
	}
	if c.Queues < 0 {
		errs = append(errs, fmt.Errorf("xdp: Config.Queues is %d: want 1 or more, or 0 for all", c.Queues))
	}
	if c.Attach < AttachAuto || c.Attach > AttachGeneric {
		errs = append(errs, fmt.Errorf("xdp: Config.Attach is %v: want AttachAuto, AttachNative or AttachGeneric", c.Attach))
	}
	if c.RingSize < 64 || c.RingSize > 32768 || bits.OnesCount(uint(c.RingSize)) != 1 {
		errs = append(errs, fmt.Errorf("xdp: Config.RingSize is %d: want a power of two from 64 to 32768", c.RingSize))
	}
	if c.BusyPoll != 0 && (c.BusyPoll < time.Microsecond || c.BusyPoll > time.Second) {
		errs = append(errs, fmt.Errorf("xdp: Config.BusyPoll is %v: want 1µs to 1s, or 0 for off", c.BusyPoll))
	}
	return c, errors.Join(errs...)
}
