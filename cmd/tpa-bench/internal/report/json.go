package report

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/gotpa/tpa/cmd/tpa-bench/internal/machine"
)

// JSON writes v, a Run or a Comparison, indented.
func JSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// UnmarshalJSON leaves what older versions did not write at -1, which is not known.
func (r *Run) UnmarshalJSON(b []byte) error {
	type plain Run
	p := plain{ClientSystem: -1, ServerSystem: -1, Interrupts: -1, ClientWork: -1, ServerWork: -1}
	if err := json.Unmarshal(b, &p); err != nil {
		return err
	}
	*r = Run(p)
	return nil
}

// Read reads what JSON wrote: Comparisons, and Runs, each of which becomes a
// Comparison of one round.
func Read(r io.Reader) (all []*Comparison, err error) {
	const wrong = "not the results of run or compare -o json"
	for dec := json.NewDecoder(r); ; {
		var c struct {
			Comparison
			Transport string `json:"transport"` // a Run has it
		}
		var raw json.RawMessage
		if err := dec.Decode(&raw); errors.Is(err, io.EOF) && len(all) > 0 {
			return all, nil
		} else if err != nil {
			return nil, fmt.Errorf("%s: %w", wrong, err)
		}
		if err := json.Unmarshal(raw, &c); err != nil {
			return nil, fmt.Errorf("%s: %w", wrong, err)
		}
		if c.Transport != "" {
			var run Run
			if err := json.Unmarshal(raw, &run); err != nil {
				return nil, fmt.Errorf("%s: %w", wrong, err)
			}
			if run.Workload == "" {
				return nil, errors.New(wrong + ": a run without a workload")
			}
			run.Round = max(run.Round, 1)
			var facts machine.Facts // of a run by an older version: none
			if run.Machine != nil {
				facts, run.Machine = *run.Machine, nil // a comparison has them
			}
			all = append(all, NewComparison([]Run{run}, 1, facts))
			continue
		}
		if len(c.Runs) == 0 || len(c.Transports) == 0 {
			return nil, errors.New(wrong + ": it holds no runs")
		}
		if c.Rounds > len(c.Runs) { // each gets a mark in a chart
			return nil, fmt.Errorf("%s: %d rounds, but %d runs", wrong, c.Rounds, len(c.Runs))
		}
		for i, r := range c.Runs {
			if r.Workload == "" || r.Transport == "" {
				return nil, fmt.Errorf("%s: run %d has no workload or no transport", wrong, i+1)
			}
		}
		all = append(all, &c.Comparison)
	}
}
