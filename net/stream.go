package tpanet

import (
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"sync"

	"github.com/gotpa/tpa/internal/transport"
)

// copyBuffers hold what cannot pass directly. 32 KB is what io.Copy takes.
var copyBuffers = sync.Pool{New: func() any { return new([32 << 10]byte) }}

// These hide a Conn's ReadFrom and WriteTo from io.Copy, which would come back to them.
type (
	onlyReader struct{ io.Reader }
	onlyWriter struct{ io.Writer }
)

// ReadFrom writes what r reads until io.EOF, read into memory that becomes the
// stack's. Another Conn is spliced, copied once from the memory of the one to that
// of the other; *net.Buffers are gathered. What has a WriteTo and is no regular
// file writes to the connection itself. Only with gVisor's TCP is all that copied
// once more.
func (c *Conn) ReadFrom(r io.Reader) (int64, error) {
	n, err := c.readFrom(r)
	if err != nil {
		err = c.opError("readfrom", err)
	}
	return n, err
}

func (c *Conn) readFrom(r io.Reader) (int64, error) {
	switch src := r.(type) {
	case *net.Buffers:
		return c.WriteBuffers(src)
	case *Conn:
		return c.splice(src, nil)
	case onlyReader: // io.Copy(c, src) comes through src.WriteTo
		if src, ok := src.Reader.(*Conn); ok {
			return c.splice(src, nil)
		}
	case *io.LimitedReader:
		if conn, ok := src.R.(*Conn); ok {
			return c.splice(conn, src)
		}
	}
	var n int64
	for left := known(r); left > 0; {
		k, err := c.writeKnown(r, left)
		n += k
		left -= k
		if err == io.EOF {
			return n, nil // shorter than it looked
		}
		if err != nil {
			return n, err
		}
	}
	if _, writes := r.(io.WriterTo); writes {
		k, err := io.Copy(onlyWriter{c}, r)
		return n + k, err
	}
	k, err := c.draftFrom(r)
	return n + k, err
}

// draftFrom is ReadFrom of what may take its time to be read: no lock is held
// meanwhile.
func (c *Conn) draftFrom(r io.Reader) (read int64, err error) {
	for {
		draft := c.ep.Draft()
		n, rerr := r.Read(draft.Space())
		if n > 0 {
			if err = c.wr.lock(); err == nil {
				err = c.writeDraftLocked(draft, n)
				c.wr.mu.Unlock()
			} else {
				draft.Return()
			}
		} else {
			draft.Return()
		}
		if err != nil {
			return read, c.opError("write", err)
		}
		read += int64(max(n, 0))
		if rerr == io.EOF {
			return read, nil
		}
		if rerr != nil {
			return read, rerr
		}
	}
}

// writeKnown writes up to limit bytes that r has ready. It reads nothing before
// there is room for it, so that nothing is lost when none comes.
func (c *Conn) writeKnown(r io.Reader, limit int64) (int64, error) {
	if err := c.wr.lock(); err != nil {
		return 0, c.opError("write", err)
	}
	defer c.wr.mu.Unlock()
	if err := c.roomLocked(); err != nil {
		return 0, c.opError("write", err)
	}
	draft := c.ep.Draft()
	space := draft.Space()
	n, rerr := r.Read(space[:min(limit, int64(len(space)))])
	if n <= 0 {
		draft.Return()
		return 0, rerr
	}
	if err := c.writeDraftLocked(draft, n); err != nil {
		return 0, c.opError("write", err)
	}
	return int64(n), rerr
}

// roomLocked waits until there is room to write. wr.mu is held.
func (c *Conn) roomLocked() error {
	err := c.wr.err()
	for err == nil {
		if _, err = c.ep.Write(nil); err == nil {
			return nil
		}
		if err = c.writeErrorLocked(err); err == nil {
			err = c.writableLocked()
		}
	}
	return err
}

// writeDraftLocked writes the first n bytes of a draft, which it takes over. wr.mu is
// held.
func (c *Conn) writeDraftLocked(draft transport.Draft, n int) error {
	err := c.wr.err()
	for err == nil {
		if err = c.ep.WriteDraft(draft, n); err == nil {
			c.bytesWritten.Add(uint64(n))
			return nil
		}
		if err = c.writeErrorLocked(err); err == nil {
			err = c.writableLocked()
		}
	}
	draft.Return()
	return err
}

// known is how many bytes are sure to come from r without waiting, as far as
// that can be told: the rest of a regular file.
func known(r io.Reader) int64 {
	limit := int64(-1)
	if l, ok := r.(*io.LimitedReader); ok {
		r, limit = l.R, l.N
	}
	file, ok := r.(interface {
		io.Seeker
		Stat() (fs.FileInfo, error)
	})
	if !ok {
		return 0
	}
	info, err := file.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return 0
	}
	at, err := file.Seek(0, io.SeekCurrent)
	if err != nil {
		return 0
	}
	left := max(info.Size()-at, 0)
	if limit >= 0 {
		left = min(left, limit)
	}
	return left
}

// splice writes what src reads until io.EOF, or as much as limit.
//
// No lock of one endpoint is held while the other is asked: two goroutines that
// splice a pair of connections in both directions do not block each other.
func (c *Conn) splice(src *Conn, limit *io.LimitedReader) (int64, error) {
	if err := src.rd.lock(); err != nil {
		return 0, err
	}
	defer src.rd.mu.Unlock()
	src.spliced.Add(1)
	defer src.spliced.Add(-1)
	var written int64
	for limit == nil || limit.N > 0 {
		err := src.awaitDataLocked()
		if err == io.EOF {
			return written, nil
		}
		if err != nil {
			return written, err
		}
		most := int64(1 << 62)
		if limit != nil {
			most = limit.N
		}
		n, err := c.writeKnown(lockedReader{src}, most)
		written += n
		if limit != nil {
			limit.N -= n
		}
		if err != nil {
			return written, spliceError(err)
		}
	}
	return written, nil
}

// awaitDataLocked waits until there is data to read. rd.mu is held.
func (c *Conn) awaitDataLocked() error {
	for {
		if err := c.readableLocked(); err != nil {
			return err
		}
		_, _, err := c.ep.Read(nil)
		if err == nil {
			return nil
		}
		if err := c.readErrorLocked(err); err != nil {
			return spliceError(err)
		}
	}
}

// spliceError is err as package net reports it, which splices in one call.
func spliceError(err error) error {
	if op, ok := errors.AsType[*net.OpError](err); ok {
		err = op.Err
	}
	if sys, ok := errors.AsType[*os.SyscallError](err); ok {
		return os.NewSyscallError("splice", sys.Err)
	}
	return err
}

// A lockedReader reads what awaitDataLocked found. rd.mu is held.
type lockedReader struct{ c *Conn }

func (u lockedReader) Read(b []byte) (int, error) {
	n, _, err := u.c.ep.Read(b)
	if n > 0 {
		u.c.bytesRead.Add(uint64(n))
		return n, nil
	}
	if err := u.c.readErrorLocked(err); err != nil {
		return 0, err
	}
	return 0, io.ErrNoProgress // not reached: nobody else reads
}

// WriteTo writes to w what the connection reads until io.EOF. Another Conn is
// spliced, and a writer that has ReadFrom reads into its own memory. Others get
// the memory in which the data came.
func (c *Conn) WriteTo(w io.Writer) (n int64, err error) {
	if reads(w) {
		n, err = w.(io.ReaderFrom).ReadFrom(onlyReader{c})
	} else {
		n, err = c.lendTo(w)
	}
	if err != nil {
		err = c.opError("writeto", err)
	}
	return n, err
}

// reads tells whether w has a ReadFrom that is worth calling: those of files and
// of package net's connections make a buffer to copy through.
func reads(w io.Writer) bool {
	switch w.(type) {
	case *os.File, *net.TCPConn, *net.UnixConn:
		return false
	}
	_, ok := w.(io.ReaderFrom)
	return ok
}

// lendTo is WriteTo without a copy.
func (c *Conn) lendTo(w io.Writer) (written int64, err error) {
	var buf *[32 << 10]byte // for what is not lent
	defer func() {
		if buf != nil {
			copyBuffers.Put(buf)
		}
	}()
	for {
		loan, err := c.borrow()
		var b []byte
		switch {
		case err != nil:
		case loan != nil:
			b = loan.Bytes()
		default:
			if buf == nil {
				buf = copyBuffers.Get().(*[32 << 10]byte)
			}
			var n int
			n, err = c.read(buf[:])
			b = buf[:n]
		}
		if err == io.EOF {
			return written, nil
		}
		if err != nil {
			return written, c.opError("read", err)
		}
		n, err := w.Write(b)
		if loan != nil {
			loan.Return()
		}
		written += int64(min(max(n, 0), len(b)))
		if err == nil && n < len(b) {
			err = io.ErrShortWrite
		}
		if err != nil {
			return written, err
		}
	}
}

// borrow waits for data.
func (c *Conn) borrow() (transport.Loan, error) {
	if err := c.rd.lock(); err != nil {
		return nil, err
	}
	defer c.rd.mu.Unlock()
	for {
		if err := c.readableLocked(); err != nil {
			return nil, err
		}
		loan, err := c.ep.Lend()
		if err == nil {
			if loan != nil {
				c.bytesRead.Add(uint64(len(loan.Bytes())))
			}
			return loan, nil
		}
		if err := c.readErrorLocked(err); err != nil {
			return nil, err
		}
	}
}

// WriteBuffers writes the buffers as one stream, filling segments across their
// borders, and consumes them. Use it where package net would use writev: the
// method WriteTo of net.Buffers knows only package net's own connections and
// calls Write for each buffer of others.
func (c *Conn) WriteBuffers(bufs *net.Buffers) (int64, error) {
	if err := c.wr.lock(); err != nil {
		return 0, c.opError("writev", err)
	}
	defer c.wr.mu.Unlock()
	n, err := c.writeBuffersLocked(bufs)
	c.bytesWritten.Add(uint64(n))
	if err != nil {
		err = c.opError("writev", err)
	}
	return n, err
}

func (c *Conn) writeBuffersLocked(bufs *net.Buffers) (int64, error) {
	if err := c.wr.err(); err != nil {
		return 0, err
	}
	left := 0
	for _, b := range *bufs {
		left += len(b)
	}
	var n int64
	for {
		k, err := c.ep.Writev(*bufs)
		consume(bufs, k)
		n += int64(k)
		left -= k
		if err != nil {
			err = c.writeErrorLocked(err)
			if err == nil && left > 0 {
				err = c.writableLocked()
			}
		}
		if err != nil {
			if sys, ok := errors.AsType[*os.SyscallError](err); ok {
				err = os.NewSyscallError("writev", sys.Err)
			}
			return n, err
		}
		if left == 0 {
			return n, nil
		}
	}
}

// consume drops the first n bytes, and buffers that are empty then.
func consume(bufs *net.Buffers, n int) {
	for len(*bufs) > 0 {
		b := (*bufs)[0]
		if len(b) > n {
			(*bufs)[0] = b[n:]
			return
		}
		n -= len(b)
		(*bufs)[0] = nil
		*bufs = (*bufs)[1:]
	}
}
