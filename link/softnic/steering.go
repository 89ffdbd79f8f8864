package softnic

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/gotpa/tpa/internal/offload"
	"github.com/gotpa/tpa/internal/rss"
	"github.com/gotpa/tpa/link"
)

// A Rule sends TCP packets by their destination port to one queue, past RSS, as
// a flow rule of a real card does. It does not see fragments.
type Rule struct {
	// Port is compared with the destination port in the bits that Mask sets. Mask
	// 0 compares all.
	Port, Mask uint16
	// Queue gets the packets that match.
	Queue int
}

func (r Rule) matches(port uint16) bool {
	mask := r.Mask
	if mask == 0 {
		mask = 0xffff
	}
	return (port^r.Port)&mask == 0
}

// steering decides on queues. It is replaced as a whole.
type steering struct {
	spread *rss.Spread
	rules  []Rule
}

// steer replaces the steering by what change makes of it.
func (n *NIC) steer(change func(*steering) error) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	s := *n.steering.Load()
	s.rules = slices.Clone(s.rules)
	if err := change(&s); err != nil {
		return err
	}
	n.steering.Store(&s)
	return nil
}

// RSS implements link.Spreader.
func (n *NIC) RSS() (link.RSS, error) { return n.steering.Load().spread.RSS(), nil }

// SetRSS implements link.Spreader. It holds for the next frame that arrives.
func (n *NIC) SetRSS(r link.RSS) error {
	return n.steer(func(s *steering) (err error) {
		s.spread, err = rss.New(r, n.info.Queues)
		return err
	})
}

// AddRule adds a rule behind those that are there. The first one that matches
// decides.
func (n *NIC) AddRule(r Rule) error {
	if r.Queue < 0 || r.Queue >= n.info.Queues {
		return fmt.Errorf("softnic: rule to queue %d: the card has %d", r.Queue, n.info.Queues)
	}
	return n.steer(func(s *steering) error {
		s.rules = append(s.rules, r)
		return nil
	})
}

// Steer implements link.Steerer.
func (n *NIC) Steer(port, mask uint16, queue int) error {
	return n.AddRule(Rule{Port: port, Mask: mask, Queue: queue})
}

// DropRule removes the first rule equal to r and tells whether there was one.
func (n *NIC) DropRule(r Rule) bool {
	return n.steer(func(s *steering) error {
		i := slices.Index(s.rules, r)
		if i < 0 {
			return fmt.Errorf("softnic: no rule %+v", r)
		}
		s.rules = slices.Delete(s.rules, i, i+1)
		return nil
	}) == nil
}

// DropRules removes all rules, as a card does that was reset.
func (n *NIC) DropRules() {
	n.steer(func(s *steering) error { s.rules = nil; return nil })
}

// Rules returns the rules in the order in which they are tried.
func (n *NIC) Rules() []Rule { return slices.Clone(n.steering.Load().rules) }

// pick returns the queue of a frame that arrived. A rule comes first. TCP is
// then spread by addresses and ports, other IP and fragments by addresses, and
// the rest goes to queue 0.
func (n *NIC) pick(frame []byte) int {
	s := n.steering.Load()
	p, ok := offload.Parse(frame)
	if !ok {
		n.noHash.Add(1)
		return 0
	}
	if p.Protocol != offload.TCP || p.Fragment {
		n.hash2Hits.Add(1)
		return s.spread.Queue(s.spread.Hash(p.Addrs(frame), nil))
	}
	ports := p.Ports(frame)
	if len(s.rules) > 0 {
		port := binary.BigEndian.Uint16(ports[2:])
		for _, r := range s.rules {
			if r.matches(port) {
				n.ruleHits.Add(1)
				return r.Queue
			}
		}
	}
	n.hash4Hits.Add(1)
	return s.spread.Queue(s.spread.Hash(p.Addrs(frame), ports))
}
