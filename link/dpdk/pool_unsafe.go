//go:build dpdk && cgo && linux

package dpdk

// #include "shim.h"
import "C"

import (
	"fmt"
	"syscall"
	"unsafe"
)

// pool is a mempool of mbufs.
type pool struct{ c unsafe.Pointer }

// newPool makes a pool of n buffers of room bytes on a NUMA node.
func newPool(name string, n, room int, numa C.int) (pool, error) {
	s, free := cString(name)
	defer free()
	var ret C.int
	// A cache must be smaller than two thirds of its pool.
	cache := min(cacheSize, n/4)
	p := pool{C.tpa_pool_new(s, C.unsigned(n), C.unsigned(cache), C.unsigned(room), numa, &ret)}
	switch err := errno(ret); err {
	case nil:
		return p, nil
	case syscall.ENOMEM, syscall.ENOBUFS, syscall.ENOSPC:
		return p, fmt.Errorf("no memory for %d buffers of %d bytes: raise EAL.MemoryMB, reserve more huge pages, or ask for smaller rings: %w", n, room, syscall.ENOMEM)
	default:
		return p, fmt.Errorf("%d buffers of %d bytes: %w", n, room, err)
	}
}

func (p pool) inUse() int { return int(C.tpa_pool_in_use(p.c)) }
func (p pool) size() int  { return int(C.tpa_pool_size(p.c)) }
func (p pool) free()      { C.tpa_pool_free(p.c) }
