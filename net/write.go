package tpanet

import (
	"net"

	"github.com/gotpa/tpa/internal/transport"
)

// Write writes b. It waits for room in the send buffer, and no other write gets
// between its bytes.
func (c *Conn) Write(b []byte) (int, error) {
	n, err := 0, c.wr.lock()
	if err == nil {
		n, err = c.writeLocked(b)
		c.wr.mu.Unlock()
	}
	if err != nil {
		err = c.opError("write", err)
	}
	return n, err
}

// writeLocked writes b. wr.mu is held.
func (c *Conn) writeLocked(b []byte) (int, error) {
	n := 0
	if err := c.wr.err(); err != nil {
		return n, err
	}
	for {
		k, err := c.ep.Write(b[n:])
		n += k
		if err == nil {
			if n == len(b) {
				c.bytesWritten.Add(uint64(n))
				return n, nil
			}
			continue
		}
		err = c.writeErrorLocked(err)
		if err == nil && len(b) > 0 {
			err = c.writableLocked()
		} else if err == nil {
			return 0, nil // an empty write does not wait for room
		}
		if err != nil {
			c.bytesWritten.Add(uint64(n))
			return n, err
		}
	}
}

// writableLocked waits until there may be room, or tells why not. wr.mu is held.
func (c *Conn) writableLocked() error {
	if c.wr.state.Load() == 0 {
		if err := c.wr.waitLocked(); err != nil {
			return err
		}
	}
	return c.wr.err()
}

// writeErrorLocked says what a refused write means. nil means to wait for room. wr.mu
// is held.
func (c *Conn) writeErrorLocked(err error) error {
	if err == transport.ErrWouldBlock {
		return nil
	}
	if c.wr.state.Load()&closed != 0 {
		return net.ErrClosed
	}
	return sysError("write", err)
}

// CloseWrite ends writing: the peer reads io.EOF after what was written so far.
func (c *Conn) CloseWrite() error {
	if c.wr.state.Load()&closed != 0 {
		return c.opError("close", net.ErrClosed)
	}
	if err := c.ep.CloseWrite(); err != nil {
		return c.opError("close", sysError("shutdown", err))
	}
	return nil
}
