package redis

import (
	"github.com/gotpa/tpa/cmd/tpa-bench/internal/resp"
	tpanet "github.com/gotpa/tpa/net"
)

// Open serves a connection by callbacks, as Serve does by code that waits.
func (s *Store) Open(c *tpanet.CallbackConn) tpanet.Callbacks {
	t := &polled{conn: c, session: session{store: s, out: make([]byte, 0, 4<<10)}}
	t.in = resp.NewReader(&t.src)
	t.src.conn = c
	return t
}

// polled is a session whose connection never waits.
type polled struct {
	session
	conn *tpanet.CallbackConn
	src  source
	in   *resp.Reader
	sent int // bytes of out
	// ending: close when out is sent.
	ending bool
}

// Data answers the commands that have arrived. While its replies find no room it
// takes no more of them.
func (t *polled) Data() {
	defer t.release()
	t.src.short = false
	for t.send() {
		if t.ending || t.quit {
			t.conn.Close()
			return
		}
		more, err := t.answer()
		if err == nil && !more {
			err = t.in.Fill()
		}
		switch err.(type) {
		case nil:
		case resp.ProtocolError:
			t.out = resp.AppendError(t.out, "ERR "+err.Error())
			t.ending = true
		default:
			if err != tpanet.ErrWouldBlock {
				t.conn.Close()
			}
			return
		}
	}
}

// answer runs commands until there are no more, or until their replies are to be
// sent (true).
func (t *polled) answer() (bool, error) {
	for !t.quit && len(t.out) < flushAt {
		args, ok, err := t.in.Parse()
		if err != nil {
			return false, err
		}
		if !ok {
			return len(t.out) > 0, nil
		}
		t.run(args)
	}
	return true, nil
}

// send sends the replies, false if there is no room or no connection.
func (t *polled) send() bool {
	t.release()
	if len(t.out) == 0 {
		return true
	}
	n, err := t.conn.TryWrite(t.out[t.sent:])
	t.sent += n
	if err != nil {
		if err != tpanet.ErrWouldBlock {
			t.conn.Close()
		}
		return false
	}
	t.out, t.sent = t.out[:0], 0
	if cap(t.out) > 1<<20 {
		t.out = make([]byte, 0, 4<<10)
	}
	return true
}

// Closed implements tpanet.Callbacks.
func (*polled) Closed() {}

// A source reads without waiting. After a read that was short there is nothing more
// until the next call of Data.
type source struct {
	conn  *tpanet.CallbackConn
	short bool
}

func (s *source) Read(b []byte) (int, error) {
	if s.short {
		return 0, tpanet.ErrWouldBlock
	}
	n, err := s.conn.TryRead(b)
	s.short = n < len(b)
	return n, err
}
