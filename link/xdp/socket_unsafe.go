package xdp

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// registerMemory makes mem the memory region of a socket (XDP_UMEM_REG).
func registerMemory(fd int, mem []byte, chunk int) error {
	reg := unix.XDPUmemReg{
		// Sound: mem is mapped outside the garbage collector's memory and stays where
		// it is; the kernel pins its pages.
		Addr: uint64(uintptr(unsafe.Pointer(&mem[0]))),
		Len:  uint64(len(mem)),
		Size: uint32(chunk),
	}
	// Sound: reg is converted in the call itself.
	_, _, errno := unix.Syscall6(unix.SYS_SETSOCKOPT, uintptr(fd), unix.SOL_XDP, unix.XDP_UMEM_REG,
		uintptr(unsafe.Pointer(&reg)), unsafe.Sizeof(reg), 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// ringOffsets returns where the parts of a socket's rings lie in their mappings.
func ringOffsets(fd int) (offsets unix.XDPMmapOffsets, err error) {
	err = getXDP(fd, unix.XDP_MMAP_OFFSETS, &offsets)
	return offsets, err
}

// statistics returns the kernel's counters of a socket.
func statistics(fd int) (stats unix.XDPStatistics, err error) {
	err = getXDP(fd, unix.XDP_STATISTICS, &stats)
	return stats, err
}

func getXDP[T unix.XDPMmapOffsets | unix.XDPStatistics](fd, option int, v *T) error {
	size := uint32(unsafe.Sizeof(*v))
	// Sound: both pointers are converted in the call itself, and the kernel writes
	// no more than size bytes.
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_XDP, uintptr(option),
		uintptr(unsafe.Pointer(v)), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return errno
	}
	return nil
}
