package redis

import (
	"errors"
	"io"
	"net"

	"github.com/gotpa/tpa/cmd/tpa-bench/internal/resp"
)

// flushAt is the size in bytes at which replies are sent before the input is
// used up, so that a long pipeline does not pile them up.
const flushAt = 64 << 10

// session is one connection. It belongs to the connection's goroutine.
type session struct {
	store *Store
	out   []byte // replies not yet sent
	quit  bool
}

// Serve answers the commands of one connection until it ends, and closes it.
// The error is nil when the peer left between commands or said QUIT.
func (s *Store) Serve(conn net.Conn) error {
	defer conn.Close()
	in := resp.NewReader(conn)
	ses := &session{store: s, out: make([]byte, 0, 4<<10)}
	for !ses.quit {
		args, ok, err := in.Parse()
		if err != nil {
			ses.out = resp.AppendError(ses.out, "ERR "+err.Error())
			return errors.Join(err, ses.flush(conn))
		}
		if ok {
			ses.run(args)
		}
		if !ok || len(ses.out) >= flushAt {
			if err := ses.flush(conn); err != nil {
				return err
			}
		}
		if !ok {
			if err := in.Fill(); err != nil {
				if err == io.EOF {
					return nil
				}
				return err
			}
		}
	}
	return ses.flush(conn)
}

func (s *session) flush(conn net.Conn) error {
	if len(s.out) == 0 {
		return nil
	}
	_, err := conn.Write(s.out)
	s.out = s.out[:0]
	if cap(s.out) > 1<<20 {
		s.out = make([]byte, 0, 4<<10)
	}
	return err
}
