package load

import (
	"errors"
	"net"

	tpanet "github.com/gotpa/tpa/net"
)

// polled is a worker whose connection's poller does its work.
type polled struct {
	*worker
	conn    *tpanet.CallbackConn
	sent    int  // bytes of out
	waiting bool // the batch is on its way
	ended   chan error
}

// workByCallbacks sends and receives until the run is over, or until the connection
// is of no more use.
func (w *worker) workByCallbacks() error {
	p := &polled{worker: w, ended: make(chan error, 1)}
	tpanet.HandleConn(w.conn, func(c *tpanet.CallbackConn) tpanet.Callbacks {
		p.conn = c
		c.Wake() // nothing comes by itself
		return p
	})
	return <-p.ended
}

// Data implements tpanet.Callbacks.
func (p *polled) Data() {
	for short := false; ; {
		if !p.waiting {
			if !p.await() {
				p.end(nil)
				return
			}
			p.encode()
			p.sent, p.got, p.waiting = 0, 0, true
		}
		if p.sent < len(p.out) {
			n, err := p.conn.TryWrite(p.out[p.sent:])
			if p.sent += n; err != nil {
				p.failed(err)
				return
			}
		}
		if p.run.Workload.oneWay {
			p.written()
			p.waiting = false
			continue
		}
		if short {
			return // the next replies have not come yet: Data will be called
		}
		err := p.fill(func(b []byte) (int, error) {
			n, err := p.conn.TryRead(b)
			short = n < len(b)
			return n, err
		})
		if err != nil {
			p.failed(err)
			return
		}
		if err := p.take(); err != nil {
			p.end(err)
			return
		}
		p.waiting = p.got < len(p.batch)
	}
}

// failed is called with the error of the connection, which may only say to wait.
func (p *polled) failed(err error) {
	if errors.Is(err, tpanet.ErrWouldBlock) {
		return
	}
	p.lost(p.batch[p.got:], err)
	p.end(err)
}

// end gives the connection back to the worker.
func (p *polled) end(err error) {
	p.conn.Detach(func(net.Conn) { p.ended <- err })
}

// Closed implements tpanet.Callbacks: somebody else closed the connection, at the end
// of the run.
func (p *polled) Closed() { p.ended <- net.ErrClosed }
