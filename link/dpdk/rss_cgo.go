//go:build dpdk && cgo && linux

package dpdk

// #include "shim.h"
import "C"

import (
	"errors"
	"fmt"
	"net"
	"syscall"

	"github.com/gotpa/tpa/link"
)

var errNoRSS = fmt.Errorf("the driver cannot tell or set how it spreads flows: %w", ErrNotSupported)

// RSS returns the Toeplitz key and the redirection table in use.
func (d *device) RSS() (link.RSS, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.canRSS(); err != nil {
		return link.RSS{}, d.errorf("RSS: %w", err)
	}
	key := make([]C.uint8_t, d.keySize)
	table := make([]C.uint16_t, d.tableSize)
	if err := errno(C.tpa_get_rss(d.id, &key[0], d.keySize, &table[0], d.tableSize)); err != nil {
		return link.RSS{}, d.errorf("RSS: %w", unsupported(err))
	}
	rss := link.RSS{Key: make([]byte, len(key)), Table: make([]uint16, len(table))}
	for i, b := range key {
		rss.Key[i] = byte(b)
	}
	for i, q := range table {
		rss.Table[i] = uint16(q)
	}
	return rss, nil
}

// SetRSS sets key and redirection table. Both must have the sizes that RSS
// returns.
func (d *device) SetRSS(rss link.RSS) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.canRSS(); err != nil {
		return d.errorf("RSS: %w", err)
	}
	if len(rss.Key) != int(d.keySize) {
		return d.errorf("RSS: the key has %d bytes: want %d", len(rss.Key), d.keySize)
	}
	if len(rss.Table) != int(d.tableSize) {
		return d.errorf("RSS: the table has %d entries: want %d", len(rss.Table), d.tableSize)
	}
	key := make([]C.uint8_t, d.keySize)
	for i, b := range rss.Key {
		key[i] = C.uint8_t(b)
	}
	table := make([]C.uint16_t, d.tableSize)
	for i, q := range rss.Table {
		if int(q) >= len(d.queues) {
			return d.errorf("RSS: entry %d of the table is queue %d: the device has %d queues", i, q, len(d.queues))
		}
		table[i] = C.uint16_t(q)
	}
	if err := errno(C.tpa_set_rss(d.id, &key[0], d.keySize, &table[0], d.tableSize)); err != nil {
		return d.errorf("RSS: %w", unsupported(err))
	}
	return nil
}

func (d *device) canRSS() error {
	switch {
	case d.closed:
		return net.ErrClosed
	case d.keySize == 0 || d.tableSize == 0:
		return errNoRSS
	}
	return nil
}

// unsupported turns a driver's ENOTSUP into ErrNotSupported.
func unsupported(err error) error {
	if errors.Is(err, syscall.ENOTSUP) {
		return errNoRSS
	}
	return err
}
