package recorder

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// mapMemory maps a new file, or anonymous memory.
func mapMemory(path string, size int) ([]byte, error) {
	const prot = unix.PROT_READ | unix.PROT_WRITE
	if path == "" {
		return unix.Mmap(-1, 0, size, prot, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err = f.Truncate(int64(size)); err == nil {
		var b []byte
		if b, err = unix.Mmap(int(f.Fd()), 0, size, prot, unix.MAP_SHARED); err == nil {
			return b, nil
		}
	}
	os.Remove(path)
	return nil, fmt.Errorf("recorder: %s: %w", path, err)
}

// discard gives the pages of memory back, which stays mapped and reads as zeros
// from then on. The file that it was mapped from, if any, has been removed.
func discard(memory []byte, mapped bool) error {
	if mapped && unix.Madvise(memory, unix.MADV_REMOVE) == nil { // not every file system can
		return nil
	}
	return unix.Madvise(memory, unix.MADV_DONTNEED)
}
