package tcp

import (
	"unsafe"

	"github.com/gotpa/tpa/internal/prefetch"
	"github.com/gotpa/tpa/internal/transport"
)

// hotPart is what every segment needs of an endpoint: its first bytes.
const hotPart = int(unsafe.Offsetof(Endpoint{}.options))

// prefetch asks for what the endpoint points to and the next segment needs: its
// trace, the small chunks of its buffers, and who is told.
func (e *Endpoint) prefetch(d transport.Distance) {
	if !e.mu.TryLock() {
		return
	}
	if d == transport.Near {
		e.in.prefetch()
		e.out.prefetch()
	}
	if e.trace != nil {
		e.trace.Prefetch(d)
	}
	if e.sink != nil {
		e.sink.Prefetch(d)
	}
	e.mu.Unlock()
}

// prefetch asks for the chunk that is kept, with room for a small request.
func (q *buffer) prefetch() {
	if q.small != nil {
		prefetch.Start(q.small, int(unsafe.Sizeof(*q.small))+2*prefetch.Line)
	}
}
