package xdp

import (
	"bytes"
	"testing"

	"github.com/gotpa/tpa/link/internal/packetsocket"
)

func TestJoiner(t *testing.T) {
	type part struct {
		data        string
		more, sound bool
	}
	burst := []part{
		{"one ", true, true}, {"frame, ", true, true}, {"three parts", false, true},
		{"damaged", true, false}, {" and its end", false, true},
		{"another ", true, true}, {"one", false, true},
		{"that goes on ", true, true},
	}
	next := []part{{"in the next burst", false, true}, {"last ", true, true}, {"one", false, true}}
	var j joiner
	run := func(parts []part) (got [][]byte) {
		j.begin()
		for _, p := range parts {
			frame, ok := j.join([]byte(p.data), p.more, p.sound)
			if !p.more && ok {
				got = append(got, frame)
			}
		}
		return got
	}
	// Twice: memory is used again.
	for range 2 {
		if got, want := string(bytes.Join(run(burst), []byte("|"))), "one frame, three parts|another one"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		if got, want := string(bytes.Join(run(next), []byte("|"))), "that goes on in the next burst|last one"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	if n := testing.AllocsPerRun(10, func() { j.begin(); j.join(nil, true, true); j.join(nil, false, true) }); n != 0 {
		t.Errorf("%v allocations for a frame", n)
	}

	// More than any frame can have.
	j.begin()
	for range packetsocket.MaxFrame/1000 + 1 {
		j.join(make([]byte, 1000), true, true)
	}
	if frame, ok := j.join(nil, false, true); ok || len(frame) > packetsocket.MaxFrame {
		t.Errorf("a frame of %d bytes and more was taken", len(frame))
	}
}
