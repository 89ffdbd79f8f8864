// Package xdp is a device over AF_XDP sockets: it shares an interface with the
// kernel, needs no DPDK, no cgo and no huge pages, and runs on any driver.
//
// # The way of a packet
//
// A filter (internal/bpf), attached to the interface, sees each arriving frame
// first. TCP segments for the addresses and ports that were claimed go to the
// socket of their receive queue, everything else goes on to the kernel.
//
//	NIC queue ──▶ filter ──ours──▶ socket: receive ring ──▶ Queue.Receive
//	                └────the rest──▶ the kernel
//
// Frames lie in chunks of a memory region (UMEM) that a Queue shares with the
// kernel. Four rings per socket carry the addresses of chunks: fill (free chunks,
// to the kernel), receive (frames, from it), transmit (frames, to it) and
// completion (sent chunks, from it). In zero-copy mode the device reads and
// writes the chunks itself. In copy mode, which every driver has, the kernel copies
// each frame once, and frames leave through a packet socket: that costs no more,
// and the kernel or the device then fills in checksums and cuts large segments.
//
// # Threads
//
// Device and its filter may be used by anyone. A Queue follows the contract of
// link.Queue: one goroutine receives, one at a time sends, and the two share
// nothing but the memory region, of which each side has its own chunks.
//
// # When the process ends
//
// However it ends, the kernel detaches the filter and frees the rest: there is
// nothing to clean up.
//
// The package needs Linux 5.10 or newer, CAP_NET_RAW for the sockets, CAP_BPF,
// CAP_PERFMON and CAP_NET_ADMIN for the filter. Open names what is missing.
package xdp
