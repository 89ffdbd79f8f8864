package ethtool

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// do sends a request. T is the C struct that belongs to it, as the kernel lays it
// out; it holds the answer, too.
func do[T any](name string, value *T) error {
	var ifreq struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte // the kernel copies a whole struct ifreq, 40 bytes
	}
	copy(ifreq.name[:unix.IFNAMSIZ-1], name)
	ifreq.data = unsafe.Pointer(value)

	fd, err := open()
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	// Sound: &ifreq is converted in the call itself, so ifreq neither moves nor goes
	// before the call returns, and its field data does the same for value.
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&ifreq)))
	if errno != 0 {
		return errno
	}
	return nil
}
