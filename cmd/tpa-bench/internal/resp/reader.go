package resp

import (
	"bytes"
	"fmt"
	"io"
)

// Bounds of one command. A peer that goes past them is cut off.
const (
	MaxArgs    = 64 << 10 // arguments
	MaxCommand = 64 << 20 // bytes, with all framing
	maxLine    = 64 << 10 // bytes of an inline command, as in Redis

	minBuffer  = 16 << 10 // bytes of a fresh buffer
	keepBuffer = 1 << 20  // bytes that an idle connection may keep
)

// ProtocolError is a breach of the protocol. The connection cannot go on.
type ProtocolError string

func (e ProtocolError) Error() string { return "Protocol error: " + string(e) }

// Reader takes commands from a connection: arrays of bulk strings, and inline
// commands of words between blanks.
type Reader struct {
	src  io.Reader
	buf  []byte
	r, w int // buf[r:w] is unread; r is the start of the current command

	// The current command, as far as it has been parsed.
	pos   int    // where parsing goes on, from r
	open  int    // arguments still missing; -1: the command has not begun
	bulk  int    // length of the argument that has begun; -1: none has
	spans []span // arguments found, from r

	args [][]byte
}

type span struct{ from, to int }

// NewReader returns a Reader over src.
func NewReader(src io.Reader) *Reader {
	return &Reader{src: src, buf: make([]byte, minBuffer), open: -1, bulk: -1}
}

// Parse returns the next whole command in the buffer, with at least one
// argument, and whether there was one. The arguments are valid until the next
// call of Parse or Fill. The error is a ProtocolError.
func (r *Reader) Parse() (args [][]byte, ok bool, err error) {
	for {
		if r.open < 0 {
			begun, err := r.begin()
			if !begun || err != nil {
				return nil, false, err
			}
		}
		whole, err := r.arguments()
		if !whole || err != nil {
			return nil, false, err
		}
		args = r.args[:0]
		for _, s := range r.spans {
			args = append(args, r.buf[r.r+s.from:r.r+s.to:r.r+s.to])
		}
		r.args = args
		r.r += r.pos
		r.pos, r.open, r.spans = 0, -1, r.spans[:0]
		if len(args) > 0 { // else an empty line or array, which asks for nothing
			return args, true, nil
		}
	}
}

// begin reads the line that a command starts with.
func (r *Reader) begin() (bool, error) {
	line, ok := r.line()
	if !ok {
		if r.w-r.r > maxLine {
			return false, ProtocolError("too big inline request")
		}
		return false, nil
	}
	if len(line) > 0 && line[0] == '*' {
		n, ok := Int(line[1:])
		if !ok || n > MaxArgs {
			return false, ProtocolError("invalid multibulk length")
		}
		r.open = max(int(n), 0)
		return true, nil
	}
	if r.pos-1 > maxLine { // without the newline
		return false, ProtocolError("too big inline request")
	}
	start := 0 // the line begins at r.r
	for start < len(line) {
		for start < len(line) && blank(line[start]) {
			start++
		}
		end := start
		for end < len(line) && !blank(line[end]) {
			end++
		}
		if end > start {
			r.spans = append(r.spans, span{start, end})
		}
		start = end
	}
	r.open = 0
	return true, nil
}

// arguments reads the bulk strings of the current command.
func (r *Reader) arguments() (bool, error) {
	for r.open > 0 {
		if r.bulk < 0 {
			start := r.pos
			line, ok := r.line()
			size := r.w - r.r - start
			if ok {
				size = r.pos - start - 1 // without the newline
			}
			if size > 32 { // longer than any length, however it was cut
				return false, ProtocolError("too big bulk count string")
			}
			if !ok {
				return false, nil
			}
			if len(line) == 0 || line[0] != '$' {
				return false, ProtocolError("expected '$'")
			}
			n, ok := Int(line[1:])
			if !ok || n < 0 || n > MaxCommand {
				return false, ProtocolError("invalid bulk length")
			}
			r.bulk = int(n)
		}
		end := r.pos + r.bulk
		if end+2 > MaxCommand {
			return false, ProtocolError(fmt.Sprintf("command of more than %d bytes", MaxCommand))
		}
		if r.r+end+2 > r.w {
			return false, nil
		}
		if r.buf[r.r+end] != '\r' || r.buf[r.r+end+1] != '\n' {
			return false, ProtocolError("expected CRLF after an argument")
		}
		r.spans = append(r.spans, span{r.pos, end})
		r.pos, r.bulk = end+2, -1
		r.open--
	}
	return true, nil
}

// line takes the next line from the buffer, without its ending.
func (r *Reader) line() ([]byte, bool) {
	rest := r.buf[r.r+r.pos : r.w]
	i := bytes.IndexByte(rest, '\n')
	if i < 0 {
		return nil, false
	}
	r.pos += i + 1
	return bytes.TrimSuffix(rest[:i], []byte{'\r'}), true
}

// Fill reads once from the connection. It returns the connection's error, and
// io.ErrUnexpectedEOF for an end within a command.
func (r *Reader) Fill() error {
	switch {
	case r.r == r.w:
		r.r, r.w = 0, 0
		if len(r.buf) > keepBuffer {
			r.buf = make([]byte, minBuffer)
		}
	case r.w == len(r.buf) && r.r > 0:
		r.w = copy(r.buf, r.buf[r.r:r.w])
		r.r = 0
	}
	if r.w == len(r.buf) { // one command fills it: grow as bytes really come
		r.buf = append(r.buf, make([]byte, len(r.buf))...)
	}
	n, err := r.src.Read(r.buf[r.w:])
	r.w += n
	if n > 0 {
		return nil
	}
	if err == io.EOF && r.w > r.r {
		return io.ErrUnexpectedEOF
	}
	return err
}

func blank(c byte) bool { return c == ' ' || c == '\t' || c == '\r' }

// Int reads a decimal number with an optional sign, as commands and replies
// hold it.
func Int(b []byte) (n int64, ok bool) {
	negative := false
	if len(b) > 0 && (b[0] == '-' || b[0] == '+') {
		negative = b[0] == '-'
		b = b[1:]
	}
	if len(b) == 0 || len(b) > 19 { // 19 digits pass 1<<63 but not 1<<64
		return 0, false
	}
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int64(c-'0')
	}
	if n < 0 {
		return 0, false
	}
	if negative {
		n = -n
	}
	return n, true
}
