package tpanet

import (
	"io"
	"net"
	"syscall"

	"github.com/gotpa/tpa/internal/transport"
)

// Read reads up to len(b) bytes. It waits until there is at least one, and
// returns io.EOF after the peer's last.
func (c *Conn) Read(b []byte) (int, error) {
	n, err := c.read(b)
	if err != nil && err != io.EOF {
		err = c.opError("read", err)
	}
	return n, err
}

// bulkRead is from how many bytes on a copy costs more than to take the endpoint's lock
// once more.
const bulkRead = 2048

func (c *Conn) read(b []byte) (int, error) {
	if err := c.rd.lock(); err != nil {
		return 0, err
	}
	defer c.rd.mu.Unlock()
	if len(b) == 0 {
		// As in package net, an expired deadline does not matter here.
		if c.rd.state.Load()&closed != 0 {
			return 0, net.ErrClosed
		}
		return 0, nil
	}
	for {
		posted := c.drained && c.bulk && c.rd.state.Load() == 0
		if posted {
			c.ep.Post(b)
		}
		if err := c.readableLocked(); err != nil {
			if posted {
				if n := c.ep.Withdraw(); n > 0 {
					c.bytesRead.Add(uint64(n))
					return n, nil
				}
			}
			return 0, err
		}
		n, more, err := c.ep.Read(b)
		if n > 0 {
			c.rd.memory.Set(&b[0])
			c.drained, c.bulk = !more, n >= bulkRead
			c.bytesRead.Add(uint64(n))
			return n, nil
		}
		if err := c.readErrorLocked(err); err != nil {
			return 0, err
		}
	}
}

// readableLocked returns when reading from the endpoint may bring something, or tells
// why it will not. rd.mu is held.
//
// No wake-up is lost: what is announced after the waker was cleared leaves it
// asserted, and what was announced before is there for the read that follows.
// The state is looked at between the two and again before every wait.
func (c *Conn) readableLocked() error {
	if c.drained && c.rd.state.Load() == 0 {
		if err := c.rd.waitLocked(); err != nil {
			return err
		}
	}
	c.drained = false // from here on: an announcement is cleared unheard
	c.rd.waker.Clear()
	return c.rd.err()
}

// readErrorLocked says what a read that brought nothing means. nil means to wait.
// rd.mu is held.
func (c *Conn) readErrorLocked(err error) error {
	if err == transport.ErrWouldBlock {
		if c.rd.state.Load()&shut != 0 {
			return io.EOF
		}
		c.drained = true
		return nil
	}
	// Close ends the endpoint; its error then says less than ours.
	if err := c.rd.err(); err != nil {
		return err
	}
	return sysError("read", err)
}

// CloseRead ends reading: what has arrived can still be read, then reads return
// io.EOF. As with Linux nothing is said to the peer.
func (c *Conn) CloseRead() error {
	switch {
	case c.rd.state.Load()&closed != 0:
		return c.opError("close", net.ErrClosed)
	case !c.connected():
		return c.opError("close", sysError("shutdown", syscall.ENOTCONN))
	}
	c.rd.set(shut)
	return nil
}
