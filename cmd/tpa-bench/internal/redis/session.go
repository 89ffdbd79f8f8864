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
	// held says that the session has the lock of the only shard. It gives it back
	// before it waits for its peer.
	held bool
}

// lock returns the part of the store that has key, locked for writing until unlock.
func (s *session) lock(key []byte) *shard {
	if len(s.store.shards) == 1 {
		return s.hold()
	}
	sh := s.store.shard(key)
	sh.mu.Lock()
	return sh
}

func (s *session) unlock(sh *shard) {
	if !s.held {
		sh.mu.Unlock()
	}
}

// rlock returns the part of the store that has key, locked for reading until
// runlock.
func (s *session) rlock(key []byte) *shard {
	if len(s.store.shards) == 1 {
		return s.hold()
	}
	sh := s.store.shard(key)
	sh.mu.RLock()
	return sh
}

func (s *session) runlock(sh *shard) {
	if !s.held {
		sh.mu.RUnlock()
	}
}

// hold returns the only shard, locked until release.
func (s *session) hold() *shard {
	sh := &s.store.shards[0]
	if !s.held {
		sh.mu.Lock()
		s.held = true
	}
	return sh
}

// release unlocks what hold has locked.
func (s *session) release() {
	if s.held {
		s.held = false
		s.store.shards[0].mu.Unlock()
	}
}

// Serve answers the commands of one connection until it ends, and closes it.
// The error is nil when the peer left between commands or said QUIT.
func (s *Store) Serve(conn net.Conn) error {
	defer conn.Close()
	in := resp.NewReader(conn)
	ses := &session{store: s, out: make([]byte, 0, 4<<10)}
	defer ses.release()
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
			// flush has given back the lock.
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
	s.release()
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
