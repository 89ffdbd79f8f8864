package dpdk

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// freeHugePagesMB returns how many MB of huge pages of all sizes are free. dir is
// the kernel's directory of them.
func freeHugePagesMB(dir string) int {
	sizes, _ := filepath.Glob(filepath.Join(dir, "hugepages-*kB"))
	total := 0
	for _, size := range sizes {
		kB, err := strconv.Atoi(strings.TrimSuffix(strings.TrimPrefix(filepath.Base(size), "hugepages-"), "kB"))
		if err != nil {
			continue
		}
		text, err := os.ReadFile(filepath.Join(size, "free_hugepages"))
		if err != nil {
			continue
		}
		if n, err := strconv.Atoi(strings.TrimSpace(string(text))); err == nil {
			total += n * kB / 1024
		}
	}
	return total
}

// useHugePages decides by the policy, with freeMB of huge pages free.
func (e EAL) useHugePages(freeMB int) (bool, error) {
	switch {
	case e.HugePages == HugePagesNever:
		return false, nil
	case freeMB >= e.MemoryMB:
		return true, nil
	case e.HugePages == HugePagesAuto:
		return false, nil
	}
	return false, fmt.Errorf("%d MB of huge pages are free, %d MB are needed: reserve more with \"sysctl vm.nr_hugepages=%d\", or set EAL.HugePages to HugePagesAuto or HugePagesNever: %w",
		freeMB, e.MemoryMB, e.MemoryMB/2+1, ErrNotSupported)
}
