package main

import (
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

// newManual is the hidden command that packages are made with.
func newManual() *cobra.Command {
	return &cobra.Command{
		Use:    "man DIR",
		Short:  "Write manual pages into DIR",
		Hidden: true,
		Args:   cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			header := &doc.GenManHeader{Section: "1", Source: "tpa", Manual: "tpa-bench"}
			// A page of one commit is the same whenever it is made.
			if t, err := time.Parse(time.RFC3339, thisBuild().Time); err == nil {
				header.Date = &t
			}
			if err := os.MkdirAll(args[0], 0o755); err != nil {
				return err
			}
			root := cmd.Root()
			root.DisableAutoGenTag = true
			for _, c := range append(root.Commands(), root) {
				c.Long = tables(c.Long)
			}
			return doc.GenManTree(root, header, args[0])
		},
	}
}

// tables indents the lines that are indented in a help text so far that a manual
// page, which is made by way of Markdown, keeps them as they are.
func tables(help string) string { return strings.ReplaceAll(help, "\n  ", "\n      ") }
