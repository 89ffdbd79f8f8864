// Package dpdk runs network devices by DPDK, the poll-mode drivers that talk to
// a device from user space. It implements the queue contract of package link.
//
// # The way of a packet
//
// A received frame lies in an mbuf, a packet buffer of DPDK's. Receive makes one
// call into C, which frees the mbufs of the previous burst, fetches up to
// link.MaxBurst new ones, checks them, and leaves address, length and checksum
// checksum status of each in an array that Go reads in place. A frame to be sent is
// written into an mbuf from a small stock (Reserve, Commit: no call into C) and
// leaves with Flush, one call into C for up to link.MaxBurst frames.
//
// # Building
//
// This is the project's only package that uses cgo. It needs the build tag dpdk
// and DPDK 22.11 or newer, found by pkg-config (Debian: libdpdk-dev):
//
//	go build -tags dpdk ./...
//
// Without the tag everything compiles and Open answers ErrNotSupported.
//
// # The process
//
// DPDK has one environment (EAL) per process. The first Open starts it; it stays
// until the process ends. It runs without shared files, so that nothing
// readable is left behind when the process is killed: huge pages are anonymous,
// and the mbufs' contents die with the last mapping. What a device itself puts
// into the file system (the socket of a memif server) stays after a SIGKILL and
// is replaced by the next start.
//
// # Drivers
//
// What is worth knowing about some of DPDK 22.11's:
//
//   - net_memif, shared memory between two processes: the side with role=server
//     starts first; a client does not come back to a server that was started
//     anew, it has to be opened again. Give socket=PATH,socket-abstract=no: an
//     abstract socket cannot be opened a second time by one process. Each side
//     can write to the memory that they share, so the peer must be trusted.
//   - net_af_packet takes one queue only, see quirks.go. The kernel sees its
//     packets too, and answers them.
//   - net_af_xdp leaves its XDP program and promiscuous mode on the interface
//     when the process is killed. A small process of ours waits for that and
//     undoes it (it needs sh and ip). Package link/xdp has no such need.
//   - net_tap cuts no segments here, see quirks.go.
//   - mlx5 shares its device with the kernel in isolated mode: Config.Isolated
//     and Port.CreateRule.
//
// # Threads
//
// Open, and the methods of Port, may be called by anyone. For queues see
// link.Queue. DPDK's own threads block all signals.
package dpdk
