// Package packet is a device over packet sockets (AF_PACKET). Like link/xdp it
// shares an interface with the kernel and needs no DPDK, no cgo and no huge
// pages. It is there for interfaces whose XDP is in use, by another server of
// this kind or by anyone else: any number of packet devices fit behind that, and
// none of them notices the others.
//
// # The way of a packet
//
// The same filter as with link/xdp (internal/bpf) decides, at two places: as the filter of
// the packet socket, which gets a copy of our frames, and at the interface's
// ingress (tcx) right behind it, where our frames end and all others go on.
//
//	NIC ──▶ XDP of others ──▶ packet socket ──▶ ingress ──rest──▶ the kernel
//	                               └──ours: receive ring ──▶ Queue.Receive
//
// Received frames are copied once, by the kernel, into a ring that it shares
// with the queue; those that it has joined to larger ones (GRO) do not fit there
// and are read by a system call each. Sent frames are copied once, a burst with
// one system call, and take the kernel's usual way out: its queueing discipline,
// its checksum and segmentation offload. So large segments leave whole.
//
// # Threads
//
// As with link/xdp: one goroutine receives, one at a time sends.
//
// # When the process ends
//
// However it ends, the kernel detaches the filter and frees the sockets: there is
// nothing to clean up.
//
// The package needs Linux 6.6 or newer, CAP_NET_RAW for the sockets, CAP_BPF,
// CAP_PERFMON and CAP_NET_ADMIN for the filter. Open names what is missing.
package packet
