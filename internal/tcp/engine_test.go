package tcp

import (
	"testing"

	"github.com/gotpa/tpa/internal/transport"
)

type fakeUser struct{ transport.User }

// TestConns checks that who counts the connections does not wait for one of them.
func TestConns(t *testing.T) {
	h := newHost(t, false)
	h.accept(shape{})
	g := &Engine{p: h.p}
	count := func() (n int) {
		for range g.Conns() {
			n++
		}
		return n
	}
	if n := count(); n != 0 {
		t.Errorf("%d connections before a program has one", n)
	}
	h.ep.setUser(fakeUser{})
	h.ep.mu.Lock()
	n := count() // it would wait here
	h.ep.mu.Unlock()
	if n != 1 {
		t.Errorf("%d connections, want 1", n)
	}
	h.ep.setUser(nil)
	if n := count(); n != 0 {
		t.Errorf("%d connections when the program is done with it", n)
	}
}
