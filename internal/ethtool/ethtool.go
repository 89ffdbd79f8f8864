// Package ethtool asks drivers of network interfaces what ethtool asks them, and
// tells them what it tells them. Interfaces are those of the network namespace
// that the calling thread is in.
package ethtool

import "golang.org/x/sys/unix"

// Driver is the driver in `ethtool -i NAME`.
func Driver(name string) (string, error) {
	fd, err := open()
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	info, err := unix.IoctlGetEthtoolDrvinfo(fd, name)
	if err != nil {
		return "", err
	}
	return unix.ByteSliceToString(info.Driver[:]), nil
}

// ReceiveQueues is the number of queues that receive, in `ethtool -l NAME`.
func ReceiveQueues(name string) (int, error) {
	value := channels{cmd: unix.ETHTOOL_GCHANNELS}
	err := do(name, &value)
	return int(value.rx + value.combined), err
}

// channels is struct ethtool_channels: the interrupts, and so the queues, of an
// interface. Those in use follow the most there can be.
type channels struct {
	cmd      uint32
	_        [4]uint32
	rx       uint32
	_        [2]uint32 // those that only send, and others
	combined uint32
}

// SetTxChecksum is `ethtool -K NAME tx on|off`.
func SetTxChecksum(name string, on bool) error {
	value := struct{ cmd, data uint32 }{cmd: unix.ETHTOOL_STXCSUM}
	if on {
		value.data = 1
	}
	return do(name, &value)
}

// open returns a socket to send requests to the kernel with.
func open() (fd int, err error) {
	return unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
}
