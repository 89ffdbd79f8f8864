package accel

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
}
