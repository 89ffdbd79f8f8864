package main

import (
	"os"

	"github.com/spf13/cobra"

	"github.com/gotpa/tpa/cmd/tpa-bench/internal/report"
)

func newDiff() *cobra.Command {
	return &cobra.Command{
		Use:   "diff OLD NEW",
		Short: "Show what changed between two saved results of run or compare",
		Long: `diff reads two files that run or compare wrote with -o json, and shows the medians
of each setting and transport that both have, and how much they changed. A change
that rounds show by chance, too, is marked with ~: more than 5 times in 100 by the
Mann-Whitney test, for which both want 4 rounds or more. Where a comparison has the
kernel beside, its column says how much of a change is the machine's.`,
		Example: `  tpa-bench compare --workload get -o json --out old.json
  tpa-bench diff old.json new.json`,
		Args: func(_ *cobra.Command, args []string) error {
			return wrapUsage(cobra.ExactArgs(2)(nil, args))
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			var saved [2][]*report.Comparison
			for i, name := range args {
				f, err := os.Open(name)
				if err != nil {
					return err
				}
				saved[i], err = report.Read(f)
				f.Close()
				if err != nil {
					return err
				}
			}
			return report.Diff(cmd.OutOrStdout(), saved[0], saved[1])
		},
	}
}
