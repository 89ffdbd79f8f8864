package accel

import (
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
)

// checkPinning refuses CPUs for pollers that the process may not use, and
// pollers that would leave no processor for the rest of the program.
func checkPinning(cpus []int, queues int) error {
	if len(cpus) == 0 {
		return nil
	}
	if len(cpus) < queues {
		return fmt.Errorf("Config.CPUs names %d CPUs for %d queues: want one for each", len(cpus), queues)
	}
	var allowed unix.CPUSet
	if err := unix.SchedGetaffinity(0, &allowed); err != nil {
		return fmt.Errorf("reading the CPUs of this process: %w", err)
	}
	for _, cpu := range cpus[:queues] {
		if !allowed.IsSet(cpu) {
			return fmt.Errorf("Config.CPUs names CPU %d, which this process may not use: see taskset -p %d", cpu, unix.Getpid())
		}
	}
	if procs := runtime.GOMAXPROCS(0); procs <= queues {
		return fmt.Errorf("Config.CPUs pins %d pollers, which leaves none of the %d processors of GOMAXPROCS to the program: raise GOMAXPROCS or do not pin", queues, procs)
	}
	return nil
}
