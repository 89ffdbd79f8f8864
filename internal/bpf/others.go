package bpf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/cilium/ebpf"
	ebpflink "github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"

	"github.com/gotpa/tpa/link"
)

// Others returns the flows at a local port that filters of other processes on the
// interface keep for them: of servers that gave the port back and have connections
// left there. It needs CAP_SYS_ADMIN, where there are such filters.
func (f *Filter) Others(port uint16) ([]link.Flow, error) {
	l, err := netlink.LinkByIndex(f.index)
	if err != nil {
		return nil, fmt.Errorf("filter: look for other filters: %w", err)
	}
	var programs []ebpf.ProgramID
	if x := l.Attrs().Xdp; x != nil && x.Attached {
		programs = append(programs, ebpf.ProgramID(x.ProgId))
	}
	// Before Linux 6.6 there are none behind XDP.
	if behind, err := ebpflink.QueryPrograms(ebpflink.QueryOptions{Target: f.index, Attach: ebpf.AttachTCXIngress}); err == nil {
		for _, p := range behind.Programs {
			programs = append(programs, p.ID)
		}
	}
	own := f.programs()
	var flows []link.Flow
	var errs []error
	for _, id := range programs {
		if slices.Contains(own, id) {
			continue
		}
		more, err := kept(id, port)
		errs = append(errs, err)
		flows = append(flows, more...)
	}
	if err := errors.Join(errs...); err != nil {
		return flows, fmt.Errorf("filter: look into other filters: %w", err)
	}
	return flows, nil
}

// programs returns the kernel's numbers of the programs that the filter has at the
// interface.
func (f *Filter) programs() []ebpf.ProgramID {
	f.mu.Lock()
	defer f.mu.Unlock()
	own := []ebpf.ProgramID{number(f.program)}
	if f.answerer != nil {
		if info, err := f.answerer.Info(); err == nil {
			own = append(own, info.Program)
		}
	}
	return own
}

// kept reads the flows at a port that a program keeps for its process, if it is one
// of ours.
func kept(id ebpf.ProgramID, port uint16) ([]link.Flow, error) {
	program, err := ebpf.NewProgramFromID(id)
	if err != nil {
		return nil, err
	}
	defer program.Close()
	info, err := program.Info()
	if err != nil || !slices.Contains([]string{"tpa_filter", "tpa_ingress"}, info.Name) {
		return nil, err
	}
	maps, _ := info.MapIDs()
	for _, id := range maps {
		m, err := ebpf.NewMapFromID(id)
		if err != nil {
			return nil, err
		}
		defer m.Close()
		if i, err := m.Info(); err != nil || i.Name != "flows" || i.KeySize != uint32(binary.Size(filterFlow{})) {
			continue
		}
		var flows []link.Flow
		var key filterFlow
		var to owner
		all := m.Iterate()
		for all.Next(&key, &to) {
			if fl := flowOf(key); to == ours && fl.Local.Port() == port {
				flows = append(flows, fl)
			}
		}
		return flows, all.Err()
	}
	return nil, nil
}

// flowOf is the reverse of flowKey.
func flowOf(key filterFlow) link.Flow {
	return link.Flow{
		Local:  netip.AddrPortFrom(addrOf(key.Local), networkOrder(key.LocalPort)),
		Remote: netip.AddrPortFrom(addrOf(key.Remote), networkOrder(key.RemotePort)),
	}
}

func addrOf(a filterAddr) netip.Addr {
	var b [16]byte
	for i, w := range a.Word {
		binary.NativeEndian.PutUint32(b[4*i:], w)
	}
	return netip.AddrFrom16(b).Unmap()
}
