package guest

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// segments is the case bulk, watched at the peer: a server whose device cuts segments
// sends larger ones than the MTU, which reach the tap as they are, and any other
// does not. That they are right is what bulk finds.
func (c *cellRun) segments() error {
	s, err := c.status()
	if err != nil {
		return err
	}
	fd, err := c.capture()
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := c.bulk(); err != nil {
		return err
	}
	largest := 0
	for {
		// The length is that of the frame, not of the buffer.
		n, from, err := unix.Recvfrom(fd, make([]byte, 64), unix.MSG_TRUNC|unix.MSG_DONTWAIT)
		if errors.Is(err, unix.EAGAIN) {
			break
		}
		if err != nil {
			return fmt.Errorf("capture: %w", err)
		}
		if a, ok := from.(*unix.SockaddrLinklayer); ok && a.Pkttype != unix.PACKET_OUTGOING {
			largest = max(largest, n)
		}
	}
	cuts := slices.ContainsFunc(s.Device.Offloads, func(o string) bool { return strings.HasPrefix(o, "tso-") })
	if large := largest > s.Device.MTU+100; large != cuts {
		return fmt.Errorf("the largest frame at the peer has %d bytes, and the device's offloads are %v", largest, s.Device.Offloads)
	}
	return nil
}

// capture opens a packet socket on the peer's end of the cable.
func (c *cellRun) capture() (fd int, err error) {
	c.peer.Do(func() {
		var tap *net.Interface
		if tap, err = net.InterfaceByName(c.nic.tap); err != nil {
			return
		}
		const all = unix.ETH_P_ALL<<8&0xff00 | unix.ETH_P_ALL>>8 // in network byte order
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
			return
		}
		// Enough for the first of the segments; what does not fit is dropped.
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20)
		if err = unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: tap.Index}); err != nil {
			unix.Close(fd)
		}
	})
	return fd, err
}
