package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/gotpa/tpa/cmd/tpa-bench/internal/machine"
	"github.com/gotpa/tpa/cmd/tpa-bench/internal/report"
	"github.com/gotpa/tpa/cmd/tpa-bench/internal/transport"
)

func newCompare() *cobra.Command {
	var l loadFlags
	var rounds int
	var names []string
	var over, client, other string
	var serverCPUs, clientCPUs []int
	cmd := &cobra.Command{
		Use:   "compare --workload NAME --rounds R",
		Short: "Compare the kernel's TCP with the accelerated one",
		Long: `compare starts a server and a client as two processes on processors of their own,
runs the same load over each transport in turn (kernel, accel, kernel, accel, …),
and prints medians over the rounds, the ratios accel / kernel and how far the
rounds lie apart. Every round has new processes. Go uses as many processors in
each as it is pinned to.

What lies between the two processes is --link:

  memif    accel runs over a DPDK memif pair, shared memory between the two
           processes, on both sides; kernel runs over the loopback interface
  xdp      both run over one veth pair between two network namespaces; accel's
           server is on AF_XDP, beside the kernel. Its client is the kernel's,
           as most clients of such a server are, or accel, too: --client. It
           needs root, and no DPDK
  packet   likewise, with a packet socket in place of AF_XDP

--server redis adds rounds of a real redis-server, where that is installed: one
event loop on the kernel's TCP, with the kernel's client, in its own column.

Device, addresses and CPUs are compare's own, for each side: it refuses --dev, --ip,
--gateway and --cpus. The namespaces end with compare and its two processes, even
when it is killed.

CPU per request is the processor time of each process over the measured window,
in user and system mode, by answered requests. The accelerated processes poll:
while there is traffic they use all of their processors, however much there is.

Ctrl-C ends the run and prints the rounds that there are.

` + workloadHelp(),
		Example: `  tpa-bench compare --workload get --conns 50
  tpa-bench compare --workload rr --conns 1 --rounds 9 -o json --out rr.json
  tpa-bench compare --link xdp --workload get --conns 50
  tpa-bench compare --workload get --conns 50 --server redis
  tpa-bench compare --workload read --conns 8 --mtu 9000
  tpa-bench compare --workload get --transports kernel -o html --out kernel.html`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			settings := l.settings(cmd)
			if err := l.output.check(); err != nil {
				return err
			}
			var protocols []string
			for i := range settings {
				cfg, err := settings[i].config(nil)
				if err != nil {
					return err
				}
				protocols = append(protocols, cfg.Workload.Protocol)
			}
			if rounds < 1 || rounds > 1000 {
				return usageError{fmt.Errorf("--rounds %d: want 1 to 1000", rounds)}
			}
			if len(names) == 0 {
				return usageError{errors.New("--transports names none: want kernel, accel or both")}
			}
			for i, n := range names {
				if err := checkTransport(n); err != nil {
					return err
				}
				if slices.Contains(names[:i], n) {
					return usageError{fmt.Errorf("--transports names %s twice", n)}
				}
			}
			var err error
			if client, err = chooseClient(over, client); err != nil {
				return err
			}
			mtu, err := chooseMTU(cmd)
			if err != nil {
				return err
			}
			var redis string
			switch other {
			case "":
			case redisName:
				if redis, err = findRedis(protocols); err != nil {
					return err
				}
				names = append(names, redisName)
			default:
				return usageError{fmt.Errorf("unknown server %q: want redis", other)}
			}
			for _, own := range []string{"dev", "ip", "gateway", "cpus"} {
				if cmd.Flags().Changed(own) {
					return usageError{fmt.Errorf("--%s: compare sets that itself for each side; for other devices start serve and run yourself", own)}
				}
			}
			if err := setDevice(cmd); err != nil {
				return err
			}
			pins, err := choosePins(serverCPUs, clientCPUs)
			if err != nil {
				return err
			}
			between, err := newLink(over, queues(), mtu)
			if err != nil {
				return fmt.Errorf("compare --link %s: %w", over, err)
			}
			defer between.close()
			one := time.Duration(rounds*len(names)) * l.length() // setting of the sweep
			live := newProgress(cmd.ErrOrStderr(), time.Duration(len(settings))*one, l.quiet)
			var all []results
			var failed error
			for i := range settings {
				m := &match{load: settings[i], protocol: protocols[i], seconds: l.warmup + l.duration, pins: pins, live: live, base: time.Duration(i) * one,
					link: between, client: client, redis: redis}
				runs, err := m.play(cmd.Context(), names, rounds)
				failed = cmp.Or(failed, err)
				if len(runs) == 0 {
					break
				}
				c := report.NewComparison(runs, queues(), machine.Read(transport.DPDKVersion()))
				c.Link, c.Client, c.MTU = over, client, mtu
				c.Command, c.ServerCPUs, c.ClientCPUs = commandLine(), pins.server, pins.client
				all = append(all, c)
				failed = cmp.Or(failed, c.Failed(), l.slo.checkFigures(c.Title()+" over "+judged(names), c.Transports[judged(names)]))
				if cmd.Context().Err() != nil {
					break
				}
			}
			live.done()
			if len(all) == 0 {
				return failed
			}
			// The first of what went wrong: writing it, a measurement, its errors.
			return cmp.Or(l.output.write(cmd.OutOrStdout(), all...), failed)
		},
	}
	f := cmd.Flags()
	l.add(cmd)
	f.IntVar(&rounds, "rounds", 5, "`R` measurements of each transport")
	f.StringSliceVar(&names, "transports", transport.Names, "which to run")
	f.StringVar(&over, "link", linkMemif, "what lies between server and client: "+strings.Join(links, ", "))
	f.StringVar(&client, "client", "", "the client's TCP in the rounds of accel: kernel or accel (default: kernel; memif has accel only)")
	f.StringVar(&other, "server", "", "run another server, too: redis, for a real redis-server on the kernel")
	f.IntSliceVar(&serverCPUs, "server-cpus", nil, "CPUs of the server (default: half of the processors, at most one per queue)")
	f.IntSliceVar(&clientCPUs, "client-cpus", nil, "CPUs of the client (default: likewise, others)")
	l.output.add(cmd, formatTable, formatJSON, formatHTML, formatCSV, formatHDR, formatBenchstat)
	addDeviceFlags(cmd)
	return cmd
}

// judged is the transport that --slo is about: accel, unless only others run.
func judged(names []string) string {
	if slices.Contains(names, transport.Accel) {
		return transport.Accel
	}
	return names[0]
}

// pins are the processors of the two processes.
type pins struct{ server, client []int }

// choosePins fills in what was not asked for: one processor per queue and side,
// as far as they go, from opposite ends of the list so that two hyper-threads of
// one core are the last to meet.
func choosePins(server, client []int) (pins, error) {
	all := machine.CPUs(0)
	for _, cpu := range append(slices.Clone(server), client...) {
		if !slices.Contains(all, cpu) {
			return pins{}, usageError{fmt.Errorf("CPU %d is none that this process may use: %v", cpu, all)}
		}
	}
	if len(server) > 0 && len(client) > 0 {
		return pins{server, client}, nil
	}
	free := slices.DeleteFunc(slices.Clone(all), func(cpu int) bool {
		return slices.Contains(server, cpu) || slices.Contains(client, cpu)
	})
	sides := 2
	if len(server)+len(client) > 0 {
		sides = 1
	}
	n := min(queues(), len(free)/sides)
	if n == 0 {
		return pins{}, fmt.Errorf("compare needs two processors, one for the server and one for the client: this process may use %v", all)
	}
	if len(server) == 0 {
		server = free[:n]
	}
	if len(client) == 0 {
		client = free[len(free)-n:]
	}
	return pins{server, client}, nil
}

// chooseMTU returns the MTU of the link, 0 for the usual one.
func chooseMTU(cmd *cobra.Command) (int, error) {
	text := cmd.Flags().Lookup("mtu").Value.String()
	if text == "" {
		text = os.Getenv("TPA_MTU")
	}
	if text == "" {
		return 0, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 68 || n > 65389 {
		return 0, usageError{fmt.Errorf("--mtu %s: want 68 to 65389 bytes", text)}
	}
	return n, nil
}

// queues is the number of device queues that the environment asks for.
func queues() int {
	var n int
	fmt.Sscan(os.Getenv("TPA_QUEUES"), &n)
	return max(n, 1)
}

// play runs all rounds. It returns those that were measured, with the error that
// ended the rest; a done ctx is none if there is a round.
func (m *match) play(ctx context.Context, names []string, rounds int) (runs []report.Run, err error) {
	if slices.Contains(names, transport.Accel) && names[0] != transport.Accel {
		// Say now, not after the kernel's first round, that it cannot be.
		if err := m.rehearse(ctx, transport.Accel); err != nil {
			return nil, err
		}
	}
	for round := range rounds {
		for i, name := range names {
			m.live.next(fmt.Sprintf("round %d of %d, %s", round+1, rounds, name), m.base+time.Duration(round*len(names)+i)*m.load.length())
			r, err := m.measure(ctx, name)
			if r != nil {
				r.Round = round + 1
				runs = append(runs, *r)
			}
			if ctx.Err() != nil && len(runs) > 0 {
				return runs, nil
			}
			if err != nil {
				return runs, err
			}
		}
	}
	return runs, nil
}

// without returns the environment less some variables.
func without(env []string, names ...string) []string {
	return slices.DeleteFunc(slices.Clone(env), func(e string) bool {
		name, _, _ := strings.Cut(e, "=")
		return slices.Contains(names, name)
	})
}
