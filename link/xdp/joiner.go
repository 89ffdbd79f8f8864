package xdp

import "github.com/gotpa/tpa/link/internal/packetsocket"

// A joiner copies frames that arrive in several chunks into one piece. The zero value
// is ready to use. It belongs to the receiving goroutine.
type joiner struct {
	// buffers are memory for the frames of a burst, as many as were ever needed at
	// once; used of them are in use.
	buffers [][]byte
	used    int
	// joining: the last buffer in use has the beginning of a frame. broken: it is of no
	// use, and is waited for the end of.
	joining, broken bool
}

// begin starts a burst: the frames of the last one are no longer needed.
func (j *joiner) begin() {
	if !j.joining {
		j.used = 0
		return
	}
	// The kernel hands over whole frames, but nothing says that it has to.
	j.buffers[0], j.buffers[j.used-1] = j.buffers[j.used-1], j.buffers[0]
	j.used = 1
}

// join adds a part of a frame, behind which more may follow. Without more, it returns
// the frame, which is valid until the next burst, and whether it is sound.
func (j *joiner) join(part []byte, more, sound bool) (frame []byte, ok bool) {
	if !j.joining {
		j.joining, j.broken = true, false
		if j.used == len(j.buffers) {
			j.buffers = append(j.buffers, nil)
		}
		j.buffers[j.used] = j.buffers[j.used][:0]
		j.used++
	}
	b := &j.buffers[j.used-1]
	if !sound || len(*b)+len(part) > packetsocket.MaxFrame {
		j.broken = true
	}
	if !j.broken {
		*b = append(*b, part...)
	}
	j.joining = more
	return *b, !j.broken
}
