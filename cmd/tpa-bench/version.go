package main

import (
	"encoding/json"
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"

	"github.com/gotpa/tpa/link/dpdk"
)

// build is what a program knows of its own making.
type build struct {
	// Version is the module's: v0.1.0, a pseudo-version, or (devel).
	Version string `json:"version"`
	// Revision is the commit, Time its time in RFC 3339, and Modified says that
	// files had changed since. Empty without version control, as after
	// `go install …@latest`.
	Revision string `json:"revision,omitempty"`
	Time     string `json:"time,omitempty"`
	Modified bool   `json:"modified,omitempty"`
	Go       string `json:"go"`
	Platform string `json:"platform"`
	// GVisor is the version of the stack below TCP.
	GVisor string `json:"gvisor,omitempty"`
	// DPDK is the version that is linked, empty without.
	DPDK string `json:"dpdk,omitempty"`
}

func thisBuild() build {
	b := build{Version: "unknown", Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH, DPDK: dpdk.Version()}
	if info, ok := debug.ReadBuildInfo(); ok {
		b.read(info)
	}
	return b
}

func (b *build) read(info *debug.BuildInfo) {
	b.Version = info.Main.Version
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			b.Revision = s.Value
		case "vcs.time":
			b.Time = s.Value
		case "vcs.modified":
			b.Modified = s.Value == "true"
		}
	}
	for _, d := range info.Deps {
		if d.Path == "gvisor.dev/gvisor" {
			b.GVisor = d.Version
		}
	}
}

// String is one line for people.
func (b build) String() string {
	parts := []string{b.Version}
	if b.Revision != "" {
		commit := "commit " + b.Revision[:min(12, len(b.Revision))]
		if b.Time != "" {
			commit += " of " + b.Time
		}
		if b.Modified {
			commit += ", changed since"
		}
		parts = append(parts, "("+commit+")")
	}
	parts = append(parts, b.Go, b.Platform)
	if b.GVisor != "" {
		parts = append(parts, "gVisor "+b.GVisor)
	}
	if b.DPDK != "" {
		parts = append(parts, b.DPDK)
	} else {
		parts = append(parts, "without DPDK")
	}
	return strings.Join(parts, " ")
}

func newVersion() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Print the version, the commit, and what it was built with",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			b := thisBuild()
			if asJSON {
				e := json.NewEncoder(cmd.OutOrStdout())
				e.SetIndent("", "  ")
				return e.Encode(b)
			}
			_, err := fmt.Fprintln(cmd.OutOrStdout(), "tpa-bench", b)
			return err
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}
