package xdp

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// txMetadata is struct xsk_tx_metadata of <linux/if_xdp.h>, which lies in front of a
// frame to send. checksumStart and checksumOffset are where to begin summing, from
// the start of the frame, and where from there the sum goes. The field there holds
// the sum of the pseudo-header.
type txMetadata struct {
	flags                         uint64
	checksumStart, checksumOffset uint16
	_                             [12]byte // what newer kernels know, unused
}

const txMetadataLen = uint32(unsafe.Sizeof(txMetadata{}))

// askChecksum puts a txMetadata in front of the frame that starts at mem[at].
func askChecksum(mem []byte, at uint64, start, offset uint16) {
	room := mem[at-uint64(txMetadataLen) : at]
	// Sound: room is as long as a txMetadata, mapped memory outside the garbage
	// collector's, and aligned to 8 bytes: at is sendOffset behind the start of a chunk.
	*(*txMetadata)(unsafe.Pointer(&room[0])) = txMetadata{unix.XDP_TXMD_FLAGS_CHECKSUM, start, offset, [12]byte{}}
}

// registerMemory makes the memory the region of a socket (XDP_UMEM_REG).
func registerMemory(fd int, u *umem, flags uint32) error {
	mem := u.mem
	reg := unix.XDPUmemReg{
		// Sound: mem is mapped outside the garbage collector's memory and stays where
		// it is; the kernel pins its pages.
		Addr:  uint64(uintptr(unsafe.Pointer(&mem[0]))),
		Len:   uint64(len(mem)),
		Size:  uint32(u.chunk),
		Flags: flags,
	}
	if u.metadata {
		reg.Tx_metadata_len = txMetadataLen
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
