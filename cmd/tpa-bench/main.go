// Command tpa-bench measures TCP servers: over the kernel's TCP and over the
// accelerated one, with the same load, and compares the two.
//
//	tpa-bench compare --workload get --conns 50
//
// Its commands serve, run, compare and plot describe themselves with --help.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

// Exit codes.
const (
	exitOK     = 0
	exitFailed = 1 // errors in the measurement, or no measurement
	exitUsage  = 2 // wrong flags or arguments
	exitSLO    = 3 // a bound of --slo is broken
)

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// The first signal ends the work; the second ends the process.
	context.AfterFunc(ctx, stop)

	cmd := newRoot()
	cmd.SetArgs(args)
	err := cmd.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	fmt.Fprintf(os.Stderr, "tpa-bench: %v\n", err)
	var usage usageError
	if errors.As(err, &usage) {
		return exitUsage
	}
	var slo sloError
	if errors.As(err, &slo) {
		return exitSLO
	}
	return exitFailed
}

// usageError is a mistake in flags or arguments.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "tpa-bench",
		Short: "Measure TCP servers over the kernel and over the accelerated stack",
		Long: `tpa-bench serves, generates load, and compares the kernel's TCP with the
accelerated one under the same load.

  compare   everything in one command: server, client, both transports, rounds
  serve     a server: Redis, echo, discard or HTTP
  run       a load generator for such a server, or for any Redis server
  diff      what changed between two saved results
  plot      a page, a table or benchstat lines from the results of run or compare

and it looks into programs that run on the accelerated stack, and at the machine:

  sockets   the connections of a program, as ss has the kernel's
  shards    what its pollers do, as top
  stats     all its counters, as nstat
  doctor    what the machine offers, and how to fix what is missing
  trace     what its flight recorder holds, as a time line or for Wireshark
  config    settings: check and show them, and change those of a running program

version says what it was built from, and completion prints a script for your shell.

Exit status: 0 if all went well, 1 for errors in a measurement or no
measurement, 2 for wrong flags, 3 for a bound of --slo that was broken.`,
		Version:       thisBuild().String(),
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	addProfileFlag(root)
	root.AddCommand(newServe(), newRun(), newCompare(), newDiff(), newPlot())
	root.AddCommand(newSockets(), newShards(), newStats(), newTrace(), newDoctor(), newConfig())
	root.AddCommand(newVersion(), newManual())
	return root
}

// noArgs refuses arguments that are no flags.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usageError{fmt.Errorf("%s takes no arguments: %q", cmd.Name(), args[0])}
	}
	return nil
}
