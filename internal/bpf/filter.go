package bpf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	ebpflink "github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/rlimit"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/gotpa/tpa/link"
)

// Limits of the filter, as in filter.c.
const (
	// MaxQueues is the greatest number of receive queues with a socket.
	MaxQueues = 256
	// MaxAddrs is the greatest number of local addresses with claimed ports.
	MaxAddrs = 256
	// MaxExceptions is the greatest number of flows that do not go where their
	// port goes.
	MaxExceptions = 65536

	// MaxSources is the greatest number of prefixes that may connect.
	MaxSources = 1024
	// MaxSYNPorts is the greatest number of ports whose SYNs the filter answers.
	MaxSYNPorts = 4096

	words = 65536 / 64
)

// A Filter decides which frames leave the kernel: TCP segments to the addresses
// and ports that were claimed. A new filter has no claims and passes everything.
// All methods may be called by anyone at any time; what they change holds from
// the next frame on.
type Filter struct {
	mode      Mode
	index     int  // of the interface
	fragments bool // see Options
	// apart: tpa_answer answers SYNs, behind XDP.
	apart bool
	// namespace is that of the interface.
	namespace netns.NsHandle
	// pin is where the link is pinned, nil where it is not.
	pin *pin

	// mu guards the following fields.
	mu       sync.Mutex
	maps     filterMaps
	program  *ebpf.Program // attached
	answers  bool          // it answers SYNs by itself
	tap      *ebpf.Program // with AttachIngress, else nil
	attached ebpflink.Link
	rows     map[netip.Addr]*row
	used     [MaxAddrs]bool   // row indexes in use
	cookies  *link.SYNCookies // what Answer was called with last
	allowed  map[filterPrefix]bool
	dials    [words]uint64 // a bit for each port that we dial from
	behind   *ebpf.Program // tpa_answer, nil before it is needed
	answerer ebpflink.Link // behind, attached while there are cookies
	final    Counts
	closed   bool
}

// A row has the ports of one local address: what the kernel's maps hold, too.
type row struct {
	index uint32
	words [words]filterPortWord
	// exceptions are the flows at mixed ports, by port.
	exceptions map[uint16]map[link.Flow]owner
}

// owner is who gets a flow at a mixed port, as in filter.c.
type owner = uint8

const (
	kernel owner = iota
	ours
)

// Options are how to attach a filter.
type Options struct {
	// Mode is Auto, Native or Generic.
	Mode Mode
	// Pinned: the filter stays attached when it is closed, and when the process ends in
	// any way. It passes everything then, until the next Open takes its place.
	Pinned bool
	// Fragments: in native mode, frames may lie in several buffers, of which the first
	// has the headers (Linux 5.18).
	Fragments bool
}

// Open loads the filter and attaches it to an interface of the calling thread's
// network namespace as XDP. notNative is why it is attached in generic mode although
// native mode was tried first. Errors are of type *link.InterfaceError. The caller
// closes the filter.
func Open(l netlink.Link, o Options) (_ *Filter, notNative, err error) {
	mode := o.Mode
	if err := wantEthernet(l.Attrs()); err != nil {
		return nil, nil, err
	}
	var gathers error
	if mode != Generic && Gathers(l) {
		gathers = errGathers(l)
		if mode == Native {
			return nil, nil, gathers
		}
		mode = Generic
	}
	o.Mode = mode
	f, notNative, err := open(l.Attrs().Index, l.Type() == "veth", o, nil)
	if err != nil {
		return nil, nil, errFilter(l, mode, err)
	}
	return f, errors.Join(gathers, notNative), nil
}

// Replace is Open where another process has stepped aside: the filter takes the place of
// that process's at attachment, which Replace closes, and no frame is lost. The mode is
// that of the attachment. An error says so where it is not the interface's, or its
// program is none.
func Replace(l netlink.Link, attachment *os.File, o Options) (*Filter, error) {
	defer attachment.Close()
	fd, err := unix.FcntlInt(attachment.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, errFilter(l, Auto, os.NewSyscallError("fcntl", err))
	}
	at, err := ebpflink.NewFromFD(fd)
	if err != nil {
		unix.Close(fd)
		return nil, errFilter(l, Auto, err)
	}
	o.Mode = Generic
	if x := l.Attrs().Xdp; x != nil && x.AttachMode == nl.XDP_ATTACHED_DRV {
		o.Mode = Native
	}
	o.Fragments = o.Fragments && o.Mode == Native
	f, _, err := open(l.Attrs().Index, l.Type() == "veth", o, at)
	if err != nil {
		return nil, errFilter(l, o.Mode, errors.Join(err, at.Close()))
	}
	return f, nil
}

// open loads the filter and attaches it, or has it take the place of another one.
func open(index int, veth bool, o Options, place ebpflink.Link) (_ *Filter, notNative, err error) {
	mode := o.Mode
	if o.Fragments && mode == Auto {
		// Generic mode wants frames in one piece.
		o.Mode = Native
		if f, _, err := open(index, veth, o, nil); err == nil || occupied(err) || errors.Is(err, errPin) {
			return f, nil, err
		}
		o.Mode, o.Fragments = mode, false
	}
	f := &Filter{namespace: netns.None(), rows: make(map[netip.Addr]*row), index: index, fragments: o.Fragments}
	// First the lock: loading takes its time.
	if f.pin, err = openPin(index, o.Pinned); err != nil {
		return nil, nil, err
	}
	var objects struct {
		filterMaps
		Program *ebpf.Program `ebpf:"tpa_filter"`
	}
	if err := load(&objects, o.Fragments); err != nil {
		if f.pin != nil {
			f.pin.close()
		}
		return nil, nil, err
	}
	f.maps, f.program = objects.filterMaps, objects.Program
	if f.namespace, err = netns.Get(); err == nil {
		err = f.allowAll()
	}
	if err != nil {
		return nil, nil, errors.Join(err, f.free())
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.free())
			return
		}
		// A veth sends what XDP sends only to a peer that has NAPI (GRO, or XDP of its
		// own), and else loses it.
		f.apart = veth && f.mode == Native
	}()
	if place != nil {
		f.mode = mode
		info, err := place.Info()
		if err == nil && (info.XDP() == nil || info.XDP().Ifindex != uint32(index)) {
			err = errors.New("filter: the attachment is another interface's")
		}
		if err == nil {
			err = place.Update(f.program)
		}
		if err == nil && f.pin != nil {
			err = f.pin.adopt(place, mode)
		}
		if err != nil {
			return nil, nil, err
		}
		f.attached = place
		return f, nil, nil
	}
	if mode != Generic {
		f.mode = Native
		if f.attached, notNative = f.attach(); notNative == nil {
			return f, nil, nil
		}
		if mode == Native || occupied(notNative) || errors.Is(notNative, errPin) {
			return nil, nil, notNative
		}
	}
	f.mode = Generic
	if f.attached, err = f.attach(); err != nil {
		return nil, nil, err
	}
	return f, notNative, nil
}

// detachTime is more than the kernel takes to detach a link that nobody holds.
const detachTime = time.Second

// attach attaches the program where the filter's mode says, in the namespace of the
// calling thread.
func (f *Filter) attach() (ebpflink.Link, error) {
	if f.mode == Ingress {
		return ebpflink.AttachTCX(ebpflink.TCXOptions{Interface: f.index, Program: f.program, Attach: ebpf.AttachTCXIngress})
	}
	if f.pin != nil {
		if l := f.pin.takeOver(f.mode, f.program); l != nil {
			return l, nil
		}
	}
	flags := ebpflink.XDPDriverMode
	if f.mode == Generic {
		flags = ebpflink.XDPGenericMode
	}
	attach := func() (ebpflink.Link, error) {
		return ebpflink.AttachXDP(ebpflink.XDPOptions{Interface: f.index, Program: f.program, Flags: flags})
	}
	l, err := attach()
	// The kernel detaches a link some time after its last holder is gone: takeOver may
	// have removed one of another mode.
	for began := time.Now(); f.pin != nil && occupied(err) && time.Since(began) < detachTime; l, err = attach() {
		time.Sleep(time.Millisecond)
	}
	if err != nil || f.pin == nil || !f.pin.keep {
		return l, err
	}
	if err := l.Pin(f.pin.link(f.mode)); err != nil {
		return nil, errors.Join(fmt.Errorf("%w: %w", errPin, err), l.Close())
	}
	return l, nil
}

// Restore sees to it that the filter is attached. Nobody but its owner can detach
// it, or an administrator who means to; then the kernel has had every frame since.
// Restore attaches it again, and tells so. An error says why that cannot be.
func (f *Filter) Restore() (restored bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return false, nil
	}
	info, err := f.attached.Info()
	if err != nil {
		return false, fmt.Errorf("filter: ask whether it is attached: %w", err)
	}
	index := uint32(0)
	if x := info.XDP(); x != nil {
		index = x.Ifindex
	} else if x := info.TCX(); x != nil {
		index = x.Ifindex
	}
	if index != 0 {
		return false, nil
	}
	var again ebpflink.Link
	if err := f.there(func() (err error) {
		again, err = f.attach()
		return err
	}); err != nil {
		return false, fmt.Errorf("the filter was detached and cannot be attached again: %w", err)
	}
	f.attached.Close()
	f.attached = again
	return true, nil
}

// there calls do in the namespace of the interface, whose number is one of there.
func (f *Filter) there(do func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	here, err := netns.Get()
	if err != nil {
		return err
	}
	defer here.Close()
	if !here.Equal(f.namespace) {
		if err := netns.Set(f.namespace); err != nil {
			return err
		}
		defer func() {
			if netns.Set(here) != nil {
				runtime.LockOSThread() // the thread ends with its goroutine
			}
		}()
	}
	return do()
}

// OpenIngress loads the filter and attaches it behind the interface's XDP, where
// any number of filters have room: it drops what is ours before the kernel's
// protocols see it. A packet socket with Tap as its socket filter sees it before.
// It needs Linux 6.6. The caller closes the filter.
func OpenIngress(name string) (*Filter, error) {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return nil, NoInterface(name, err)
	}
	if err := wantEthernet(l.Attrs()); err != nil {
		return nil, err
	}
	var objects struct {
		filterMaps
		Ingress *ebpf.Program `ebpf:"tpa_ingress"`
		Tap     *ebpf.Program `ebpf:"tpa_tap"`
	}
	if err := load(&objects, false); err != nil {
		return nil, errFilter(l, Ingress, err)
	}
	f := &Filter{namespace: netns.None(), rows: make(map[netip.Addr]*row), maps: objects.filterMaps, tap: objects.Tap, mode: Ingress,
		index: l.Attrs().Index, program: objects.Ingress}
	if f.namespace, err = netns.Get(); err == nil {
		err = f.allowAll()
	}
	if err == nil {
		f.attached, err = f.attach()
	}
	if err != nil {
		return nil, errFilter(l, Ingress, errors.Join(err, f.free()))
	}
	return f, nil
}

// load loads the programs that objects names, and the maps. fragments says so of the
// program for XDP.
func load(objects any, fragments bool) error {
	// Before Linux 5.11, maps count as locked memory. Where the limit cannot be
	// lifted, loading says so.
	_ = rlimit.RemoveMemlock()
	spec, err := specify(fragments)
	if err != nil {
		return err
	}
	return spec.LoadAndAssign(objects, nil)
}

// loadLocked loads a program more, with the maps that there are.
func (f *Filter) loadLocked(name string) (*ebpf.Program, error) {
	spec, err := specify(f.fragments)
	if err != nil {
		return nil, err
	}
	spec.Programs = map[string]*ebpf.ProgramSpec{name: spec.Programs[name]}
	m := &f.maps
	c, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: map[string]*ebpf.Map{
		"addrs": m.Addrs, "allowed": m.Allowed, "cookies": m.Cookies, "dials": m.Dials, "flows": m.Flows, "fragments": m.Fragments,
		"frames": m.Frames, "nat_ports": m.NatPorts, "natted": m.Natted, "ports": m.Ports, "sockets": m.Sockets, "syn_ports": m.SynPorts,
	}})
	if err != nil {
		return nil, err
	}
	defer c.Close() // its maps are copies
	return c.DetachProgram(name), nil
}

// specify returns all programs and maps.
func specify(fragments bool) (*ebpf.CollectionSpec, error) {
	spec, err := loadFilter()
	if err != nil {
		return nil, err
	}
	// The kernel takes no types for a map of sockets, and 10 ms to say so.
	sockets := spec.Maps[filterMapSockets]
	sockets.Key, sockets.Value = nil, nil
	if fragments {
		for _, name := range []string{filterProgTpaFilter, filterProgTpaFilterSyn} {
			spec.Programs[name].Flags |= unix.BPF_F_XDP_HAS_FRAGS
		}
	}
	return spec, nil
}

// number returns the kernel's number for a program, 0 before Linux 4.13.
func number(p *ebpf.Program) ebpf.ProgramID {
	info, err := p.Info()
	if err != nil {
		return 0
	}
	id, _ := info.ID()
	return id
}

// Tap returns the file descriptor of the socket filter of a filter made by
// OpenIngress. It is the filter's.
func (f *Filter) Tap() int { return f.tap.FD() }

// Mode returns how the filter is attached: Native, Generic or Ingress.
func (f *Filter) Mode() Mode { return f.mode }

// String implements link.Filter.
func (f *Filter) String() string { return fmt.Sprintf("XDP filter, %v", f.mode) }

// Program returns the kernel's number of the attached program.
func (f *Filter) Program() ebpf.ProgramID {
	f.mu.Lock()
	defer f.mu.Unlock()
	return number(f.program)
}

// SetSocket makes fd the socket of a receive queue.
func (f *Filter) SetSocket(queue, fd int) error {
	return f.maps.Sockets.Update(uint32(queue), uint32(fd), ebpf.UpdateAny)
}

var errFilterClosed = fmt.Errorf("filter: %w", net.ErrClosed)

// Claim makes n ports from first on, at the local address addr, ours, with all
// flows there. The only errors are more than MaxAddrs addresses, no port to
// claim, and a closed filter.
func (f *Filter) Claim(addr netip.Addr, first uint16, n int) error {
	return f.change(addr, first, n, func(addr netip.Addr) error {
		r, err := f.rowLocked(addr)
		if err != nil {
			return err
		}
		return errors.Join(f.markLocked(r, first, n, true), f.forgetLocked(r, first, n))
	})
}

// Release ends what Claim and its exceptions began: the kernel gets all flows at
// these ports.
func (f *Filter) Release(addr netip.Addr, first uint16, n int) error {
	return f.change(addr, first, n, func(addr netip.Addr) error {
		r := f.rows[addr]
		if r == nil {
			return nil
		}
		return errors.Join(f.markLocked(r, first, n, false), f.forgetLocked(r, first, n))
	})
}

// ClaimExcept is Claim for one port, at which the kernel keeps the given flows:
// those that it has already.
func (f *Filter) ClaimExcept(addr netip.Addr, port uint16, flows []link.Flow) error {
	return f.change(addr, port, 1, func(addr netip.Addr) error {
		r, err := f.rowLocked(addr)
		if err != nil {
			return err
		}
		// First the exceptions, which change nothing for a port that is not claimed.
		if err := f.exceptLocked(r, addr, port, flows, kernel); err != nil {
			return errors.Join(err, f.forgetLocked(r, port, 1))
		}
		return f.markLocked(r, port, 1, true)
	})
}

// Drain gives a claimed port back to the kernel, except for the given flows:
// those stay ours until Except or Release takes them away.
func (f *Filter) Drain(addr netip.Addr, port uint16, flows []link.Flow) error {
	return f.change(addr, port, 1, func(addr netip.Addr) error {
		r := f.rows[addr]
		if r == nil {
			return fmt.Errorf("filter: drain port %d of %v: not claimed", port, addr)
		}
		// First the exceptions, which change nothing for a port that is claimed.
		if err := f.exceptLocked(r, addr, port, flows, ours); err != nil {
			return err
		}
		return f.markLocked(r, port, 1, false)
	})
}

// Except ends exceptions: the flows go where their port goes. Unknown flows do no
// harm.
func (f *Filter) Except(flows []link.Flow) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return errFilterClosed
	}
	var errs []error
	for _, fl := range flows {
		r := f.rows[fl.Local.Addr()]
		if r == nil {
			continue
		}
		port := fl.Local.Port()
		exceptions := r.exceptions[port]
		if _, ok := exceptions[fl]; !ok {
			continue
		}
		delete(exceptions, fl)
		errs = append(errs, f.maps.Flows.Delete(flowKey(fl)))
		if len(exceptions) == 0 {
			errs = append(errs, f.forgetLocked(r, port, 1), f.pruneLocked(fl.Local.Addr(), r))
		}
	}
	return errors.Join(errs...)
}

// change runs a change of the ports of an address.
func (f *Filter) change(addr netip.Addr, first uint16, n int, change func(netip.Addr) error) error {
	addr = addr.Unmap().WithZone("")
	if !addr.IsValid() || addr.IsUnspecified() || addr.IsMulticast() {
		return fmt.Errorf("filter: address %v: want one of this host's", addr)
	}
	if first == 0 || n < 1 || int(first)+n > 65536 {
		return fmt.Errorf("filter: %d ports from %d: want 1 to 65535", n, first)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return errFilterClosed
	}
	err := change(addr)
	if r := f.rows[addr]; r != nil {
		err = errors.Join(err, f.pruneLocked(addr, r))
	}
	return err
}

// Close detaches the filter, or has it pass everything where it is pinned: the kernel
// gets every frame again. Closing twice is harmless.
func (f *Filter) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return nil
	}
	f.final = f.countsLocked()
	f.closed = true
	var errs []error
	if f.pin != nil {
		for addr := range f.rows {
			errs = append(errs, ignoreMissing(f.maps.Addrs.Delete(addrKey(addr))))
		}
	}
	return errors.Join(append(errs, f.free())...)
}

// Unpin has a pinned filter end with its process, or when it is closed.
func (f *Filter) Unpin() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed || f.pin == nil || !f.pin.keep {
		return nil
	}
	f.pin.keep = false
	f.pin.remove(Auto)
	return nil
}

// free detaches the filter unless it is pinned, and frees what there is of it.
func (f *Filter) free() (err error) {
	if f.attached != nil {
		err = f.attached.Close()
	}
	if f.pin != nil {
		f.pin.close()
	}
	err = errors.Join(err, f.maps.Close(), f.program.Close())
	if f.answerer != nil {
		err = errors.Join(err, f.answerer.Close())
	}
	if f.behind != nil {
		err = errors.Join(err, f.behind.Close())
	}
	if f.tap != nil {
		err = errors.Join(err, f.tap.Close())
	}
	if f.namespace.IsOpen() {
		err = errors.Join(err, f.namespace.Close())
	}
	return err
}

// rowLocked returns the row of an address, a new one where there is none.
func (f *Filter) rowLocked(addr netip.Addr) (*row, error) {
	if r := f.rows[addr]; r != nil {
		return r, nil
	}
	for i, used := range f.used {
		if used {
			continue
		}
		// The words of a free row are zero: prune leaves none behind.
		r := &row{index: uint32(i)}
		if err := f.maps.Addrs.Put(addrKey(addr), r.index); err != nil {
			return nil, fmt.Errorf("filter: add address %v to the filter: %w", addr, err)
		}
		f.used[i] = true
		f.rows[addr] = r
		return r, nil
	}
	return nil, fmt.Errorf("filter: claim ports of %v: the filter has %d addresses already: listen on fewer", addr, MaxAddrs)
}

// markLocked sets or clears the claimed bits of n ports.
func (f *Filter) markLocked(r *row, first uint16, n int, claimed bool) error {
	return f.editLocked(r, first, n, func(w *filterPortWord, bit uint64) {
		w.Claimed &^= bit
		if claimed {
			w.Claimed |= bit
		}
	})
}

// exceptLocked adds exceptions at a port.
func (f *Filter) exceptLocked(r *row, addr netip.Addr, port uint16, flows []link.Flow, to owner) error {
	if len(flows) == 0 {
		return nil
	}
	if r.exceptions == nil {
		r.exceptions = make(map[uint16]map[link.Flow]owner)
	}
	if r.exceptions[port] == nil {
		r.exceptions[port] = make(map[link.Flow]owner)
	}
	for _, fl := range flows {
		if fl.Local != netip.AddrPortFrom(addr, port) {
			return fmt.Errorf("filter: flow to %v is none of %v port %d", fl.Local, addr, port)
		}
		if err := f.maps.Flows.Put(flowKey(fl), to); err != nil {
			return fmt.Errorf("filter: keep flow of %v to %v: %w", fl.Remote, fl.Local, err)
		}
		r.exceptions[port][fl] = to
	}
	return f.editLocked(r, port, 1, func(w *filterPortWord, bit uint64) { w.Mixed |= bit })
}

// forgetLocked ends all exceptions at n ports.
func (f *Filter) forgetLocked(r *row, first uint16, n int) error {
	err := f.editLocked(r, first, n, func(w *filterPortWord, bit uint64) { w.Mixed &^= bit })
	for port, flows := range r.exceptions {
		if port < first || int(port) >= int(first)+n {
			continue
		}
		for fl := range flows {
			err = errors.Join(err, f.maps.Flows.Delete(flowKey(fl)))
		}
		delete(r.exceptions, port)
	}
	return err
}

// editLocked changes the bits of n ports, and writes the words that differ then.
func (f *Filter) editLocked(r *row, first uint16, n int, change func(w *filterPortWord, bit uint64)) error {
	for port, end := int(first), int(first)+n; port < end; {
		i := port / 64
		old := r.words[i]
		for ; port < end && port/64 == i; port++ {
			change(&r.words[i], 1<<(port%64))
		}
		if r.words[i] == old {
			continue
		}
		if err := f.maps.Ports.Put(r.index*words+uint32(i), r.words[i]); err != nil {
			return fmt.Errorf("filter: write ports %d to %d to the filter: %w", i*64, i*64+63, err)
		}
	}
	return nil
}

// pruneLocked frees the row of an address that has no ports left.
func (f *Filter) pruneLocked(addr netip.Addr, r *row) error {
	if r.words != [words]filterPortWord{} {
		return nil
	}
	delete(f.rows, addr)
	f.used[r.index] = false
	return ignoreMissing(f.maps.Addrs.Delete(addrKey(addr)))
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

func flowKey(f link.Flow) filterFlow {
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
