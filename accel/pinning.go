package accel

import (
	"fmt"
	"runtime"
)

// checkPinning refuses CPUs for pollers that the process may not use, other than one
// for each queue, and pollers that would leave no processor for the rest of the program.
func checkPinning(cpus []int, queues int) error {
	if len(cpus) == 0 {
		return nil
	}
	if len(cpus) != queues {
		return fmt.Errorf("Config.CPUs names %d CPUs for %d queues: want one for each", len(cpus), queues)
	}
	if err := checkCPUs(cpus[:queues]); err != nil {
		return err
	}
	if procs := runtime.GOMAXPROCS(0); procs <= queues {
		return fmt.Errorf("Config.CPUs pins %d pollers, which leaves none of the %d processors of GOMAXPROCS to the program: raise GOMAXPROCS or do not pin", queues, procs)
	}
	return nil
}
