package shard

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
	// answered and redeemed are counters when it was looked last whether the flood
	// goes on.
	looked             time.Time
	answered, redeemed uint64
}

// SetShield gives the runtime a Shield, before its shards start. Only our own TCP
// knows the shield's cookies.
func (b *Budget) SetShield(s Shield) {
	if shards := *b.shards.Load(); len(shards) > 0 && shards[0].own != nil {
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
		shards := *b.shards.Load()
		s.look(time.Now(), shards)
		b.answer(shards, true)
	}()
}

// tend keeps the shield true to what is the case, and takes it down when the flood
// is over.
func (b *Budget) tend(now time.Time) {
	s, shards := &b.shielding, *b.shards.Load()
	if !s.up.Load() {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	needed := now.Sub(s.looked) < time.Second
	if !needed {
		// Who redeems cookies is no flood. Others would fill the table again in a few
		// seconds.
		needed = s.look(now, shards) > int64(b.limits.HalfOpen)/8
	}
	for _, sh := range shards {
		needed = needed || sh.admission.cookies.Load()
	}
	b.answer(shards, needed)
}

// answer puts the shield up or takes it down. mu is held.
func (b *Budget) answer(shards []*Shard, up bool) {
	s := &b.shielding
	var c *link.SYNCookies
	if up {
		for _, sh := range shards {
			sh.admission.cookieAt.Store(sh.admission.now())
		}
		c = b.cookies(shards)
	}
	err := s.shield.Answer(c)
	if err != nil {
		s.failed.Store(true)
		_ = s.shield.Answer(nil) // it is closed, or says so again
		shards[0].log.Warn("the filter does not answer SYNs; TCP does", "err", err)
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

// look returns how many cookies the shield has sent, beyond those that came back,
// since it was called last.
func (s *shielding) look(now time.Time, shards []*Shard) (lost int64) {
	answered, redeemed := s.shield.Answered(), uint64(0)
	for _, sh := range shards {
		redeemed += sh.stackStats.TCP.ListenOverflowSynCookieRcvd.Value()
	}
	lost = int64(answered-s.answered) - int64(redeemed-s.redeemed)
	s.looked, s.answered, s.redeemed = now, answered, redeemed
	return lost
}

// cookies are what the shield needs to know. SYNs for which there is no room are
// to be dropped.
func (b *Budget) cookies(shards []*Shard) *link.SYNCookies {
	c, mtu := shards[0].own.Cookies(), int(shards[0].link.MTU())
	room := !b.closed.Load() && !b.Full()
	ports := make(map[uint16]bool)
	for _, s := range shards {
		s.admission.listeners.Range(func(_, v any) bool {
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
