package tpanet

import (
	"net"

	"gvisor.dev/gvisor/pkg/tcpip"
)

// maxChunk is the most that one call hands to the endpoint, in bytes. The
// endpoint copies under its lock, and 64 KB is the largest piece it keeps in one
// buffer and the largest a device cuts into segments.
const maxChunk = 64 << 10

// payload hands a caller's buffer to the endpoint.
type payload []byte

func (p *payload) Len() int { return min(len(*p), maxChunk) }

func (p *payload) Read(b []byte) (int, error) {
	n := copy(b, *p)
	*p = (*p)[n:]
	return n, nil
}

// Write writes b. It waits for room in the send buffer, and no other write gets
// between its bytes.
func (c *Conn) Write(b []byte) (int, error) {
	c.wr.mu.Lock()
	n, err := c.write(b)
	c.wr.mu.Unlock()
	if err != nil {
		err = c.opError("write", err)
	}
	return n, err
}

// write writes b. wr.mu is held.
func (c *Conn) write(b []byte) (int, error) {
	n := 0
	if err := c.wr.err(); err != nil {
		return n, err
	}
	for {
		c.src = b[n:]
		k, terr := c.ep.Write(&c.src, tcpip.WriteOptions{Atomic: true})
		c.src = nil
		n += int(k)
		if terr == nil {
			if n == len(b) {
				c.wrote(n)
				return n, nil
			}
			continue
		}
		err := c.writeError(terr)
		if err == nil && len(b) > 0 {
			err = c.writable()
		} else if err == nil {
			return 0, nil // an empty write does not wait for room
		}
		if err != nil {
			c.wrote(n)
			return n, err
		}
	}
}

// writable waits until there may be room, or tells why not. wr.mu is held.
func (c *Conn) writable() error {
	if c.wr.state.Load() == 0 {
		c.wr.wait()
	}
	return c.wr.err()
}

// writeError says what a refused write means. nil means to wait for room. wr.mu
// is held.
func (c *Conn) writeError(terr tcpip.Error) error {
	if _, ok := terr.(*tcpip.ErrWouldBlock); ok {
		return nil
	}
	if c.wr.state.Load()&closed != 0 {
		return net.ErrClosed
	}
	return sysError("write", terr)
}

// CloseWrite ends writing: the peer reads io.EOF after what was written so far.
func (c *Conn) CloseWrite() error {
	if c.wr.state.Load()&closed != 0 {
		return c.opError("close", net.ErrClosed)
	}
	if terr := c.ep.Shutdown(tcpip.ShutdownWrite); terr != nil {
		return c.opError("close", sysError("shutdown", terr))
	}
	return nil
}

// wrote accounts for n bytes written. wr.mu is held.
func (c *Conn) wrote(n int) {
	c.bytesWritten.Add(uint64(n))
	if c.shared != nil {
		c.shared.Write(n)
	}
}
