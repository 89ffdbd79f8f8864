package shard

import (
	"fmt"

	"github.com/gotpa/tpa/internal/handover"
	"github.com/gotpa/tpa/internal/rss"
	"github.com/gotpa/tpa/link"
)

// Join makes the shards of one device hand each other what arrives on the wrong
// queue. It must be called before Start. A shard that is alone needs no Join.
func Join(shards []*Shard) error {
	if len(shards) < 2 {
		return nil
	}
	known := make([]handover.Shard, len(shards))
	for i, s := range shards {
		known[i] = handover.Shard{MAC: s.mac, Owns: s.engine.Owns, Wake: s.wake}
	}
	members, err := handover.Join(known, shards[0].maxFrame)
	if err != nil {
		return fmt.Errorf("shard: %w", err)
	}
	for i, s := range shards {
		s.handover, s.joined = members[i], shards
	}
	return nil
}

// SetSpread tells all shards that were joined with this one how the device
// spreads flows over its queues; nil says that nobody knows.
func (s *Shard) SetSpread(spread *rss.Spread) {
	if s.handover != nil {
		s.handover.SetSpread(spread)
	}
}

// wake ends the poller's sleep.
func (s *Shard) wake() {
	if !s.parked.Load() {
		return
	}
	if w, ok := s.queue.(link.Waiter); ok && !s.ended.Load() {
		w.Wake()
		return
	}
	select {
	case s.wakeup <- struct{}{}:
	default:
	}
}
