package accel

import (
	"bytes"
	"cmp"
	"crypto/rand"
	"errors"
	"net/netip"
	"slices"

	"github.com/gotpa/tpa/internal/rss"
	"github.com/gotpa/tpa/link"
)

// spreading is what a runtime knows about how its device spreads flows over its
// queues. Only start and watch use it.
type spreading struct {
	device link.Spreader // nil when it cannot tell
	last   link.RSS
}

// spread makes the device spread flows evenly over the shards, under a key that
// nobody else knows, as far as it lets us, and tells the shards how it does.
func (rt *Runtime) spread() {
	if len(rt.shards) < 2 {
		return
	}
	if rt.sharing != nil && rt.sharing.steering.Filter().Stats().Backend != "xdp" {
		return // the rules that share the device spread flows in a way of their own
	}
	s, ok := rt.device.(link.Spreader)
	var now link.RSS
	var err error
	if ok {
		now, err = s.RSS()
	}
	if !ok || err != nil {
		rt.steerBlocks(err)
		return
	}
	if rt.sharing != nil {
		// The kernel's own traffic follows key and table, too: they stay.
	} else if key, err := rss.RandomKey(cmp.Or(rt.config.Random, rand.Reader), len(now.Key)); err == nil {
		ours := link.RSS{Key: key, Table: rss.Table(len(now.Table), len(rt.shards))}
		if err := s.SetRSS(ours); err != nil {
			rt.log.Debug("the device keeps its RSS key and table", "device", rt.device.Info().Name, "err", err)
		}
	}
	rt.spreading.device = s
	rt.followSpread()
}

// followSpread looks whether the device has changed its key or table.
func (rt *Runtime) followSpread() {
	known := &rt.spreading
	if known.device == nil {
		return
	}
	now, err := known.device.RSS()
	if err != nil || bytes.Equal(now.Key, known.last.Key) && slices.Equal(now.Table, known.last.Table) {
		return
	}
	spread, err := rss.New(now, len(rt.shards))
	if err != nil {
		rt.log.Warn("cannot follow how the device spreads flows: segments that arrive on the wrong queue are handed over", "device", rt.device.Info().Name, "err", err)
	} else if known.last.Key != nil {
		rt.log.Info("the device spreads flows in a new way: those that moved are handed over", "device", rt.device.Info().Name)
	}
	known.last = now
	rt.spreadNow.Store(spread)
	rt.shards[0].SetSpread(spread)
}

// steerBlocks gives each shard a block of local ports, by rules, on a device
// that does not tell its RSS. Without rules, answers are handed over.
func (rt *Runtime) steerBlocks(reason error) {
	steerer, ok := rt.device.(link.Steerer)
	if ok {
		if err := rt.makeBlocks(steerer); err == nil {
			return
		} else {
			reason = cmp.Or(err, reason)
		}
	}
	if reason == nil {
		reason = errors.New("the device does not tell")
	}
	rt.log.Info("nobody knows how the device spreads flows: segments that arrive on the wrong queue are handed over", "device", rt.device.Info().Name, "reason", reason)
}

// Blocks of local ports begin at firstPort and end at multiples of portUnit.
const (
	firstPort = 1 << 14
	portUnit  = 64
)

// makeBlocks divides the ports from firstPort on among the shards.
func (rt *Runtime) makeBlocks(steerer link.Steerer) error {
	each := (1<<16 - firstPort) / len(rt.shards) / portUnit * portUnit
	for i := range rt.shards {
		first := firstPort + i*each
		for port := first; port < first+each; {
			// The greatest power of two that begins here and does not reach too far.
			size := port & -port
			for port+size > first+each {
				size /= 2
			}
			if err := steerer.Steer(uint16(port), uint16(-size), i); err != nil {
				return err
			}
			port += size
		}
	}
	for i, s := range rt.shards {
		first := firstPort + i*each
		if err := s.SetPortRange(uint16(first), uint16(first+each-1)); err != nil {
			return err
		}
	}
	return nil
}

// queueOf is the queue on which segments from remote to local arrive, if that is
// known.
func (rt *Runtime) queueOf(remote, local netip.AddrPort) (int, bool) {
	spread := rt.spreadNow.Load()
	if spread == nil || remote.Addr().Unmap().Is4() != local.Addr().Unmap().Is4() {
		return 0, false
	}
	return spread.Queue(spread.Hash4(remote, local)), true
}
