package accel

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// checkCPUs refuses CPUs that the process may not use.
func checkCPUs(cpus []int) error {
	var allowed unix.CPUSet
	if err := unix.SchedGetaffinity(0, &allowed); err != nil {
		return fmt.Errorf("reading the CPUs of this process: %w", err)
	}
	for _, cpu := range cpus {
		if !allowed.IsSet(cpu) {
			return fmt.Errorf("Config.CPUs names CPU %d, which this process may not use: see taskset -p %d", cpu, os.Getpid())
		}
	}
	return nil
}
