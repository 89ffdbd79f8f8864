package limits

import (
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/gotpa/tpa/link"
)

// A Shield answers SYNs in front of the queues, by whoever receives them: the
// filter of a device that is shared with the kernel.
type Shield interface {
	// Answer begins that, or goes on with other values; nil ends it.
	Answer(*link.SYNCookies) error
	// Answered counts the SYNs answered so far.
	Answered() uint64
}

// shielding is a runtime's use of its Shield: up while a shard has no room for
// handshakes, so that a flood of SYNs does not fill the queues, where it takes the
// place of everything else.
type shielding struct {
	shield Shield // nil for none
	up     atomic.Bool
	failed atomic.Bool // for good

	// mu guards the following fields, and the shield.
	mu sync.Mutex
	// answered and completed count cookies sent and handshakes completed with one, as
	// they were when it was looked last whether the flood goes on.
	looked              time.Time
	answered, completed uint64
}

// SetShield gives the runtime a Shield, before its shards start. It is not used
// where TCP does not know its cookies.
func (b *Budget) SetShield(s Shield) {
	if accounts := *b.accounts.Load(); len(accounts) > 0 && accounts[0].shard.Cookies() != nil {
		b.shielding.shield = s
	}
}

// raise puts the shield up, without waiting for it: a poller calls it, whose queue
// is about to overflow.
func (b *Budget) raise() {
	s := &b.shielding
	if s.shield == nil || s.failed.Load() || s.up.Load() || s.up.Swap(true) {
		return
	}
	go func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.failed.Load() {
			s.up.Store(false)
			return
		}
		accounts := *b.accounts.Load()
		s.lookLocked(time.Now(), accounts)
		b.answerLocked(accounts, true)
	}()
}

// tendShield keeps the shield true to what is the case, and takes it down when the flood
// is over.
func (b *Budget) tendShield(now time.Time) {
	s, accounts := &b.shielding, *b.accounts.Load()
	if !s.up.Load() {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	needed := now.Sub(s.looked) < time.Second
	if !needed {
		// Who answers cookies is no flood. Others would fill the table again in a few
		// seconds.
		needed = s.lookLocked(now, accounts) > int64(b.limits.Load().HalfOpen)/8
	}
	for _, a := range accounts {
		needed = needed || a.cookies.Load()
	}
	b.answerLocked(accounts, needed)
}

// answerLocked puts the shield up or takes it down. shielding.mu is held.
func (b *Budget) answerLocked(accounts []*Account, up bool) {
	s := &b.shielding
	var c *link.SYNCookies
	if up {
		for _, a := range accounts {
			a.cookieAt.Store(a.settings.Now())
		}
		c = b.cookies(accounts)
	}
	err := s.shield.Answer(c)
	if err != nil {
		s.failed.Store(true)
		_ = s.shield.Answer(nil) // it is closed, or says so again
		accounts[0].shard.ShieldFailed(err)
	}
	s.up.Store(up && err == nil)
}

// rest takes the shield down for good.
func (s *shielding) rest() {
	if s.shield == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failed.Store(true)
	if s.up.Swap(false) {
		_ = s.shield.Answer(nil) // it is closed otherwise
	}
}

// lookLocked returns how many cookies the shield has sent, beyond those that came back,
// since it was called last.
func (s *shielding) lookLocked(now time.Time, accounts []*Account) (lost int64) {
	answered, completed := s.shield.Answered(), uint64(0)
	for _, a := range accounts {
		completed += a.counters.ListenOverflowSynCookieRcvd.Value()
	}
	lost = int64(answered-s.answered) - int64(completed-s.completed)
	s.looked, s.answered, s.completed = now, answered, completed
	return lost
}

// cookies are what the shield needs to know. SYNs for which there is no room are
// to be dropped.
func (b *Budget) cookies(accounts []*Account) *link.SYNCookies {
	c, mtu := accounts[0].shard.Cookies(), accounts[0].shard.MTU()
	room := !b.closed.Load() && !b.Full()
	ports := make(map[uint16]bool)
	for _, a := range accounts {
		a.listeners.Range(func(_, v any) bool {
			q := v.(acceptQueue)
			ports[q.port] = ports[q.port] || room && !q.full()
			return true
		})
	}
	return &link.SYNCookies{
		Key: c.Key, Minute: c.Minute(), Ports: ports,
		MSS4: uint16(mtu - header.IPv4MinimumSize - header.TCPMinimumSize),
		MSS6: uint16(mtu - header.IPv6MinimumSize - header.TCPMinimumSize),
	}
}
