package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/gotpa/tpa/accel"
)

func newConfig() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Check and show settings, and change those of a running program",
		Long: `A program that has no configuration of its own takes its settings from the file
that TPA_CONFIG names, and from variables of the environment, which win. The file
is TOML:

  device = "eth0"
  queues = 2

  [polling]
  spin = "50us"

config show lists all keys.`,
	}
	cmd.AddCommand(newConfigCheck(), newConfigShow(), newConfigSet())
	return cmd
}

func newConfigCheck() *cobra.Command {
	return &cobra.Command{
		Use:   "check [FILE]",
		Short: "Check a configuration file, or what a program would start with here",
		Long: `check reads FILE, or else TPA_CONFIG and the environment as a program would, and
says what is wrong: unknown names and bad values. It opens no device; doctor looks
whether this machine can do what is asked.`,
		Args: func(_ *cobra.Command, args []string) error { return wrapUsage(cobra.MaximumNArgs(1)(nil, args)) },
		RunE: func(cmd *cobra.Command, args []string) error {
			what := "the environment"
			if file := os.Getenv("TPA_CONFIG"); file != "" {
				what = file + " and the environment"
			}
			read := accel.ConfigFromEnv
			if len(args) == 1 {
				what = args[0]
				read = func() (accel.Config, error) { return accel.ConfigFromFile(what) }
			}
			c, err := read()
			if err != nil {
				return err
			}
			n := 0
			for _, s := range accel.Settings() {
				if s.Value(&c) != "" {
					n++
				}
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: %d of %d settings are set, and all are good\n", what, n, len(accel.Settings()))
			return err
		},
	}
}

func newConfigShow() *cobra.Command {
	var t target
	var running bool
	cmd := &cobra.Command{
		Use:   "show",
		Short: "List all settings with their values and where these come from",
		Long: `show lists all settings: those that a program would start with here, by
TPA_CONFIG and the environment. With --running, --pid or --addr it asks a running
program instead, and marks what config set can change.`,
		Example: `  TPA_CONFIG=/etc/tpa.toml tpa-bench config show
  tpa-bench config show --running`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if running || t.pid != 0 || t.addr != "" {
				return t.show(cmd, func(w io.Writer, now, _ *accel.Status) error {
					line(w, "Setting", "Value", "From", "Change")
					for _, s := range now.Settings {
						from, change := "program", ""
						if s.Default {
							from = "default"
						}
						if s.Live {
							change = "config set"
						}
						line(w, s.Key, s.Value, from, change)
					}
					return nil
				})
			}
			c, err := accel.ConfigFromEnv()
			if err != nil {
				return err
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			line(w, "Setting", "Value", "From", "Variable")
			for _, s := range accel.Settings() {
				from := "default"
				switch {
				case s.Env != "" && os.Getenv(s.Env) != "":
					from = "environment"
				case s.Value(&c) != "":
					from = "file"
				}
				line(w, s.Key, cmp.Or(s.Value(&c), s.Default), from, s.Env)
			}
			return w.Flush()
		},
	}
	t.add(cmd)
	cmd.Flags().BoolVar(&running, "running", false, "ask the running program")
	return cmd
}

func newConfigSet() *cobra.Command {
	var t target
	cmd := &cobra.Command{
		Use:   "set KEY VALUE",
		Short: "Change a setting of a running program",
		Long: `set changes a setting while a program runs, through its debug socket: the log
level, polling, limits, who may connect, and how much the flight recorder records.
The program's event log keeps each change with who made it. It lasts until the
program ends.

` + liveHelp(),
		Example: `  tpa-bench config set polling.spin 50us
  tpa-bench config set --pid 4711 log_level debug
  tpa-bench config set allow_from 10.0.0.0/8,fd00::/8`,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, base, err := t.client()
			if err != nil {
				return err
			}
			// They are sent as they are, and / is in prefixes.
			if strings.Contains(args[0], "/") || strings.ContainsAny(args[0]+args[1], "?#% \t\r\n") {
				return usageError{fmt.Errorf("%q: no setting holds that; a list has commas and no spaces", strings.Join(args, " "))}
			}
			r, err := http.NewRequestWithContext(cmd.Context(), http.MethodPost, base+"settings/"+args[0]+"/"+args[1], nil)
			if err != nil {
				return usageError{err}
			}
			answer, err := answerOf(c, r)
			if refused := (refusal{}); errors.As(err, &refused) && refused.status == http.StatusBadRequest {
				return errors.New(refused.reason) // it names the setting
			}
			if err != nil {
				return err
			}
			_, err = cmd.OutOrStdout().Write(answer)
			return err
		},
	}
	f := cmd.Flags()
	f.IntVar(&t.pid, "pid", 0, "ask the process `PID`")
	f.StringVar(&t.addr, "addr", "", "ask the program at the socket `ADDR`")
	cmd.Args = func(_ *cobra.Command, args []string) error { return wrapUsage(cobra.ExactArgs(2)(nil, args)) }
	return cmd
}

// liveHelp is the table of settings that can change.
func liveHelp() string {
	var b strings.Builder
	for _, s := range accel.Settings() {
		if s.Live {
			fmt.Fprintf(&b, "  %-20s %s\n", s.Key, s.Values)
		}
	}
	return strings.TrimRight(b.String(), "\n")
}
