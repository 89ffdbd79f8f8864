package tpanet

import (
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"sync"

	"gvisor.dev/gvisor/pkg/tcpip"
)

// copyBuffers hold what cannot pass directly. 32 KB is what io.Copy takes.
var copyBuffers = sync.Pool{New: func() any { return new([32 << 10]byte) }}

// These hide a Conn's short cuts from io.Copy, which would come back to them.
type (
	onlyReader struct{ io.Reader }
	onlyWriter struct{ io.Writer }
)

// ReadFrom writes what r reads until io.EOF. Regular files, alone or in an
// io.LimitedReader, are read straight into the stack's buffers; another Conn is
// spliced, copied once from the segments of the one to those of the other;
// *net.Buffers are gathered. Other sources write to the connection if they have
// WriteTo, or read into memory that becomes the stack's. Only with gVisor's TCP
// does that pass through a pooled buffer.
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
	src := &source{r: r}
	for left := known(r); left > 0; {
		k, err := c.writeDirect(src, int(min(left, maxChunk)))
		n += k
		left -= k
		if errors.Is(err, io.EOF) {
			return n, nil // shorter than it looked
		}
		if err != nil {
			return n, err
		}
	}
	if d, ok := c.ep.(drafter); ok {
		if _, writes := r.(io.WriterTo); !writes {
			k, err := c.draftFrom(r, d)
			return n + k, err
		}
	}
	buf := copyBuffers.Get().(*[32 << 10]byte)
	defer copyBuffers.Put(buf)
	k, err := io.CopyBuffer(onlyWriter{c}, r, buf[:])
	return n + k, err
}

// A drafter is an endpoint that hands out memory to be filled and takes it over
// with WriteDraft, unless that fails.
type drafter interface {
	Draft() interface {
		Space() []byte
		Return()
	}
	WriteDraft(d interface {
		Space() []byte
		Return()
	}, n int) tcpip.Error
}

// draftFrom is ReadFrom without a copy. No lock is held while r is read, which may
// take its time.
func (c *Conn) draftFrom(r io.Reader, d drafter) (read int64, err error) {
	for {
		draft := d.Draft()
		n, rerr := r.Read(draft.Space())
		if n > 0 {
			err = c.writeDraft(draft, n, d)
		} else {
			draft.Return()
		}
		if err != nil {
			return read, err
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

// writeDraft writes the first n bytes of a draft, which it takes over.
func (c *Conn) writeDraft(draft interface {
	Space() []byte
	Return()
}, n int, d drafter) error {
	c.wr.mu.Lock()
	defer c.wr.mu.Unlock()
	err := c.wr.err()
	for err == nil {
		terr := d.WriteDraft(draft, n)
		if terr == nil {
			c.wrote(n)
			return nil
		}
		if err = c.writeError(terr); err == nil {
			err = c.writable()
		}
	}
	draft.Return()
	return c.opError("write", err)
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

// writeDirect writes up to size bytes that src reads straight into the stack's
// buffer. It returns less than it could take, or the error of src, only when src
// did.
func (c *Conn) writeDirect(src *source, size int) (int64, error) {
	c.wr.mu.Lock()
	defer c.wr.mu.Unlock()
	if err := c.wr.err(); err != nil {
		return 0, c.opError("write", err)
	}
	*src = source{r: src.r, size: size}
	for {
		// Not atomic: the endpoint gives its locks away while it reads.
		n, terr := c.ep.Write(src, tcpip.WriteOptions{})
		switch {
		case src.err != nil:
			// The endpoint drops a chunk that is not filled.
			k, err := c.write(src.kept)
			if err != nil {
				return int64(k), c.opError("write", err)
			}
			return int64(k), src.err
		case terr == nil:
			c.wrote(int(n))
			if int(n) < src.n {
				// SetWriteBuffer took away the room meanwhile.
				return n, io.ErrShortWrite
			}
			return n, nil
		}
		err := c.writeError(terr)
		if err == nil {
			err = c.writable()
		}
		if err != nil {
			return 0, c.opError("write", err)
		}
	}
}

// A source hands size bytes of r to the endpoint, which reads them into a chunk
// of its own. The endpoint has no notion of a chunk that ends early: it fails,
// and what was read so far is in kept.
type source struct {
	r    io.Reader
	size int
	n    int    // bytes read so far
	buf  []byte // what was read so far, in the endpoint's chunk
	err  error  // why it ended early
	kept []byte
}

func (s *source) Len() int { return s.size }

func (s *source) Read(b []byte) (int, error) {
	if len(b) == 0 { // asked before each read, whether there is an end
		return 0, nil
	}
	n, err := s.r.Read(b)
	if s.n == 0 {
		s.buf = b
	}
	s.n += n
	if err == nil || s.n == s.size || n == len(b) {
		return n, nil // the chunk is full, or more may come
	}
	s.err = err
	s.kept = append([]byte(nil), s.buf[:s.n]...)
	return n, errShort
}

// errShort makes the endpoint give up a chunk. It would ask again after io.EOF.
var errShort = errors.New("short source")

// splice writes what src reads until io.EOF, or as much as limit.
//
// The endpoint of c reads from that of src while its own locks are free: two
// goroutines that splice a pair of connections in both directions do not block
// each other. Reading the other way around, writing to c from inside src's Read,
// would.
func (c *Conn) splice(src *Conn, limit *io.LimitedReader) (int64, error) {
	src.rd.mu.Lock()
	defer src.rd.mu.Unlock()
	from := &source{r: unlockedReader{src}}
	var written int64
	for limit == nil || limit.N > 0 {
		ready, err := src.awaitData()
		if err == io.EOF {
			return written, nil
		}
		if err != nil {
			return written, err
		}
		size := min(ready, maxChunk)
		if limit != nil {
			size = int(min(int64(size), limit.N))
		}
		n, err := c.writeDirect(from, size)
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

// awaitData waits until the connection has data, and tells how much. rd.mu is
// held.
func (c *Conn) awaitData() (int, error) {
	for {
		if err := c.readable(); err != nil {
			return 0, err
		}
		if n, terr := c.ep.GetSockOptInt(tcpip.ReceiveQueueSizeOption); terr == nil && n > 0 {
			return n, nil
		}
		// Reading into nothing fails in this way when there is something after all.
		c.dst = nil
		_, terr := c.ep.Read(&c.dst, tcpip.ReadOptions{})
		if _, ok := terr.(*tcpip.ErrBadBuffer); ok {
			continue
		}
		if err := c.readError(terr); err != nil {
			return 0, spliceError(err)
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

// An unlockedReader reads what awaitData found. rd.mu is held.
type unlockedReader struct{ c *Conn }

func (u unlockedReader) Read(b []byte) (int, error) {
	c := u.c
	c.dst = b
	res, terr := c.ep.Read(&c.dst, tcpip.ReadOptions{})
	c.dst = nil
	if res.Count > 0 {
		c.received(res.Count)
		return res.Count, nil
	}
	if err := c.readError(terr); err != nil {
		return 0, err
	}
	return 0, io.ErrNoProgress // not reached: nobody else reads
}

// WriteTo writes to w what the connection reads until io.EOF. Another Conn is
// spliced, and a writer that has ReadFrom reads into its own memory. Others get
// the memory in which the data came, where the TCP lends it: ours does, gVisor's
// locks the connection while it is looked at, and w may take its time, so that
// there the data passes through a pooled buffer.
func (c *Conn) WriteTo(w io.Writer) (n int64, err error) {
	if l, ok := c.ep.(lender); ok && !reads(w) {
		n, err = c.lendTo(w, l)
	} else {
		buf := copyBuffers.Get().(*[32 << 10]byte)
		defer copyBuffers.Put(buf)
		n, err = io.CopyBuffer(w, onlyReader{c}, buf[:])
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

// A lender is an endpoint that gives received data away in the memory where it
// lies, until Return. nil without an error means that there is little, which is
// better copied.
type lender interface {
	Lend() (interface {
		Bytes() []byte
		Return()
	}, tcpip.Error)
}

// lendTo is WriteTo without a copy.
func (c *Conn) lendTo(w io.Writer, l lender) (written int64, err error) {
	var buf *[32 << 10]byte // for what is not lent
	defer func() {
		if buf != nil {
			copyBuffers.Put(buf)
		}
	}()
	for {
		loan, err := c.borrow(l)
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
func (c *Conn) borrow(l lender) (interface {
	Bytes() []byte
	Return()
}, error) {
	c.rd.mu.Lock()
	defer c.rd.mu.Unlock()
	for {
		if err := c.readable(); err != nil {
			return nil, err
		}
		loan, terr := l.Lend()
		if terr == nil {
			if loan != nil {
				c.received(len(loan.Bytes()))
			}
			return loan, nil
		}
		if err := c.readError(terr); err != nil {
			return nil, err
		}
	}
}

// WriteBuffers writes the buffers as one stream, filling segments across their
// borders, and consumes them. Use it where package net would use writev: the
// method WriteTo of net.Buffers knows only package net's own connections and
// calls Write for each buffer of others.
func (c *Conn) WriteBuffers(bufs *net.Buffers) (int64, error) {
	c.wr.mu.Lock()
	defer c.wr.mu.Unlock()
	n, err := c.writeBuffers(bufs)
	c.wrote(int(n))
	if err != nil {
		err = c.opError("writev", err)
	}
	return n, err
}

func (c *Conn) writeBuffers(bufs *net.Buffers) (int64, error) {
	if err := c.wr.err(); err != nil {
		return 0, err
	}
	g := &gather{bufs: bufs}
	for _, b := range *bufs {
		g.left += len(b)
	}
	var n int64
	for {
		k, terr := c.ep.Write(g, tcpip.WriteOptions{Atomic: true})
		n += k
		if terr == nil {
			if g.left == 0 {
				return n, nil
			}
			continue
		}
		err := c.writeError(terr)
		if err == nil && g.left == 0 {
			return n, nil
		}
		if err == nil {
			err = c.writable()
		}
		if err != nil {
			if sys, ok := errors.AsType[*os.SyscallError](err); ok {
				err = os.NewSyscallError("writev", sys.Err)
			}
			return n, err
		}
	}
}

// A gather hands several buffers to the endpoint as one.
type gather struct {
	bufs *net.Buffers
	left int
}

func (g *gather) Len() int { return min(g.left, maxChunk) }

func (g *gather) Read(b []byte) (int, error) {
	n, _ := g.bufs.Read(b)
	g.left -= n
	return n, nil
}
