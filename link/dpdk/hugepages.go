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

// A demand is what the first port of a process asks of its memory.
type demand struct {
	// mb is the memory in MB, and oneQueueMB what one queue of it takes.
	mb, oneQueueMB int
	queues         int
	// physical is the kernel's driver that gives the device physical addresses,
	// which only huge pages have; "" where an IOMMU translates, or software reads.
	physical string
}

// A supply is the memory that a machine could give.
type supply struct {
	freeMB      int // of huge pages
	pages       int // huge pages of 2 MB, free or not
	availableMB int // of ordinary memory
}

// chooseMemory sets MemoryMB and tells whether to use huge pages.
func (e *EAL) chooseMemory(d demand, m supply) (hugePages bool, err error) {
	given := e.MemoryMB != 0
	if !given {
		e.MemoryMB = d.mb
	}
	need := fmt.Sprintf("%d MB are needed", e.MemoryMB)
	if !given && d.queues > 1 {
		need += fmt.Sprintf(" for %d queues", d.queues)
	}
	more := fmt.Sprintf("reserve more with \"sysctl vm.nr_hugepages=%d\"", m.pages+max(0, e.MemoryMB-m.freeMB)/2+1)
	switch {
	case d.physical != "" && e.HugePages == HugePagesNever:
		return false, fmt.Errorf("%s gives the device physical addresses, which only huge pages have: leave EAL.HugePages (TPA_HUGEPAGES) at auto, or bind the device to vfio-pci where there is an IOMMU: %w",
			d.physical, ErrNotSupported)
	case e.HugePages != HugePagesNever && m.freeMB >= e.MemoryMB:
		return true, nil
	case d.physical != "" && !given && m.freeMB >= d.oneQueueMB:
		// The device may not even have so many queues, which it tells when it is
		// open. What else is needed is taken then.
		e.MemoryMB = d.oneQueueMB
		return true, nil
	case d.physical != "":
		return false, fmt.Errorf("%d MB of huge pages are free, %s, and no other memory will do: %s gives the device physical addresses: %s: %w",
			m.freeMB, need, d.physical, more, ErrNotSupported)
	case e.HugePages == HugePagesAlways:
		return false, fmt.Errorf("%d MB of huge pages are free, %s: %s, or set EAL.HugePages to HugePagesAuto or HugePagesNever: %w",
			m.freeMB, need, more, ErrNotSupported)
	case !given && e.MemoryMB > 2*m.availableMB:
		// What is needed is an estimate from above, and what was given is taken as it is.
		return false, fmt.Errorf("%d MB of memory are available, %s: %w", m.availableMB, need, ErrNotSupported)
	}
	return false, nil
}
