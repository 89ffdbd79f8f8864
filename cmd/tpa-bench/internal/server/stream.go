package server

import (
	"errors"
	"io"
	"net"
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

// discard reads until the peer has closed its half.
func discard(conn net.Conn) error {
	return drain(conn, func([]byte) error { return nil })
}

func drain(conn net.Conn, use func([]byte) error) (err error) {
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
			return nil
		}
		if err != nil {
			return err
		}
		if n == len(buf) && n < lastBuffer {
			buf = make([]byte, 2*n)
		}
	}
}
