//go:build linux

package xdp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"

	"github.com/cilium/ebpf"
	ebpflink "github.com/cilium/ebpf/link"
)

// Limits of the filter, as in filter.c.
const (
	// MaxAddrs is the greatest number of local addresses with claimed ports.
	MaxAddrs = 64
	// MaxDraining is the greatest number of flows at draining ports.
	MaxDraining = 65536

	words = 65536 / 64
)

// A Filter decides which frames leave the kernel: TCP segments to the addresses
// and ports that were claimed. A new filter has no claims and passes everything.
// All methods may be called by anyone at any time; what they change holds from
// the next frame on.
type Filter struct {
	attach Attach

	// mu guards the following fields.
	mu      sync.Mutex
	objects filterObjects
	link    ebpflink.Link
	rows    map[netip.Addr]*row
	used    [MaxAddrs]bool // row indexes in use
	final   Verdicts
	closed  bool
}

// A row has the ports of one local address: what the kernel's maps hold, too.
type row struct {
	index uint32
	words [words]filterPortWord
	flows map[uint16][]filterFlow // by draining port
}

// A Flow is one TCP connection.
type Flow struct{ Local, Remote netip.AddrPort }

// Verdicts count frames by what the filter made of them. All but the first went
// on to the kernel.
type Verdicts struct {
	// Redirected went to a socket of this process.
	Redirected uint64
	// NoSocket were ours, on a receive queue without a socket.
	NoSocket uint64
	// NotIP were neither IPv4 nor IPv6, or tagged with a VLAN, or not unicast.
	NotIP uint64
	// NotTCP carried another protocol: UDP, ICMP.
	NotTCP uint64
	// Fragment were pieces of IP packets.
	Fragment uint64
	// IPOptions carried IPv4 options or IPv6 extension headers.
	IPOptions uint64
	// Malformed were too short for their headers.
	Malformed uint64
	// OtherAddress were TCP to an address without claims.
	OtherAddress uint64
	// OtherPort were TCP to a port that is not claimed.
	OtherPort uint64
}

// fields are the counters in the order of enum verdict in filter.c.
func (v *Verdicts) fields() []*uint64 {
	return []*uint64{
		&v.Redirected, &v.NoSocket, &v.NotIP, &v.NotTCP, &v.Fragment, &v.IPOptions,
		&v.Malformed, &v.OtherAddress, &v.OtherPort,
	}
}

// openFilter loads the filter and attaches it. notNative is why it is attached in
// generic mode although native mode was tried first.
func openFilter(index int, mode Attach) (f *Filter, notNative, err error) {
	f = &Filter{rows: make(map[netip.Addr]*row)}
	if err := loadFilterObjects(&f.objects, nil); err != nil {
		return nil, nil, err
	}
	options := ebpflink.XDPOptions{Program: f.objects.TpaFilter, Interface: index}
	if mode != AttachGeneric {
		options.Flags = ebpflink.XDPDriverMode
		f.attach = AttachNative
		if f.link, notNative = ebpflink.AttachXDP(options); notNative == nil {
			return f, nil, nil
		}
		if mode == AttachNative || occupied(notNative) {
			f.objects.Close()
			return nil, nil, notNative
		}
	}
	options.Flags = ebpflink.XDPGenericMode
	f.attach = AttachGeneric
	if f.link, err = ebpflink.AttachXDP(options); err != nil {
		f.objects.Close()
		return nil, nil, err
	}
	return f, notNative, nil
}

// Attach returns how the filter is attached: AttachNative or AttachGeneric.
func (f *Filter) Attach() Attach { return f.attach }

// setSocket makes fd the socket of a receive queue.
func (f *Filter) setSocket(queue, fd int) error {
	return f.objects.Sockets.Update(uint32(queue), uint32(fd), ebpf.UpdateAny)
}

var errFilterClosed = fmt.Errorf("xdp: filter: %w", net.ErrClosed)

// Claim makes n ports from first on, at the local address addr, ours. What was
// claimed before stays so. The only errors are more than MaxAddrs addresses, no
// port to claim, and a closed filter.
func (f *Filter) Claim(addr netip.Addr, first uint16, n int) error {
	addr, err := check(addr, first, n)
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return errFilterClosed
	}
	r, err := f.row(addr)
	if err != nil {
		return err
	}
	err = f.mark(r, first, n, true)
	return errors.Join(err, f.prune(addr, r))
}

// Release ends what Claim or Drain began. Ports that are neither claimed nor
// draining stay as they are.
func (f *Filter) Release(addr netip.Addr, first uint16, n int) error {
	addr, err := check(addr, first, n)
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return errFilterClosed
	}
	r := f.rows[addr]
	if r == nil {
		return nil
	}
	err = f.mark(r, first, n, false)
	for port := int(first); port < int(first)+n; port++ {
		for _, fl := range r.flows[uint16(port)] {
			err = errors.Join(err, ignoreMissing(f.objects.Flows.Delete(fl)))
		}
		delete(r.flows, uint16(port))
	}
	return errors.Join(err, f.prune(addr, r))
}

// Drain gives a claimed port back to the kernel, except for the flows: those stay
// ours until Release. A port that drains already gets these flows on top.
func (f *Filter) Drain(addr netip.Addr, port uint16, flows []Flow) error {
	addr, err := check(addr, port, 1)
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return errFilterClosed
	}
	r := f.rows[addr]
	if r == nil {
		return fmt.Errorf("xdp: drain port %d of %v: not claimed", port, addr)
	}
	for _, fl := range flows {
		if fl.Local != netip.AddrPortFrom(addr, port) {
			return fmt.Errorf("xdp: drain port %d of %v: flow to %v", port, addr, fl.Local)
		}
		key := flowKey(fl)
		if err := f.objects.Flows.Put(key, uint8(1)); err != nil {
			return fmt.Errorf("xdp: drain port %d of %v: add flow %v to %v: %w", port, addr, fl.Remote, fl.Local, err)
		}
		if r.flows == nil {
			r.flows = make(map[uint16][]filterFlow)
		}
		r.flows[port] = append(r.flows[port], key)
	}
	// Two steps: a frame that comes between them is still ours. The kernel
	// copies a word in two halves.
	w, bit := &r.words[port/64], uint64(1)<<(port%64)
	if w.Draining&bit == 0 {
		w.Draining |= bit
		if err := f.store(r, int(port/64)); err != nil {
			return err
		}
	}
	if w.Claimed&bit != 0 {
		w.Claimed &^= bit
		return f.store(r, int(port/64))
	}
	return nil
}

// Verdicts returns the counters. Those of a closed filter are its last ones.
func (f *Filter) Verdicts() Verdicts {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.verdicts()
}

func (f *Filter) verdicts() Verdicts {
	if f.closed {
		return f.final
	}
	var v Verdicts
	for i, field := range v.fields() {
		var perCPU []uint64
		if f.objects.Verdicts.Lookup(uint32(i), &perCPU) != nil {
			continue
		}
		for _, n := range perCPU {
			*field += n
		}
	}
	return v
}

// close detaches the filter: the kernel gets every frame again.
func (f *Filter) close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return nil
	}
	f.final = f.verdicts()
	f.closed = true
	return errors.Join(f.link.Close(), f.objects.Close())
}

// row returns the row of an address, a new one where there is none.
func (f *Filter) row(addr netip.Addr) (*row, error) {
	if r := f.rows[addr]; r != nil {
		return r, nil
	}
	for i, used := range f.used {
		if used {
			continue
		}
		// The words of a free row are zero: prune leaves none behind.
		r := &row{index: uint32(i)}
		if err := f.objects.Addrs.Put(addrKey(addr), r.index); err != nil {
			return nil, fmt.Errorf("xdp: add address %v to the filter: %w", addr, err)
		}
		f.used[i] = true
		f.rows[addr] = r
		return r, nil
	}
	return nil, fmt.Errorf("xdp: claim ports of %v: the filter has %d addresses already: listen on fewer", addr, MaxAddrs)
}

// mark sets or clears the bits of n ports.
func (f *Filter) mark(r *row, first uint16, n int, claimed bool) error {
	for port, end := int(first), int(first)+n; port < end; {
		i := port / 64
		w := &r.words[i]
		old := *w
		for ; port < end && port/64 == i; port++ {
			bit := uint64(1) << (port % 64)
			w.Claimed &^= bit
			w.Draining &^= bit
			if claimed {
				w.Claimed |= bit
			}
		}
		if *w == old {
			continue
		}
		if err := f.store(r, i); err != nil {
			return err
		}
	}
	return nil
}

// store writes word i of a row to the kernel's map.
func (f *Filter) store(r *row, i int) error {
	if err := f.objects.Ports.Put(r.index*words+uint32(i), r.words[i]); err != nil {
		return fmt.Errorf("xdp: write ports %d to %d to the filter: %w", i*64, i*64+63, err)
	}
	return nil
}

// prune frees the row of an address that has no ports left.
func (f *Filter) prune(addr netip.Addr, r *row) error {
	if r.words != [words]filterPortWord{} {
		return nil
	}
	delete(f.rows, addr)
	f.used[r.index] = false
	return ignoreMissing(f.objects.Addrs.Delete(addrKey(addr)))
}

// check refuses what cannot be claimed, and returns the address in the form that
// keys have: IPv4 as such, no zone.
func check(addr netip.Addr, first uint16, n int) (netip.Addr, error) {
	addr = addr.Unmap().WithZone("")
	if !addr.IsValid() || addr.IsUnspecified() || addr.IsMulticast() {
		return addr, fmt.Errorf("xdp: filter: address %v: want one of this host's", addr)
	}
	if first == 0 || n < 1 || int(first)+n > 65536 {
		return addr, fmt.Errorf("xdp: filter: %d ports from %d: want 1 to 65535", n, first)
	}
	return addr, nil
}

func ignoreMissing(err error) error {
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return nil
	}
	return err
}

// addrKey returns an address as the filter sees it: 16 bytes in network byte
// order.
func addrKey(a netip.Addr) (key filterAddr) {
	b := a.As16()
	for i := range key.Word {
		key.Word[i] = binary.NativeEndian.Uint32(b[4*i:])
	}
	return key
}

func flowKey(f Flow) filterFlow {
	return filterFlow{
		Local:      addrKey(f.Local.Addr()),
		Remote:     addrKey(f.Remote.Addr()),
		LocalPort:  networkOrder(f.Local.Port()),
		RemotePort: networkOrder(f.Remote.Port()),
	}
}

func networkOrder(v uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, v))
}
