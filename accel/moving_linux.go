package accel

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/gotpa/tpa/link"
	"github.com/gotpa/tpa/link/packet"
	"github.com/gotpa/tpa/link/xdp"
)

// The XDP of an interface passes from one process to the next while both serve: the
// elder moves its connections to a packet socket, and the younger takes its place at the
// interface, in the best mode from its start. The elder offers that, as it offers ports,
// on a Unix socket.

// interfaceOffer is where the XDP of an interface is offered.
func interfaceOffer(name string) string { return "@tpa/handover/" + name + "/xdp" }

// askForInterface takes the place at an interface from the process that offers it, nil
// where nobody does.
func askForInterface(c *Config, name string) *os.File {
	if !c.HandOver {
		return nil
	}
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Net: "unix", Name: interfaceOffer(name)})
	if err != nil {
		return nil
	}
	defer conn.Close()
	fd, err := (&predecessor{messages: &messages{UnixConn: conn}}).descriptor()
	if err != nil {
		c.Logger.Warn("another process offers the interface's XDP and does not hand it over", "device", name, "err", err)
		return nil
	}
	return os.NewFile(uintptr(fd), "XDP")
}

// openXDP is xdp.Open, in the place of a process that offers it.
func openXDP(c *Config, cfg xdp.Config) (*xdp.Device, error) {
	dev, err := xdp.Open(cfg)
	if !errors.Is(err, xdp.ErrOccupied) {
		return dev, err
	}
	if cfg.Place = askForInterface(c, cfg.Interface); cfg.Place == nil {
		return nil, err
	}
	return xdp.Open(cfg)
}

// movable returns a device that can leave its XDP to the next process, if the
// configuration wants that: dev itself where it cannot.
func movable(c *Config, dev *xdp.Device) link.Device {
	if !c.HandOver || dev.Info().Queues != 1 {
		return dev // a packet socket has one queue
	}
	d := &movingDevice{Device: dev}
	d.queue.first = dev.Queue(0).(*xdp.Queue)
	d.queue.tx = d.queue.first
	d.queue.received, d.queue.sent = make(chan struct{}), make(chan struct{})
	return d
}

// A movingDevice begins with AF_XDP and may move to a packet socket.
type movingDevice struct {
	*xdp.Device
	queue movingQueue
}

// Info implements link.Device. What the socket could do besides is not used.
func (d *movingDevice) Info() link.Info {
	info := d.Device.Info()
	if d.queue.second.Load() != nil {
		info.Mode, info.QueueModes = "packet socket", nil
	}
	return info
}

// Queue implements link.Device.
func (d *movingDevice) Queue(int) link.Queue { return &d.queue }

// Stats implements link.Device.
func (d *movingDevice) Stats() link.DeviceStats {
	st := d.Device.Stats()
	if q := d.queue.second.Load(); q != nil {
		st.AddQueue(q.Stats())
	}
	return st
}

// Close implements link.Device.
func (d *movingDevice) Close() error {
	err := d.Device.Close()
	if q := d.queue.second.Load(); q != nil {
		err = errors.Join(err, q.Close())
	}
	return err
}

// moveTimeout bounds how long the poller takes to receive what is left in the old queue.
const moveTimeout = 5 * time.Second

// move moves the device to a packet socket. flush has the queue flushed, as senders do.
// place is what the next process needs. An error after the move has begun leaves the
// device at the packet socket, too.
func (d *movingDevice) move(flush func()) (place *os.File, err error) {
	q := &d.queue
	place, err = d.StepAside(func(tap int) error {
		second, err := packet.OpenQueue(d.Info().Name, tap)
		if err == nil {
			q.second.Store(second)
			q.first.Wake()
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	q.released.Store(true)
	q.first.Wake()
	timeout := time.After(moveTimeout)
	for moved := range []<-chan struct{}{q.received, q.sent} {
		for done := false; !done; {
			flush()
			select {
			case <-[]<-chan struct{}{q.received, q.sent}[moved]:
				done = true
			case <-timeout:
				place.Close()
				return nil, errors.New("the poller does not leave the interface's XDP")
			case <-time.After(time.Millisecond):
			}
		}
	}
	return place, q.first.Close()
}

// A movingQueue begins with first and goes on with second.
type movingQueue struct {
	first  *xdp.Queue
	second atomic.Pointer[packet.Queue] // nil before the move
	// released: first gets no more frames.
	released atomic.Bool

	// The receiving goroutine's. received is closed when first has nothing any more.
	left     bool
	quiet    time.Time // since when first has had nothing, after released
	received chan struct{}

	// The sending goroutine's. sent is closed when second sends.
	tx   link.Queue
	sent chan struct{}
}

var (
	_ link.Queue  = (*movingQueue)(nil)
	_ link.Waiter = (*movingQueue)(nil)
)

// quietTime is how long no frame has come from a queue that gets no more before it is
// left: the kernel may still be at work with some.
const quietTime = 5 * time.Millisecond

// Receive implements link.Queue.
func (q *movingQueue) Receive(frames []link.Frame) (int, error) {
	second := q.second.Load()
	if second == nil {
		return q.first.Receive(frames)
	}
	if q.left {
		return second.Receive(frames)
	}
	// What is older comes first.
	if n, err := q.first.Receive(frames); n > 0 || errors.Is(err, net.ErrClosed) {
		q.quiet = time.Time{}
		return n, err
	}
	if now := time.Now(); !q.released.Load() || q.quiet.IsZero() {
		q.quiet = now
	} else if now.Sub(q.quiet) > quietTime {
		q.left = true
		close(q.received)
	}
	return second.Receive(frames)
}

// Reserve implements link.Queue.
func (q *movingQueue) Reserve(n int) []byte { return q.tx.Reserve(n) }

// Commit implements link.Queue.
func (q *movingQueue) Commit(n int, tx link.TxOffload) { q.tx.Commit(n, tx) }

// Flush implements link.Queue.
func (q *movingQueue) Flush() (pending int, err error) {
	pending, err = q.tx.Flush()
	if second := q.second.Load(); second != nil && pending == 0 && q.tx != link.Queue(second) {
		q.tx = second
		close(q.sent)
	}
	return pending, err
}

// Wait implements link.Waiter.
func (q *movingQueue) Wait(timeout time.Duration) {
	switch second := q.second.Load(); {
	case second == nil:
		q.first.Wait(timeout)
	case q.left:
		second.Wait(timeout)
	}
}

// Wake implements link.Waiter.
func (q *movingQueue) Wake() {
	q.first.Wake()
	if second := q.second.Load(); second != nil {
		second.Wake()
	}
}

// Stats implements link.Queue.
func (q *movingQueue) Stats() link.QueueStats {
	st := q.first.Stats()
	if second := q.second.Load(); second != nil {
		st.Add(second.Stats())
	}
	return st
}

// Close implements link.Queue.
func (q *movingQueue) Close() error {
	err := q.first.Close()
	if second := q.second.Load(); second != nil {
		err = errors.Join(err, second.Close())
	}
	return err
}

// offerInterface offers the interface's XDP to the next process, until the runtime ends.
func (rt *Runtime) offerInterface() {
	d, ok := rt.device.(*movingDevice)
	if !ok {
		return
	}
	name := d.Info().Name
	// At once, if nobody has the name: the next process may come before a goroutine runs.
	at := &net.UnixAddr{Net: "unix", Name: interfaceOffer(name)}
	socket, err := net.ListenUnix("unix", at)
	rt.watchers.Go(func() {
		if err != nil {
			socket, err = rt.listenAbstract(at.Name)
		}
		if err != nil {
			rt.log.Warn("the interface's XDP cannot be handed over to the next process", "device", name, "reason", err)
			return
		}
		if socket == nil {
			return
		}
		defer socket.Close()
		go func() {
			<-rt.stopped
			socket.Close()
		}()
		for {
			c, err := socket.AcceptUnix()
			if err != nil {
				return
			}
			done := false
			if err := ownProcess(c); err == nil {
				done, err = rt.leaveInterface(d, socket, &messages{UnixConn: c})
				if err != nil {
					rt.log.Warn("the interface's XDP was not handed over", "device", name, "err", err)
				}
			}
			c.Close()
			if done {
				return
			}
		}
	})
}

// leaveInterface hands the interface's XDP over, and reports whether it is gone.
func (rt *Runtime) leaveInterface(d *movingDevice, socket *net.UnixListener, m *messages) (done bool, err error) {
	place, err := d.move(func() {
		for _, s := range rt.shards {
			s.Flush()
		}
	})
	if place != nil {
		defer place.Close()
	}
	if err != nil {
		return d.queue.second.Load() != nil, err
	}
	socket.Close() // the name is the next process's
	rt.log.Info("the interface's XDP was handed over: a packet socket takes its place", "device", d.Info().Name)
	return true, m.send(msgPort, nil, syscall.UnixRights(int(place.Fd())))
}

// listenAbstract listens at a name that the process before may have for a moment. nil
// without an error says that the runtime has ended.
func (rt *Runtime) listenAbstract(name string) (*net.UnixListener, error) {
	deadline := time.Now().Add(handOverTimeout)
	for {
		l, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: name})
		if err == nil || time.Now().After(deadline) {
			return l, err
		}
		select {
		case <-rt.stopped:
			return nil, nil
		case <-time.After(time.Millisecond):
		}
	}
}

// ownProcess refuses processes of other users, but for root's.
func ownProcess(c *net.UnixConn) error {
	uid, _, err := peer(c)
	if err == nil && uid != 0 && uid != os.Geteuid() {
		err = fmt.Errorf("user %d is another one", uid)
	}
	return err
}
