package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/gotpa/tpa/cmd/tpa-bench/internal/report"
)

// Output formats.
const (
	formatTable     = "table"
	formatJSON      = "json"
	formatHTML      = "html"
	formatBenchstat = "benchstat"
	formatCSV       = "csv"
	formatHDR       = "hdr"    // as HdrHistogram's tools read it
	formatStream    = "stream" // of run, for compare
)

// output is where results go, and how.
type output struct {
	format  string
	file    string // empty: standard output
	formats []string
}

// add adds the flags; the first format is the default.
func (o *output) add(cmd *cobra.Command, formats ...string) {
	o.formats = formats
	cmd.Flags().StringVarP(&o.format, "output", "o", formats[0], "how to write results: "+strings.Join(formats, ", "))
	cmd.Flags().StringVar(&o.file, "out", "", "write results to `FILE`, and a table to standard output")
}

func (o *output) check() error {
	if !slices.Contains(o.formats, o.format) {
		public := slices.DeleteFunc(slices.Clone(o.formats), func(format string) bool { return format == formatStream })
		return usageError{fmt.Errorf("unknown output format %q: want one of %s", o.format, strings.Join(public, ", "))}
	}
	return nil
}

// results is what can be written: a *report.Run or a *report.Comparison.
type results interface {
	Table(io.Writer) error
	Benchstat(io.Writer) error
	CSV(io.Writer) error
	HDR(io.Writer) error
}

// write writes results, of a sweep one after the other.
func (o *output) write(stdout io.Writer, all ...results) error {
	var b bytes.Buffer
	if o.format == formatHTML {
		var page []*report.Comparison
		for _, r := range all {
			page = append(page, r.(*report.Comparison))
		}
		if err := report.HTML(&b, page...); err != nil {
			return err
		}
	}
	if o.format == formatCSV {
		if err := report.CSVHeader(&b); err != nil {
			return err
		}
	}
	for _, r := range all {
		if o.format == formatHTML {
			break // all are on one page
		}
		if err := o.encode(&b, r); err != nil {
			return err
		}
	}
	if o.file == "" {
		_, err := stdout.Write(b.Bytes())
		return err
	}
	if err := os.WriteFile(o.file, b.Bytes(), 0o644); err != nil {
		return err
	}
	for _, r := range all {
		if err := r.Table(stdout); err != nil {
			return err
		}
	}
	return nil
}

func (o *output) encode(w io.Writer, r results) error {
	switch o.format {
	case formatJSON:
		return report.JSON(w, r)
	case formatBenchstat:
		return r.Benchstat(w)
	case formatCSV:
		return r.CSV(w)
	case formatHDR:
		return r.HDR(w)
	case formatStream:
		return writeStream(w, r.(*report.Run))
	}
	return r.Table(w)
}
