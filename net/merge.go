package tpanet

import (
	"errors"
	"net"
	"sync"
	"time"
)

// A MergedListener accepts from several listeners; see Merge.
type MergedListener struct {
	listeners []net.Listener
	acc       half
	running   sync.WaitGroup

	// mu guards the following fields.
	mu   sync.Mutex
	come []arrival
	open int // listeners that still accept
}

// An arrival is what one Accept returned. Its listener accepts again when taken
// is closed, so that connections wait in its backlog and not here.
type arrival struct {
	conn  net.Conn
	err   error
	taken chan struct{}
}

var _ net.Listener = (*MergedListener)(nil)

// Merge returns a listener that accepts from all the given ones, at least one,
// and closes them when it is closed. With a listener of accel and one of package
// net, a server serves remote clients over the device and those of its own
// machine over the kernel. Connections are returned as they come, not wrapped:
// OriginOf tells where one came from.
//
// What one listener reports as an error, Accept returns, and goes on with all
// others. It returns net.ErrClosed when the last listener was closed.
func Merge(listeners ...net.Listener) *MergedListener {
	m := &MergedListener{listeners: listeners, open: len(listeners)}
	for _, l := range listeners {
		m.running.Go(func() { m.accept(l) })
	}
	return m
}

// accept brings what l accepts until it is closed.
func (m *MergedListener) accept(l net.Listener) {
	for {
		c, err := l.Accept()
		a := arrival{conn: c, err: err, taken: make(chan struct{})}
		ended := errors.Is(err, net.ErrClosed)
		m.mu.Lock()
		if m.acc.state.Load()&closed != 0 {
			m.mu.Unlock()
			if c != nil {
				c.Close()
			}
			return
		}
		if ended {
			m.open--
		} else {
			m.come = append(m.come, a)
		}
		m.mu.Unlock()
		m.acc.wake()
		if ended {
			return
		}
		<-a.taken
	}
}

// Accept waits for the next connection of any of the listeners.
func (m *MergedListener) Accept() (c net.Conn, err error) {
	Detach(func() { c, err = m.acceptWaiting() })
	return c, err
}

func (m *MergedListener) acceptWaiting() (net.Conn, error) {
	m.acc.mu.Lock()
	defer m.acc.mu.Unlock()
	for {
		err := m.acc.err()
		if err == nil {
			m.mu.Lock()
			if len(m.come) > 0 {
				a := m.come[0]
				m.come = m.come[1:]
				m.mu.Unlock()
				close(a.taken)
				return a.conn, a.err
			}
			if m.open == 0 {
				err = net.ErrClosed
			}
			m.mu.Unlock()
		}
		if err != nil {
			addr := m.Addr()
			return nil, &net.OpError{Op: "accept", Net: addr.Network(), Addr: addr, Err: err}
		}
		if err := m.acc.waitLocked(); err != nil {
			return nil, &net.OpError{Op: "accept", Net: m.Addr().Network(), Addr: m.Addr(), Err: err}
		}
	}
}

// Close closes the listeners, and the connections that they accepted and that
// nobody has taken.
func (m *MergedListener) Close() error {
	m.mu.Lock()
	first := m.acc.close()
	come := m.come
	m.come = nil
	m.mu.Unlock()
	if !first {
		addr := m.Addr()
		return &net.OpError{Op: "close", Net: addr.Network(), Addr: addr, Err: net.ErrClosed}
	}
	var errs []error
	for _, l := range m.listeners {
		if err := l.Close(); !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	for _, a := range come {
		if a.conn != nil {
			a.conn.Close()
		}
		close(a.taken)
	}
	m.running.Wait()
	return errors.Join(errs...)
}

// Addr returns the address of the first listener.
func (m *MergedListener) Addr() net.Addr { return m.listeners[0].Addr() }

// Addrs returns the addresses of all listeners, in their order.
func (m *MergedListener) Addrs() []net.Addr {
	addrs := make([]net.Addr, len(m.listeners))
	for i, l := range m.listeners {
		addrs[i] = l.Addr()
	}
	return addrs
}

// SetDeadline makes Accept fail with os.ErrDeadlineExceeded from t on. The zero
// time means never.
func (m *MergedListener) SetDeadline(t time.Time) error { return m.acc.setDeadline(t) }

// Origin is the way by which a connection reached the program.
type Origin int

const (
	// Kernel: the operating system's TCP, or whatever else is not ours.
	Kernel Origin = iota
	// Accelerated: the TCP inside the program.
	Accelerated
)

// String returns "kernel" or "accelerated".
func (o Origin) String() string {
	if o == Accelerated {
		return "accelerated"
	}
	return "kernel"
}

// OriginOf tells by which way c came. It looks through connections that say what
// they stand on by a method NetConn, as *tls.Conn does.
func OriginOf(c net.Conn) Origin {
	for {
		switch t := c.(type) {
		case *Conn:
			return Accelerated
		case interface{ NetConn() net.Conn }:
			c = t.NetConn()
		default:
			return Kernel
		}
	}
}
