package xdp

import (
	"errors"
	"fmt"

	"github.com/gotpa/tpa/internal/ethtool"
	"github.com/gotpa/tpa/link"
)

var _ link.Spreader = (*Device)(nil)

// RSS implements link.Spreader: how the interface spreads flows over the queues of
// the device. It is an error where the driver does not tell, hashes otherwise than
// by Toeplitz over addresses and ports, or leaves a queue out. It asks the driver,
// and so may take a millisecond.
func (d *Device) RSS() (link.RSS, error) {
	name := d.info.Name
	r, err := d.netdev.Ethtool.RSS(name)
	if err != nil {
		return link.RSS{}, fmt.Errorf("%s: ask for RSS key and table: %w", name, err)
	}
	for _, f := range []ethtool.Flow{ethtool.TCPv4, ethtool.TCPv6} {
		// Drivers that do not tell are taken to hash what nearly all do: where that is
		// wrong, segments are handed over as without a key.
		if four, err := d.netdev.Ethtool.FourTuple(name, f); err == nil && !four {
			return link.RSS{}, fmt.Errorf("%s: RSS does not hash addresses and ports alone: ethtool -N %s rx-flow-hash tcp4 sdfn, and the same for tcp6: %w",
				name, name, errors.ErrUnsupported)
		}
	}
	return spread(name, r, d.info.Queues)
}

// spread translates the RSS of an interface to that of so many link queues, each of
// which has every receive queue whose number leaves its own as the remainder.
func spread(name string, r ethtool.RSS, queues int) (link.RSS, error) {
	if r.Function != "toeplitz" || r.Symmetric {
		return link.RSS{}, fmt.Errorf("%s: RSS hashes by another function than Toeplitz (%s): ethtool -X %s hfunc toeplitz: %w",
			name, r.Function, name, errors.ErrUnsupported)
	}
	table := make([]uint16, len(r.Table))
	reached := make([]bool, queues)
	for i, q := range r.Table {
		table[i] = uint16(q % uint32(queues))
		reached[table[i]] = true
	}
	for q, ok := range reached {
		if !ok {
			// A search for a port whose answers arrive there would find none.
			return link.RSS{}, fmt.Errorf("%s: RSS leaves queue %d out: ethtool -X %s equal %d: %w", name, q, name, queues, errors.ErrUnsupported)
		}
	}
	return link.RSS{Key: r.Key, Table: table}, nil
}

// SetRSS implements link.Spreader: always an error. Key and table are the kernel's,
// whose own traffic follows them, too.
func (d *Device) SetRSS(link.RSS) error {
	return fmt.Errorf("%s: the RSS of an interface that the kernel has, too, stays as it is: %w", d.info.Name, errors.ErrUnsupported)
}
