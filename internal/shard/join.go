package shard

import (
	"fmt"

	"github.com/gotpa/tpa/internal/handover"
	"github.com/gotpa/tpa/internal/rss"
	"github.com/gotpa/tpa/internal/slowpath"
)

// Join makes the shards of one device hand each other what arrives on the wrong
// queue. It must be called before Start. A shard that is alone needs no Join.
func Join(shards []*Shard) error {
	if len(shards) < 2 {
		return nil
	}
	known := make([]handover.Shard, len(shards))
	for i, s := range shards {
		known[i] = handover.Shard{MAC: s.mac, Owns: s.engine.Owns, Wake: s.poller.wake}
	}
	members, err := handover.Join(known, shards[0].maxFrame)
	if err != nil {
		return fmt.Errorf("shard: %w", err)
	}
	paths := make([]*slowpath.Path, len(shards))
	for i, s := range shards {
		paths[i] = s.path
	}
	for i, s := range shards {
		s.handover, s.poller.handover, s.outbound.handover = members[i], members[i], members[i]
		s.path.Handover, s.path.Joined = members[i], paths
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
