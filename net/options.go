package tpanet

import (
	"cmp"
	"net"
	"os"
	"syscall"
	"time"

	"github.com/gotpa/tpa/internal/transport"
)

// Defaults of package net's keep-alive.
const (
	keepAliveIdle     = transport.KeepAlive
	keepAliveInterval = transport.KeepAlive
	keepAliveCount    = 9
)

// set runs change on an open connection and reports its error as package net
// does.
func (c *Conn) set(change func() error) error {
	if c.rd.state.Load()&closed != 0 {
		return c.opError("set", net.ErrClosed)
	}
	if err := change(); err != nil {
		return c.opError("set", err)
	}
	return nil
}

// SetNoDelay controls Nagle's algorithm. The default is true: what is written
// leaves as soon as the windows allow.
func (c *Conn) SetNoDelay(noDelay bool) error {
	return c.set(func() error {
		c.ep.SetNoDelay(noDelay)
		return nil
	})
}

// SetLinger says what Close does with data that is not yet sent and
// acknowledged: sec < 0, the default, sends it in the background; sec == 0
// discards it and resets the connection; sec > 0 makes Close wait up to sec
// seconds for it.
func (c *Conn) SetLinger(sec int) error {
	return c.set(func() error {
		d := time.Duration(max(sec, -1)) * time.Second
		c.linger.Store(int64(d))
		c.ep.SetLinger(d)
		return nil
	})
}

// SetReadBuffer sets the size of the receive buffer in bytes, within the limits
// of the stack, and stops its automatic tuning.
func (c *Conn) SetReadBuffer(bytes int) error {
	return c.setBuffer(bytes, c.ep.SetReadBuffer)
}

// SetWriteBuffer sets the size of the send buffer in bytes, within the limits of
// the stack, and stops its automatic tuning.
func (c *Conn) SetWriteBuffer(bytes int) error {
	return c.setBuffer(bytes, c.ep.SetWriteBuffer)
}

// setBuffer differs from set as package net does: the error has the local
// address only.
func (c *Conn) setBuffer(bytes int, change func(int)) error {
	if c.rd.state.Load()&closed != 0 {
		return c.deadlineError(net.ErrClosed)
	}
	change(bytes)
	return nil
}

// SetKeepAlive turns keep-alive probes on or off.
func (c *Conn) SetKeepAlive(keepAlive bool) error {
	return c.set(func() error {
		c.ep.SetKeepAlive(keepAlive)
		return nil
	})
}

// SetKeepAlivePeriod sets how long the connection is idle before the first
// probe, rounded up to seconds. 0 means 15 s, less than 0 leaves it.
func (c *Conn) SetKeepAlivePeriod(d time.Duration) error {
	if d < 0 {
		return nil // even on a closed connection
	}
	return c.set(func() error {
		idle, err := keepAliveDuration(d, keepAliveIdle)
		if err == nil {
			c.ep.TuneKeepAlive(idle, 0, 0)
		}
		return err
	})
}

// SetKeepAliveConfig sets all of keep-alive, with the defaults and rules of
// net.KeepAliveConfig.
func (c *Conn) SetKeepAliveConfig(config net.KeepAliveConfig) error {
	return c.set(func() error { return c.setKeepAliveConfig(config) })
}

// setKeepAliveConfig sets what comes before an option out of range, as package net
// does, which sets one by one.
func (c *Conn) setKeepAliveConfig(config net.KeepAliveConfig) error {
	c.ep.SetKeepAlive(config.Enable)
	idle, err := keepAliveDuration(config.Idle, keepAliveIdle)
	if err != nil {
		return err
	}
	interval, err := keepAliveDuration(config.Interval, keepAliveInterval)
	if err != nil {
		c.ep.TuneKeepAlive(idle, 0, 0)
		return err
	}
	count := cmp.Or(config.Count, keepAliveCount)
	if count > 127 { // Linux's MAX_TCP_KEEPCNT
		c.ep.TuneKeepAlive(idle, interval, 0)
		return os.NewSyscallError("setsockopt", syscall.EINVAL)
	}
	c.ep.TuneKeepAlive(idle, interval, count)
	return nil
}

// SetUserTimeout ends the connection, with ETIMEDOUT, when the peer acknowledges
// nothing of what was sent for d, or keeps its window shut while there is something
// to send; keep-alive goes by it, too. It is Linux's TCP_USER_TIMEOUT, in whole
// milliseconds. 0, the default, leaves it to the number of retransmissions: about
// 15 minutes.
func (c *Conn) SetUserTimeout(d time.Duration) error {
	return c.set(func() error {
		if d < 0 {
			return os.NewSyscallError("setsockopt", syscall.EINVAL)
		}
		c.ep.SetUserTimeout(d.Truncate(time.Millisecond))
		return nil
	})
}

// keepAliveDuration is d in whole seconds, as Linux counts and limits them. Less
// than 0 means to leave the option.
func keepAliveDuration(d, byDefault time.Duration) (time.Duration, error) {
	switch {
	case d == 0:
		return byDefault, nil
	case d < 0:
		return d, nil
	}
	d = (d + time.Second - 1).Truncate(time.Second)
	if d > 32767*time.Second { // MAX_TCP_KEEPIDLE, MAX_TCP_KEEPINTVL
		return 0, os.NewSyscallError("setsockopt", syscall.EINVAL)
	}
	return d, nil
}

// MultipathTCP reports false: the stack has no Multipath TCP.
func (c *Conn) MultipathTCP() (bool, error) { return false, nil }
