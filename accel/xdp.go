package accel

import (
	"fmt"
	"time"
)

// XDP is how an interface is shared by AF_XDP. It holds for no other device: with a
// packet socket in its place, nothing of it does anything.
type XDP struct {
	// Pin leaves the filter attached to the interface when the runtime is closed or its
	// process ends in any way. It then passes every frame to the kernel, until the next
	// start takes its place. Drivers that drop the carrier or make their queues anew
	// when XDP is attached (ENA, MANA) then do so once, and not with each start. It
	// needs a BPF file system at /sys/fs/bpf. Its price between two starts: each frame
	// for the kernel still runs through the filter, what the driver switched off for XDP
	// stays off, and 5 MB of kernel memory stay. tpa-bench doctor --clean removes it.
	// Default: off, nothing stays.
	Pin bool

	// BusyPoll has the poller run the driver's receive routine itself, and the kernel
	// poll the device for that long before the poller sleeps, instead of being
	// interrupted for each burst. It saves processor time where frames come often;
	// where they come seldom, one may wait 200 µs. Linux 6.13 or newer: before, it does
	// less, and the log says so. 1 µs to 1 s. Default: off.
	BusyPoll time.Duration
}

const minBusyPoll, maxBusyPoll = time.Microsecond, time.Second

// check refuses values out of range.
func (x XDP) check() error {
	if x.BusyPoll != 0 && (x.BusyPoll < minBusyPoll || x.BusyPoll > maxBusyPoll) {
		return fmt.Errorf("Config.XDP.BusyPoll is %v: want %v to %v, or 0 for off", x.BusyPoll, minBusyPoll, maxBusyPoll)
	}
	return nil
}
