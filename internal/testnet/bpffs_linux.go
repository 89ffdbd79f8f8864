package testnet

import (
	"testing"

	"golang.org/x/sys/unix"
)

// MountBPF sees to it that there is a BPF file system at a directory until the test
// ends.
func MountBPF(tb testing.TB, dir string) {
	tb.Helper()
	Need(tb, Root)
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err == nil && st.Type == unix.BPF_FS_MAGIC {
		return
	}
	if err := unix.Mount("bpf", dir, "bpf", 0, ""); err != nil {
		Need(tb, Requirement{Name: "a BPF file system", Probe: func() error { return err }, Fix: "mount -t bpf bpf /sys/fs/bpf"})
	}
	tb.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			tb.Errorf("unmount %s: %v", dir, err)
		}
	})
}
