package main

import (
	"os"

	"github.com/spf13/cobra"

	"github.com/gotpa/tpa/cmd/tpa-bench/internal/report"
)

func newPlot() *cobra.Command {
	var o output
	cmd := &cobra.Command{
		Use:   "plot FILE",
		Short: "Make a page, a table or benchstat lines from the results of compare or run",
		Long: `plot reads what compare -o json or run -o json wrote and writes it in another form, without
measuring again. "-" reads standard input.`,
		Example: `  tpa-bench compare --workload get -o json --out get.json
  tpa-bench plot get.json --out get.html
  tpa-bench plot get.json -o benchstat | benchstat -col /transport -`,
		Args: func(_ *cobra.Command, args []string) error {
			return wrapUsage(cobra.ExactArgs(1)(nil, args))
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := o.check(); err != nil {
				return err
			}
			in := cmd.InOrStdin()
			if args[0] != "-" {
				f, err := os.Open(args[0])
				if err != nil {
					return err
				}
				defer f.Close()
				in = f
			}
			saved, err := report.Read(in)
			if err != nil {
				return err
			}
			var all []results
			for _, c := range saved {
				all = append(all, c)
			}
			return o.write(cmd.OutOrStdout(), all...)
		},
	}
	o.add(cmd, formatHTML, formatTable, formatCSV, formatHDR, formatBenchstat, formatJSON)
	return cmd
}

func wrapUsage(err error) error {
	if err == nil {
		return nil
	}
	return usageError{err}
}
