package main

import (
	"os"
	"runtime/pprof"

	"github.com/spf13/cobra"
)

// addProfileFlag lets any command write a CPU profile of itself. `make pgo`
// makes default.pgo of such profiles, which the compiler reads when it builds
// this command.
func addProfileFlag(root *cobra.Command) {
	var file *os.File
	path := root.PersistentFlags().String("cpuprofile", "", "write a CPU profile of this process to `FILE`")
	root.PersistentPreRunE = func(*cobra.Command, []string) (err error) {
		if *path == "" {
			return nil
		}
		if file, err = os.Create(*path); err != nil {
			return usageError{err}
		}
		return pprof.StartCPUProfile(file)
	}
	root.PersistentPostRunE = func(*cobra.Command, []string) error {
		if file == nil {
			return nil
		}
		pprof.StopCPUProfile()
		return file.Close()
	}
}
