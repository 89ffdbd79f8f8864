package accel

import (
	"net"
	"net/netip"
	"sync"
	"syscall"

	"github.com/gotpa/tpa/internal/ports"
)

// A hold keeps ports from everybody else on this host. Runtimes of this process, each
// on a device of its own, may have the same one: a program that listens at ":7000" on
// two interfaces.
type hold struct {
	*ports.Reservation
	at holdAt // the zero value for one that nobody shares

	// Guarded by holds.
	users     map[*sharing]bool
	listening bool
	given     bool // another process has it, too
}

// holdAt is what a reservation was asked for.
type holdAt struct {
	network string
	addr    netip.AddrPort
}

// holds are those that others of this process may share.
var holds = struct {
	sync.Mutex
	at map[holdAt]*hold
}{at: make(map[holdAt]*hold)}

// holdPort is ports.Reserve, but for a port that another runtime of this process has in
// the same way, and one that another process has passed to us, if that is not nil.
func holdPort(network string, addr netip.AddrPort, passed *ports.Reservation, user *sharing) (*hold, error) {
	holds.Lock()
	defer holds.Unlock()
	at := holdAt{network, addr}
	if h := holds.at[at]; h != nil && !h.users[user] {
		h.users[user] = true
		if passed != nil {
			passed.Close()
		}
		return h, nil
	}
	r, err := passed, error(nil)
	if r == nil {
		r, err = ports.Reserve(network, addr)
	}
	if err != nil {
		return nil, err
	}
	h := &hold{Reservation: r, users: map[*sharing]bool{user: true}}
	if addr.Port() != 0 {
		h.at = at
		holds.at[at] = h
	}
	return h, nil
}

// release ends what a runtime has of a hold. Nobody has the ports with the last one.
func (h *hold) release(user *sharing) {
	holds.Lock()
	defer holds.Unlock()
	delete(h.users, user)
	if len(h.users) > 0 {
		return
	}
	if holds.at[h.at] == h {
		delete(holds.at, h.at)
	}
	h.Reservation.Close()
}

// Listen has the kernel listen at the port, for one runtime.
func (h *hold) Listen(backlog int) (*net.TCPListener, error) {
	holds.Lock()
	defer holds.Unlock()
	if h.listening {
		return nil, syscall.EADDRINUSE
	}
	l, err := h.Reservation.Listen(backlog)
	h.listening = err == nil
	return l, err
}

// give says that another process has the ports from now on: they are not freed with
// the hold, and the kernel goes on listening.
func (h *hold) give() {
	holds.Lock()
	defer holds.Unlock()
	h.given = true
}

// Unlisten ends what Listen began.
func (h *hold) Unlisten() error {
	holds.Lock()
	defer holds.Unlock()
	h.listening = false
	if h.given {
		return nil
	}
	return h.Reservation.Unlisten()
}
