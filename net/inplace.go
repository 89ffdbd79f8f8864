package tpanet

import (
	"errors"
	"io"
	"sync"
)

// ReadInPlace waits for data and calls use with it, once, in the memory in which it
// came: there is no copy, but for pieces too small to be worth lending. It returns
// io.EOF after the peer's last byte, a *net.OpError if reading fails, and else what
// use returns.
//
// The memory is use's until it returns, and may be changed meanwhile; what is needed
// later has to be copied. All of it counts as read, whatever use returns. Close does
// not take it away: it ends the calls that wait. No lock is held while use runs, so
// that it may write to the connection, and another goroutine may read what comes next.
//
// With gVisor's TCP, everything is copied once.
func (c *Conn) ReadInPlace(use func(b []byte) error) error {
	loan, err := c.borrow()
	if err == nil && loan != nil {
		defer loan.Return()
		return use(loan.Bytes())
	}
	if err == nil {
		buf := copyBuffers.Get().(*[32 << 10]byte)
		defer copyBuffers.Put(buf)
		var n int
		if n, err = c.read(buf[:]); err == nil {
			return use(buf[:n])
		}
	}
	if err != io.EOF {
		err = c.opError("read", err)
	}
	return err
}

// WriteInPlace calls fill, once, with memory that becomes a part of the send buffer,
// and writes the first n bytes of it, where n is what fill returns: there is no copy.
// It waits for room in the send buffer, as Write does, but after fill; no other write
// gets between the bytes. It returns how many bytes were written, 0 or n, and the error
// of writing, a *net.OpError, or else that of fill. What fill has filled is written
// though it returns an error.
//
// The memory has some kilobytes, whatever TCP has at hand; what does not fit takes
// another call. It is fill's until it returns. No lock is held meanwhile, and Close does
// not take it away.
//
// With gVisor's TCP, everything is copied once.
func (c *Conn) WriteInPlace(fill func(space []byte) (n int, err error)) (int, error) {
	f := fillers.Get().(*filler)
	*f = filler{fill: fill}
	n, err := c.draftFrom(f)
	if err == nil {
		err = f.err
	}
	*f = filler{}
	fillers.Put(f)
	return int(n), err
}

var fillers = sync.Pool{New: func() any { return new(filler) }}

// errFilled is what a fill gets that claims to have filled what it has not got.
var errFilled = errors.New("tpanet: the fill of WriteInPlace returned a number of bytes beyond its space")

// A filler is an io.Reader of what fill fills once.
type filler struct {
	fill func([]byte) (int, error)
	done bool
	err  error
}

// Read implements io.Reader.
func (f *filler) Read(space []byte) (n int, err error) {
	if f.done {
		return 0, io.EOF
	}
	f.done = true
	n, f.err = f.fill(space)
	if n < 0 || n > len(space) {
		n, f.err = 0, errFilled
	}
	return n, io.EOF
}
