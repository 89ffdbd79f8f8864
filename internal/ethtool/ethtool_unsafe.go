package ethtool

import (
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// do sends a request. T is the C struct that belongs to it, as the kernel lays it
// out; it holds the answer, too.
func do[T any](s *Socket, name string, value *T) error {
	// Sound: value is kept alive until after the call, and T has no pointers.
	err := s.request(name, unsafe.Pointer(value))
	runtime.KeepAlive(value)
	return err
}

// doBytes is do for a struct that ends in an array. It starts with the command.
func doBytes(s *Socket, name string, value []byte) error {
	// Sound: as in do; the kernel writes as much as the sizes in value say.
	err := s.request(name, unsafe.Pointer(&value[0]))
	runtime.KeepAlive(value)
	return err
}

func (s *Socket) request(name string, value unsafe.Pointer) error {
	var ifreq struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte // the kernel copies a whole struct ifreq, 40 bytes
	}
	copy(ifreq.name[:unix.IFNAMSIZ-1], name)
	ifreq.data = value
	// Sound: &ifreq is converted in the call itself, so ifreq neither moves nor goes
	// before the call returns, and its field data does the same for value.
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(s.fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&ifreq)))
	if errno != 0 {
		return errno
	}
	return nil
}
