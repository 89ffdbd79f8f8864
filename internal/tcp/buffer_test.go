package tcp

import (
	"bytes"
	"math/rand/v2"
	"testing"
)

// TestBuffer compares a buffer with the plainest one there is, over random
// operations.
func TestBuffer(t *testing.T) {
	noise := make([]byte, 64<<10)
	for i := range noise {
		noise[i] = byte(rand.Uint32())
	}
	for seed := range uint64(60) {
		r := rand.New(rand.NewPCG(seed, 1))
		some := func(n int) []byte { return noise[r.IntN(len(noise)-n):][:n] }
		var q buffer
		var model []byte
		sent := 0 // where sequential copies are
		greatest := []int{40, 600, 3 * largeChunk}[seed%3]
		for step := range 400 {
			switch op := r.IntN(10); {
			case op < 4:
				b := some(r.IntN(greatest))
				q.write(b)
				model = append(model, b...)
			case op == 4: // what a program hands over piecemeal
				b := q.room(1 + r.IntN(greatest))
				k := r.IntN(len(b) + 1)
				copy(b, some(k))
				model = append(model, b[:k]...)
				q.grow(k)
			case op == 5:
				k := r.IntN(len(model) + 1)
				q.discard(k)
				model = model[k:]
				sent = max(sent-k, 0)
			case op == 6:
				b := make([]byte, r.IntN(len(model)+2))
				n, want := q.read(b), min(len(b), len(model))
				if n != want || !bytes.Equal(b[:n], model[:want]) {
					t.Fatalf("seed %d step %d: read = %d bytes, want the first %d", seed, step, n, want)
				}
				model = model[n:]
				sent = max(sent-n, 0)
			case op == 7 && r.IntN(20) == 0:
				q.drop()
				model, sent = nil, 0
			default: // as a sender does: mostly one after the other, sometimes back
				if r.IntN(4) == 0 {
					sent = r.IntN(len(model) + 1)
				}
				b := make([]byte, min(r.IntN(greatest), len(model)-sent))
				q.CopyAt(b, q.begin+uint64(sent))
				if !bytes.Equal(b, model[sent:sent+len(b)]) {
					t.Fatalf("seed %d step %d: CopyAt of %d bytes at %d of %d is wrong", seed, step, len(b), sent, len(model))
				}
				sent += len(b)
			}
			if q.len() != len(model) {
				t.Fatalf("seed %d step %d: len = %d, want %d", seed, step, q.len(), len(model))
			}
			if q.len() == 0 && q.tail != nil && q.tail.r > 0 {
				t.Fatalf("seed %d step %d: an empty buffer holds a chunk that was used", seed, step)
			}
		}
		got := make([]byte, len(model))
		q.CopyAt(got, q.begin)
		if !bytes.Equal(got, model) {
			t.Fatalf("seed %d: what is left differs", seed)
		}
		q.drop()
		if q.head != nil || q.tail != nil || q.busy {
			t.Fatalf("seed %d: an empty buffer still holds chunks", seed)
		}
	}
}
