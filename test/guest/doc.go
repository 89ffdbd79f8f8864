// Package guest runs servers in virtual machines, on kernels and network cards
// that this machine does not have: QEMU without hardware virtualisation boots
// Debian's kernels, and plays virtio, e1000e, igb and vmxnet3 cards. The clients
// are this machine's kernel, in a network namespace, behind a tap of each card.
// It holds tests only; `make test-guest` runs them.
//
// A cell is a kernel, a card and a way to drive it (AF_XDP, packet socket, DPDK);
// cells_test.go has their table, cases_test.go what each has to pass. Known failures stand
// in known_test.go with their reasons. A guest boots from an initial RAM disk with the
// agent of test/guest/agent as its first process, which carries out what the test
// asks through a virtio serial port.
//
// Packages of kernels and of QEMU come from Debian's archives by apt, with lists
// and settings of their own: what this machine has installed stays as it is. They
// are kept in $XDG_CACHE_HOME/tpa-guest.
package guest
