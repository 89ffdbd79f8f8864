package report

import (
	"bytes"
	"encoding/json"
	"io"
	"testing"
	"time"
)

// FuzzRead feeds files of results, and shows those that are read in every form.
func FuzzRead(f *testing.F) {
	c := comparison(f)
	for i := range c.Runs {
		c.Runs[i].Histogram = "" // most of the file
	}
	var whole bytes.Buffer
	if err := JSON(&whole, c); err != nil {
		f.Fatal(err)
	}
	f.Add(whole.Bytes())
	f.Add([]byte(`{"runs":[{"transport":"kernel"}],"transports":{"kernel":{"rps":1e308,"p99_us":-1}}}`))
	f.Add([]byte(`{"rounds":3000000,"runs":[{"transport":"kernel","workload":"get"}],"transports":{"kernel":{}}}`))
	f.Add([]byte(`{"runs":[{}],"transports":{"":{}}}`))
	// Small, and with curves to draw.
	for i := range c.Runs {
		c.Runs[i].Histogram = NewRun("accel", result(f, 10, 100*time.Microsecond)).Histogram
	}
	small, err := json.Marshal(Comparison{Setting: c.Setting, Rounds: 2, Transports: c.Transports, Runs: []Run{c.Runs[0], c.Runs[2]}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(small)
	f.Fuzz(func(t *testing.T, file []byte) {
		all, err := Read(bytes.NewReader(file))
		if err != nil {
			return
		}
		Diff(io.Discard, all, all)
		for _, c := range all {
			c.Table(io.Discard)
			c.Benchstat(io.Discard)
			c.CSV(io.Discard)
			if len(file) < 8192 {
				HTML(io.Discard, c) // curves take their time
			}
			var again bytes.Buffer
			if err := JSON(&again, c); err != nil {
				t.Fatalf("what was read cannot be written: %v", err)
			}
			if _, err := Read(&again); err != nil {
				t.Errorf("what was written cannot be read: %v", err)
			}
		}
	})
}
