// Package bpf is the filter by which a device shares an interface with the kernel:
// BPF programs (filter.c) that the kernel runs on each arriving frame. TCP segments
// to the addresses and ports that Filter.Claim named are ours, everything else goes
// on to the kernel. link/xdp has them redirected to AF_XDP sockets, link/packet to
// a packet socket.
//
// The same programs answer floods of SYNs with cookies, at a tenth of the price of
// a stack. Complete is for the other side of the way: it makes whole the frames
// whose checksum a kernel has left open.
//
// The package needs Linux 5.10, or 6.6 for OpenIngress, and CAP_BPF, CAP_PERFMON
// and CAP_NET_ADMIN. However the process ends, the kernel detaches the filter.
package bpf
