//go:build dpdk && cgo && linux

package dpdk

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// readSupply asks the kernel. Where it does not tell how much ordinary memory there
// is, there is a lot. The arguments are its directory of huge pages and its meminfo.
func readSupply(dir, meminfo string) supply {
	m := supply{freeMB: freeHugePagesMB(dir), availableMB: maxMemoryMB}
	text, _ := os.ReadFile(filepath.Join(dir, "hugepages-2048kB/nr_hugepages"))
	m.pages, _ = strconv.Atoi(strings.TrimSpace(string(text)))
	text, _ = os.ReadFile(meminfo)
	for line := range strings.Lines(string(text)) {
		var kB int
		if n, _ := fmt.Sscanf(line, "MemAvailable: %d kB", &kB); n == 1 {
			m.availableMB = kB / 1024
		}
	}
	return m
}
