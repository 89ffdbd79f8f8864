package tcp

import "sync"

// Sizes of a buffer's chunks in bytes. A connection keeps its small ones, so
// that requests and replies of that size never ask the pool, until it is idle.
const (
	smallChunk = 512
	largeChunk = 8 << 10
	// draftChunk is for what is read straight into a chunk: as much as one call of
	// the system brings at its best.
	draftChunk = 64 << 10
)

var (
	smalls = sync.Pool{New: func() any {
		s := new(struct {
			chunk
			memory [smallChunk]byte
		})
		s.b = s.memory[:]
		return &s.chunk
	}}
	chunks = sync.Pool{New: func() any { return &chunk{b: make([]byte, largeChunk)} }}
	drafts = sync.Pool{New: func() any { return &chunk{b: make([]byte, draftChunk)} }}
)

// chunk holds the bytes b[r:w].
type chunk struct {
	next *chunk
	r, w int
	b    []byte
}

// A buffer is a queue of bytes. Positions are those in the whole stream.
type buffer struct {
	head, tail *chunk
	// begin and end are the positions of the first byte and behind the last.
	begin, end uint64
	// small is the chunk that is kept, nil before its first use; busy tells whether
	// it is in the queue.
	small *chunk
	busy  bool
	// hint is a chunk and the position of its first byte, from where CopyAt looks.
	hint   *chunk
	hintAt uint64
}

func (q *buffer) len() int { return int(q.end - q.begin) }

// room returns free space at the end, for up to want bytes but at least one.
// What was put there counts after grow.
func (q *buffer) room(want int) []byte {
	t := q.tail
	if t == nil || t.w == len(t.b) {
		t = q.chunk(want)
		if q.tail == nil {
			q.head = t
		} else {
			q.tail.next = t
		}
		q.tail = t
	}
	free := t.b[t.w:]
	return free[:min(want, len(free))]
}

func (q *buffer) grow(n int) {
	q.tail.w += n
	q.end += uint64(n)
}

func (q *buffer) chunk(want int) *chunk {
	if want <= smallChunk && !q.busy {
		if q.small == nil {
			q.small = smalls.Get().(*chunk)
		}
		q.busy = true
		return q.small
	}
	return chunks.Get().(*chunk)
}

func (q *buffer) write(b []byte) {
	for len(b) > 0 {
		n := copy(q.room(len(b)), b)
		q.grow(n)
		b = b[n:]
	}
}

// read moves bytes to b, as many as there are and fit.
func (q *buffer) read(b []byte) (n int) {
	for c := q.head; c != nil && n < len(b); c = q.head {
		k := copy(b[n:], c.b[c.r:c.w])
		n += k
		q.discard(k)
	}
	return n
}

// discard forgets the first n bytes.
func (q *buffer) discard(n int) {
	q.begin += uint64(n)
	for c := q.head; c != nil; c = q.head {
		k := min(n, c.w-c.r)
		c.r += k
		n -= k
		if c.r < c.w {
			return
		}
		q.head = c.next
		if q.head == nil {
			q.tail = nil
		}
		q.release(c)
	}
}

func (q *buffer) release(c *chunk) {
	if c == q.hint {
		q.hint = nil
	}
	if c == q.small {
		c.next, c.r, c.w = nil, 0, 0
		q.busy = false
		return
	}
	c.Return()
}

// shrink gives the chunk back that is kept, unless it is in the queue.
func (q *buffer) shrink() {
	if q.small != nil && !q.busy {
		smalls.Put(q.small) // release has emptied it
		q.small = nil
	}
}

// lend takes the first chunk out of the queue, nil when it is empty or the chunk
// is the one that is kept.
func (q *buffer) lend() *chunk {
	c := q.head
	if c == nil || c == q.small || c.r == c.w {
		return nil
	}
	if c == q.hint {
		q.hint = nil
	}
	if q.head = c.next; q.head == nil {
		q.tail = nil
	}
	c.next = nil
	q.begin += uint64(c.w - c.r)
	return c
}

// draft returns a chunk to be filled by somebody who holds no lock.
func draft() *chunk { return drafts.Get().(*chunk) }

// attach puts the first n bytes of a draft at the end. Few are copied, which saves
// the rest of the chunk.
func (q *buffer) attach(c *chunk, n int) {
	if n < draftChunk/8 {
		q.write(c.b[:n])
		c.Return()
		return
	}
	c.w = n
	if q.tail == nil {
		q.head = c
	} else {
		q.tail.next = c
	}
	q.tail = c
	q.end += uint64(n)
}

// Space is where data of a draft goes.
func (c *chunk) Space() []byte { return c.b }

// Bytes are those that were lent. They may be changed.
func (c *chunk) Bytes() []byte { return c.b[c.r:c.w] }

// Return gives the bytes back, once.
func (c *chunk) Return() {
	c.next, c.r, c.w = nil, 0, 0
	if len(c.b) == draftChunk {
		drafts.Put(c)
		return
	}
	chunks.Put(c)
}

// drop forgets everything.
func (q *buffer) drop() {
	q.discard(q.len())
	q.shrink()
}

// CopyAt copies the bytes at position at into b. They must be there.
func (q *buffer) CopyAt(b []byte, at uint64) {
	c, start := q.head, q.begin
	if q.hint != nil && at >= q.hintAt && q.hintAt >= start {
		c, start = q.hint, q.hintAt
	}
	for len(b) > 0 {
		size := uint64(c.w - c.r)
		if at < start+size {
			q.hint, q.hintAt = c, start
			n := copy(b, c.b[c.r+int(at-start):c.w])
			b, at = b[n:], at+uint64(n)
		}
		c, start = c.next, start+size
	}
}
