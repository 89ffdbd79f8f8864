package server

import (
	"crypto/sha256"
	"errors"
	"io"
	"net"

	tpanet "github.com/gotpa/tpa/net"
)

// Buffers start small, for thousands of quiet connections, and double while
// reads fill them.
const (
	firstBuffer = 4 << 10   // bytes
	lastBuffer  = 256 << 10 // bytes
)

// echo sends back what it reads. It closes once the peer has closed its half
// and everything is sent back.
func echo(conn net.Conn) error {
	return drain(conn, func(p []byte) error {
		_, err := conn.Write(p)
		return err
	})
}

// openEcho is echo by callbacks.
func openEcho(c *tpanet.CallbackConn) tpanet.Callbacks {
	return &echoer{conn: c, buf: make([]byte, firstBuffer)}
}

type echoer struct {
	conn    *tpanet.CallbackConn
	buf     []byte
	pending []byte // of buf: what found no room
	full    bool   // the last read filled buf
}

// Data sends back what has arrived. While that finds no room it reads no more.
func (e *echoer) Data() {
	for {
		if len(e.pending) > 0 {
			n, err := e.conn.TryWrite(e.pending)
			if e.pending = e.pending[n:]; err != nil {
				e.failed(err)
				return
			}
		}
		if e.full && len(e.buf) < lastBuffer {
			e.buf = make([]byte, 2*len(e.buf))
		}
		n, err := e.conn.TryRead(e.buf)
		if err != nil {
			e.failed(err)
			return
		}
		e.pending, e.full = e.buf[:n], n == len(e.buf)
	}
}

func (e *echoer) failed(err error) {
	if err != tpanet.ErrWouldBlock {
		e.conn.Close()
	}
}

// Closed implements tpanet.Callbacks.
func (*echoer) Closed() {}

// discard reads until the peer has closed its half.
func discard(conn net.Conn) error {
	return drain(conn, func([]byte) error { return nil })
}

// digest reads until the peer has closed its half, and answers by the SHA-256 of what
// it read.
func digest(conn net.Conn) error {
	sum := sha256.New()
	return drainThen(conn, func(p []byte) error {
		sum.Write(p)
		return nil
	}, func() error {
		_, err := conn.Write(sum.Sum(nil))
		return err
	})
}

func drain(conn net.Conn, use func([]byte) error) error {
	return drainThen(conn, use, func() error { return nil })
}

// drainThen uses what it reads until the peer has closed its half, and then calls end
// before it closes.
func drainThen(conn net.Conn, use func([]byte) error, end func() error) (err error) {
	defer func() { err = errors.Join(err, conn.Close()) }()
	buf := make([]byte, firstBuffer)
	for {
		n, err := conn.Read(buf)
		if n > 0 {
			if err := use(buf[:n]); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return end()
		}
		if err != nil {
			return err
		}
		if n == len(buf) && n < lastBuffer {
			buf = make([]byte, 2*n)
		}
	}
}
