package xdp

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// channels is struct ethtool_channels: the interrupts, and so the queues, of an
// interface.
type channels struct {
	cmd                                         uint32
	maxRx, maxTx, maxOther, maxCombined         uint32
	rxCount, txCount, otherCount, combinedCount uint32
}

// getChannels is `ethtool -l NAME`, for an interface of the namespace that the
// thread is in.
func getChannels(name string) (channels, error) {
	value := channels{cmd: unix.ETHTOOL_GCHANNELS}
	var ifreq struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte // the kernel copies a whole struct ifreq, 40 bytes
	}
	copy(ifreq.name[:unix.IFNAMSIZ-1], name)
	ifreq.data = unsafe.Pointer(&value)

	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return channels{}, err
	}
	defer unix.Close(fd)
	// Sound: &ifreq is converted in the call itself, so ifreq neither moves nor goes
	// before the call returns, and its field data does the same for value.
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&ifreq)))
	if errno != 0 {
		return channels{}, errno
	}
	return value, nil
}
