package report

import (
	"encoding/json"
	"fmt"
	"io"
)

// JSON writes v, a Run or a Comparison, indented.
func JSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// Read reads a Comparison that JSON wrote.
func Read(r io.Reader) (*Comparison, error) {
	var c Comparison
	if err := json.NewDecoder(r).Decode(&c); err != nil {
		return nil, fmt.Errorf("not the results of compare -o json: %w", err)
	}
	if len(c.Runs) == 0 || len(c.Transports) == 0 {
		return nil, fmt.Errorf("not the results of compare -o json: it holds no runs")
	}
	if c.Rounds > len(c.Runs) { // each gets a mark in a chart
		return nil, fmt.Errorf("not the results of compare -o json: %d rounds, but %d runs", c.Rounds, len(c.Runs))
	}
	for i, r := range c.Runs {
		if r.Workload == "" || r.Transport == "" {
			return nil, fmt.Errorf("not the results of compare -o json: run %d has no workload or no transport", i+1)
		}
	}
	return &c, nil
}
