package conformance

import (
	"errors"
	"net"
	"os"
	"time"
)

// Times for deadlines: soon passes during a probe, later does not before it is
// changed, even on a machine that is busy, and far does not pass.
const (
	soon  = 60 * time.Millisecond
	later = time.Second
	far   = time.Hour
)

// pass waits until a deadline after d has passed.
func pass(e *Env, d time.Duration) {
	time.Sleep(d + 50*time.Millisecond)
	e.Arrive() // timers that were due run meanwhile
}

func in(d time.Duration) time.Time { return time.Now().Add(d) }

var past = time.Unix(1, 0)

var deadlineProbes = []Probe{
	{Name: "deadline/past, read", Run: func(e *Env) {
		_, client := e.Pair()
		e.Note("set", client.SetReadDeadline(past))
		e.Read("first", client, 10).Done()
		e.Read("second", client, 10).Done()
	}},
	{Name: "deadline/past, write", Run: func(e *Env) {
		_, client := e.Pair()
		e.Note("set", client.SetWriteDeadline(past))
		e.Write("first", client, 10).Done()
		e.Write("second", client, 10).Done()
	}},
	{Name: "deadline/past, both", Run: func(e *Env) {
		_, client := e.Pair()
		e.Note("set", client.SetDeadline(past))
		e.Read("read", client, 10).Done()
		e.Write("write", client, 10).Done()
	}},
	{Name: "deadline/now", Run: func(e *Env) {
		_, client := e.Pair()
		e.Note("set", client.SetDeadline(time.Now()))
		e.Read("read", client, 10).Done()
		e.Write("write", client, 10).Done()
	}},
	{Name: "deadline/passes, read", Run: func(e *Env) {
		_, client := e.Pair()
		start := time.Now()
		e.Note("set", client.SetReadDeadline(in(soon)))
		e.Read("read", client, 10).Done()
		took := time.Since(start)
		e.Note("waited", took >= soon, took < testTimeout)
		e.Read("again", client, 10).Done()
	}},
	{Name: "deadline/passes, write", Run: func(e *Env) {
		_, client := e.Pair()
		e.Note("set", client.SetWriteDeadline(in(soon)))
		e.WriteMuch("write", client).Done()
		e.WriteMuch("again", client).Done()
	}},
	{Name: "deadline/passes, both", Run: func(e *Env) {
		_, client := e.Pair()
		e.Note("set", client.SetDeadline(in(soon)))
		r, w := e.Read("read", client, 10), e.WriteMuch("write", client)
		r.Done()
		w.Done()
	}},
	{Name: "deadline/passes while nobody waits", Run: func(e *Env) {
		server, client := e.Pair()
		e.Must(client.SetReadDeadline(in(soon)))
		e.Must(write(server, "hello"))
		pass(e, soon)
		e.Read("read", client, 10).Done()
	}},
	{Name: "deadline/does not matter in time", Run: func(e *Env) {
		server, client := e.Pair()
		e.Note("set", client.SetDeadline(in(far)))
		e.Must(write(client, "hello"))
		e.Read("read", server, 10).Done()
		e.Must(write(server, "hello"))
		e.Read("read", client, 10).Done()
	}},
	{Name: "deadline/past with data there", Run: func(e *Env) {
		server, client := e.Pair()
		e.Must(write(server, "hello"))
		e.Arrive()
		e.Must(client.SetReadDeadline(past))
		e.Read("past", client, 10).Done()
		e.Must(client.SetReadDeadline(time.Time{}))
		e.Read("none", client, 10).Done()
	}},
	{Name: "deadline/past at the end", Run: func(e *Env) {
		server, client := e.Pair()
		e.Must(server.Close())
		e.Arrive()
		e.Must(client.SetReadDeadline(past))
		e.Read("past", client, 10).Done()
		e.Must(client.SetReadDeadline(time.Time{}))
		e.Read("none", client, 10).Done()
	}},
	{Name: "deadline/past after reset", Run: func(e *Env) {
		server, client := e.Pair()
		e.Reset(server)
		e.Arrive()
		e.Must(client.SetDeadline(past))
		e.Read("read", client, 10).Done()
		e.Write("write", client, 10).Done()
		e.Must(client.SetDeadline(time.Time{}))
		e.Write("write", client, 10).Done()
		e.Read("read", client, 10).Done()
	}},
	{Name: "deadline/cleared before it passes", Run: func(e *Env) {
		server, client := e.Pair()
		e.Must(client.SetReadDeadline(in(later)))
		e.Note("clear", client.SetReadDeadline(time.Time{}))
		r := e.Read("read", client, 10)
		pass(e, later)
		r.Waits()
		e.Must(write(server, "hello"))
		r.Done()
	}},
	{Name: "deadline/cleared after it passed", Run: func(e *Env) {
		server, client := e.Pair()
		e.Must(client.SetReadDeadline(in(soon)))
		e.Read("late", client, 10).Done()
		e.Note("clear", client.SetReadDeadline(time.Time{}))
		e.Must(write(server, "hello"))
		e.Read("read", client, 10).Done()
	}},
	{Name: "deadline/moved on after it passed", Run: func(e *Env) {
		server, client := e.Pair()
		e.Must(client.SetDeadline(past))
		e.Read("late", client, 10).Done()
		e.Must(client.SetDeadline(in(far)))
		e.Must(write(server, "hello"))
		e.Read("read", client, 10).Done()
		e.Write("write", client, 10).Done()
	}},
	{Name: "deadline/cleared while waiting", Run: func(e *Env) {
		server, client := e.Pair()
		e.Must(client.SetReadDeadline(in(later)))
		r := e.Read("read", client, 10)
		r.Waits()
		e.Must(client.SetReadDeadline(time.Time{}))
		pass(e, later)
		r.Waits()
		e.Must(write(server, "hello"))
		r.Done()
	}},
	{Name: "deadline/moved later while waiting", Run: func(e *Env) {
		server, client := e.Pair()
		e.Must(client.SetReadDeadline(in(later)))
		r := e.Read("read", client, 10)
		r.Waits()
		e.Must(client.SetReadDeadline(in(far)))
		pass(e, later)
		r.Waits()
		e.Must(write(server, "hello"))
		r.Done()
	}},
	{Name: "deadline/moved a little later while waiting", Run: func(e *Env) {
		_, client := e.Pair()
		start := time.Now()
		e.Must(client.SetReadDeadline(in(later)))
		r := e.Read("read", client, 10)
		r.Waits()
		e.Must(client.SetReadDeadline(start.Add(later + later/4)))
		r.Done()
		e.Note("waited", time.Since(start) >= later+later/4)
	}},
	{Name: "deadline/moved earlier while waiting", Run: func(e *Env) {
		_, client := e.Pair()
		e.Must(client.SetReadDeadline(in(far)))
		r := e.Read("read", client, 10)
		r.Waits()
		e.Must(client.SetReadDeadline(in(soon)))
		r.Done()
	}},
	{Name: "deadline/moved to the past while waiting, read", Run: func(e *Env) {
		_, client := e.Pair()
		r := e.Read("read", client, 10)
		r.Waits()
		e.Must(client.SetReadDeadline(past))
		r.Done()
	}},
	{Name: "deadline/moved to the past while waiting, write", Run: func(e *Env) {
		_, client := e.Pair()
		w := e.WriteMuch("write", client)
		w.Waits()
		e.Must(client.SetWriteDeadline(past))
		w.Done()
	}},
	{Name: "deadline/moved to the past while both wait", Run: func(e *Env) {
		_, client := e.Pair()
		r, w := e.Read("read", client, 10), e.WriteMuch("write", client)
		r.Waits()
		w.Waits()
		e.Must(client.SetDeadline(past))
		r.Done()
		w.Done()
	}},
	{Name: "deadline/several wait", Run: func(e *Env) {
		_, client := e.Pair()
		e.Must(client.SetReadDeadline(in(3 * soon)))
		calls := []*Call{e.Read("read", client, 10), e.Read("read", client, 10), e.Read("read", client, 10)}
		for _, c := range calls {
			c.Done()
		}
	}},
	{Name: "deadline/of reading leaves writing alone", Run: func(e *Env) {
		server, client := e.Pair()
		e.Must(client.SetReadDeadline(past))
		e.Write("write", client, 10).Done()
		e.Read("peer reads", server, 20).Done()
	}},
	{Name: "deadline/of writing leaves reading alone", Run: func(e *Env) {
		server, client := e.Pair()
		e.Must(client.SetWriteDeadline(past))
		e.Must(write(server, "hello"))
		e.Read("read", client, 10).Done()
	}},
	{Name: "deadline/leaves the peer alone", Run: func(e *Env) {
		server, client := e.Pair()
		e.Must(client.SetDeadline(past))
		e.Read("late", client, 10).Done()
		e.Must(client.SetDeadline(time.Time{}))
		e.Must(write(server, "hello"))
		e.Read("read", client, 10).Done()
		e.Must(write(client, "hello"))
		e.Read("peer reads", server, 10).Done()
	}},
	{Name: "deadline/extended often", Run: func(e *Env) {
		server, client := e.Pair()
		for i := range 20 {
			e.Must(client.SetReadDeadline(in(time.Duration(i+1) * far)))
			e.Must(write(server, "x"))
			if _, err := client.Read(make([]byte, 1)); err != nil {
				e.Note("read", i, err)
			}
		}
		e.Must(client.SetReadDeadline(in(soon)))
		e.Read("read", client, 10).Done()
	}},
	{Name: "deadline/set after close", Run: func(e *Env) {
		_, client := e.Pair()
		e.Must(client.Close())
		e.Note("SetDeadline", client.SetDeadline(in(far)))
		e.Note("SetReadDeadline", client.SetReadDeadline(past))
		e.Note("SetWriteDeadline", client.SetWriteDeadline(time.Time{}))
	}},
	{Name: "deadline/close beats it", Run: func(e *Env) {
		_, client := e.Pair()
		e.Must(client.SetDeadline(past))
		e.Must(client.Close())
		e.Read("read", client, 10).Done()
		e.Write("write", client, 10).Done()
	}},
	{Name: "deadline/far away and close", Run: func(e *Env) {
		_, client := e.Pair()
		e.Must(client.SetDeadline(in(far)))
		r := e.Read("read", client, 10)
		r.Waits()
		e.Must(client.Close())
		r.Done()
	}},
	{Name: "deadline/year 9999", Run: func(e *Env) {
		server, client := e.Pair()
		e.Note("set", client.SetDeadline(time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)))
		e.Must(write(server, "hello"))
		e.Read("read", client, 10).Done()
	}},
	{Name: "deadline/timeouts are net.Error", Run: func(e *Env) {
		_, client := e.Pair()
		e.Must(client.SetReadDeadline(past))
		_, err := client.Read(make([]byte, 1))
		ne, ok := errors.AsType[net.Error](err)
		e.Note("net.Error", ok, ok && ne.Timeout(), os.IsTimeout(err))
	}},
	{Name: "deadline/accept, past", Run: func(e *Env) {
		ln := e.Listener().(deadliner)
		e.Note("set", ln.SetDeadline(past))
		accept(e, "first", ln).Done()
		accept(e, "second", ln).Done()
	}},
	{Name: "deadline/accept, past with a connection there", Run: func(e *Env) {
		ln := e.Listener().(deadliner)
		_, err := e.Dial("tcp", ln.Addr().String())
		e.Must(err)
		e.Arrive()
		e.Must(ln.SetDeadline(past))
		accept(e, "past", ln).Done()
		e.Must(ln.SetDeadline(time.Time{}))
		accept(e, "none", ln).Done()
	}},
	{Name: "deadline/accept, passes", Run: func(e *Env) {
		ln := e.Listener().(deadliner)
		e.Must(ln.SetDeadline(in(soon)))
		accept(e, "late", ln).Done()
		e.Must(ln.SetDeadline(in(far)))
		_, err := e.Dial("tcp", ln.Addr().String())
		e.Must(err)
		accept(e, "in time", ln).Done()
	}},
	{Name: "deadline/accept, moved to the past while waiting", Run: func(e *Env) {
		ln := e.Listener().(deadliner)
		a, b := accept(e, "accept", ln), accept(e, "accept", ln)
		a.Waits()
		b.Waits()
		e.Must(ln.SetDeadline(past))
		a.Done()
		b.Done()
	}},
	{Name: "deadline/accept, cleared while waiting", Run: func(e *Env) {
		ln := e.Listener().(deadliner)
		e.Must(ln.SetDeadline(in(later)))
		a := accept(e, "accept", ln)
		a.Waits()
		e.Must(ln.SetDeadline(time.Time{}))
		pass(e, later)
		a.Waits()
		_, err := e.Dial("tcp", ln.Addr().String())
		e.Must(err)
		a.Done()
	}},
	{Name: "deadline/accept, set after close", Run: func(e *Env) {
		ln := e.Listener().(deadliner)
		e.Must(ln.Close())
		e.Note("set", ln.SetDeadline(past))
	}},
	{Name: "deadline/accept leaves the connection alone", Run: func(e *Env) {
		ln := e.Listener().(deadliner)
		e.Must(ln.SetDeadline(in(far)))
		server, client := e.PairTo(ln, "tcp", ln.Addr().String())
		e.Must(ln.SetDeadline(past))
		r := e.Read("read", server, 10)
		r.Waits()
		e.Must(write(client, "hello"))
		r.Done()
	}},
}

// accept starts an Accept. The connection is closed when the probe ends.
func accept(e *Env, what string, ln net.Listener) *Call {
	return e.Go(what, func() []any {
		c, err := ln.Accept()
		if err != nil {
			return []any{err}
		}
		e.Cleanup(func() { abort(c) })
		return []any{"accepted"}
	})
}
