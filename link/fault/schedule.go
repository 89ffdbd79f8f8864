package fault

import (
	"time"

	"github.com/gotpa/tpa/link"
)

// A schedule holds frames in the order in which they are due, and those due at
// the same time in the order in which they came. It is a binary heap; package
// container/heap would allocate for each frame.
type schedule struct {
	frames []waiting
	pushed uint64
}

type waiting struct {
	due    time.Time
	order  uint64
	data   []byte
	status link.ChecksumStatus
}

func (w *waiting) before(o *waiting) bool {
	if w.due.Equal(o.due) {
		return w.order < o.order
	}
	return w.due.Before(o.due)
}

func (s *schedule) push(w waiting) {
	w.order = s.pushed
	s.pushed++
	s.frames = append(s.frames, w)
	h := s.frames
	for i := len(h) - 1; i > 0; {
		parent := (i - 1) / 2
		if !h[i].before(&h[parent]) {
			break
		}
		h[i], h[parent] = h[parent], h[i]
		i = parent
	}
}

// pop takes out the first frame; there must be one.
func (s *schedule) pop() {
	h := s.frames
	last := len(h) - 1
	h[0], h[last] = h[last], waiting{}
	h = h[:last]
	s.frames = h
	for i := 0; ; {
		child := 2*i + 1
		if child >= len(h) {
			return
		}
		if right := child + 1; right < len(h) && h[right].before(&h[child]) {
			child = right
		}
		if !h[child].before(&h[i]) {
			return
		}
		h[i], h[child] = h[child], h[i]
		i = child
	}
}
