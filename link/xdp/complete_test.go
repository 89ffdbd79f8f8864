package xdp_test

import (
	"net/netip"
	"syscall"
	"testing"

	"github.com/gotpa/tpa/internal/offload"
	"github.com/gotpa/tpa/internal/testframe"
	"github.com/gotpa/tpa/internal/testnet"
	"github.com/gotpa/tpa/link"
	"github.com/gotpa/tpa/link/xdp"
)

// A kernel at the other end of a veth pair leaves checksums out, or not. They are
// right in both cases.
func TestKernelChecksums(t *testing.T) {
	for _, tt := range []struct {
		name     string
		offloads bool
		want     link.ChecksumStatus
	}{
		{"left out", true, link.Partial},
		{"filled in", false, link.Unchecked},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t, xdp.Config{}, testnet.Wire{Offloads: tt.offloads})
			for _, local := range []netip.Addr{b.near.IPv4.Addr(), b.near.IPv6.Addr()} {
				// A SYN, from a connection that is never answered.
				b.far.Host.Do(func() {
					family := syscall.AF_INET
					var to syscall.Sockaddr = &syscall.SockaddrInet4{Port: int(b.claimed), Addr: [4]byte(b.near.IPv4.Addr().AsSlice())}
					if local.Is6() {
						family = syscall.AF_INET6
						to = &syscall.SockaddrInet6{Port: int(b.claimed), Addr: b.near.IPv6.Addr().As16()}
					}
					fd, err := syscall.Socket(family, syscall.SOCK_STREAM|syscall.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC, 0)
					if err != nil {
						t.Fatal(err)
					}
					t.Cleanup(func() { syscall.Close(fd) })
					if err := syscall.Connect(fd, to); err != syscall.EINPROGRESS {
						t.Fatalf("connect: %v", err)
					}
				})
				n := 0
				until(t, "a SYN", func() bool {
					var err error
					if n, err = b.dev.Queue(0).Receive(b.frames); err != nil {
						t.Fatal(err)
					}
					return n > 0
				})
				frame := b.frames[0]
				if frame.Checksum == link.Partial {
					offload.Complete(frame.Data)
				}
				if _, err := testframe.Parse(frame.Data); err != nil {
					t.Errorf("%v: %v: %x", local, err, frame.Data)
				}
				if frame.Checksum != tt.want {
					t.Errorf("%v: status %v, want %v", local, frame.Checksum, tt.want)
				}
			}
		})
	}
}
