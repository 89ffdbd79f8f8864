package xdp

import (
	"cmp"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/gotpa/tpa/internal/bpf"
	"github.com/gotpa/tpa/internal/ethtool"
	"github.com/gotpa/tpa/internal/genetlink"
	"github.com/gotpa/tpa/internal/netdevgenl"
	"github.com/gotpa/tpa/link"
	"github.com/vishvananda/netlink"
)

// A Plan is what Open would make of an interface, as far as the kernel tells
// without a filter attached. A driver may still refuse: Open then takes the next
// best, and says why.
type Plan struct {
	// Driver is the name of the driver, Version what it says of itself.
	Driver, Version string
	// Told: the kernel told what the driver does (Linux 6.3 and newer). Else that
	// follows from the driver's name.
	Told bool

	// Attach is AttachNative or AttachGeneric. NotNative is why it is not native, ""
	// where it is, and Remedy what to do about that.
	Attach            Attach
	NotNative, Remedy string
	// Refused is why Open refuses the interface with ErrJoined, "" where it does not.
	Refused string
	// ZeroCopy: the device reads and writes the chunks itself. Copies is why it does
	// not, "" where it does.
	ZeroCopy bool
	Copies   string
	// Fragments: frames may arrive in several chunks, and are copied into one piece
	// (Linux 6.6). In native mode this MTU needs it; in generic mode frames of a greater
	// MTU come so, and segments that were joined or that a local sender never cut.
	Fragments bool
	// TxChecksum: the device fills in checksums of what is sent in zero-copy mode.
	TxChecksum bool
	// ChunkSize is the size of chunks in bytes.
	ChunkSize int

	// MTU is the interface's, MaxMTU the greatest for which the plan holds, both in
	// bytes; MaxMTU is 0 where it is not known.
	MTU, MaxMTU int
	// Queues are the receive queues in use, MaxQueues the most that the driver runs
	// with XDP, 0 where that is not known.
	Queues, MaxQueues int
	// Slower is why a packet socket (link/packet) is faster than all this, "" where it is
	// not.
	Slower string
	// Traps are what is known of the driver that may surprise, a sentence each.
	Traps []string
}

// Plan asks about the interface and attaches nothing. It needs no rights. Errors
// are those of the configuration, or of type *link.InterfaceError.
func (c Config) Plan() (Plan, error) {
	c, err := c.withDefaults()
	if err != nil {
		return Plan{}, err
	}
	l, err := netlink.LinkByName(c.Interface)
	if err != nil {
		return Plan{}, bpf.NoInterface(c.Interface, err)
	}
	return c.plan(ask(l)), nil
}

// facts are what the kernel tells about an interface.
type facts struct {
	driver ethtool.Driver
	mtu    int
	// device is nil where the kernel does not tell.
	device   *netdevgenl.Device
	channels ethtool.Channels
	rings    ethtool.Rings // zero where the kernel does not tell
	kernel   string        // "6.1.0-18-amd64"
	// queues are those that there are, in use or not.
	queues int
	// gathers: see bpf.Gathers.
	gathers bool
	virtio  virtio
	// lowerGRO are the interfaces below that join segments.
	lowerGRO []lowerGRO
	// processors is how many there may be, on line or not.
	processors int
}

// ask asks in the network namespace of the calling thread. What the kernel does
// not know stays zero.
func ask(l netlink.Link) facts {
	attrs := l.Attrs()
	f := facts{mtu: attrs.MTU, queues: attrs.NumRxQueues, gathers: bpf.Gathers(l), kernel: bpf.KernelRelease(), virtio: virtioOf(attrs), lowerGRO: askLower(l), processors: processors()}
	if s, err := ethtool.Open(); err == nil {
		defer s.Close()
		f.driver, _ = s.Driver(attrs.Name)
		f.channels, _ = s.Channels(attrs.Name)
		f.rings, _ = s.Rings(attrs.Name)
	}
	f.driver.Name = cmp.Or(f.driver.Name, l.Type())
	if c, err := genetlink.Open(); err == nil {
		defer c.Close()
		if d, err := netdevgenl.Get(c, attrs.Index); err == nil {
			f.device = &d
		}
	}
	return f
}

// processors counts the processors that there may be; 0 for unknown.
func processors() int {
	list, _ := os.ReadFile("/sys/devices/system/cpu/possible") // "0-3"
	last := strings.TrimSpace(string(list))
	n, err := strconv.Atoi(last[strings.LastIndexAny(last, "-,")+1:])
	if err != nil {
		return 0
	}
	return n + 1
}

// staleQueues is why zero-copy mode is not tried where XDP adds queues.
const staleQueues = "with XDP the driver takes more queues into use, whose zero-copy sockets would harm the kernel after a kill: let ethtool -L give it all that there are"

// harm is why zero-copy mode must not be tried, though the driver may take it.
func (f facts) harm() string {
	d := drivers[f.driver.Name]
	switch {
	case d.ownZeroCopyQueues && f.before(6, 1):
		return "zero-copy mode of this driver has queues before Linux 6.1 that RSS does not reach"
	case d.addsQueues && f.processors > 0 && f.channels.Combined+f.processors <= f.channels.MaxCombined:
		return staleQueues
	}
	return ""
}

// before tells whether the kernel is older than a version.
func (f facts) before(major, minor int) bool {
	var is [2]int
	fmt.Sscanf(f.kernel, "%d.%d", &is[0], &is[1])
	return slices.Compare(is[:], []int{major, minor}) < 0
}

// plan concludes from the facts.
func (c Config) plan(f facts) Plan {
	d := drivers[f.driver.Name]
	p := Plan{
		Driver: f.driver.Name, Version: f.driver.Version, Told: f.device != nil,
		MTU: f.mtu, MaxMTU: d.maxMTU, Attach: AttachNative, ChunkSize: d.chunkSize(f.mtu),
		Slower: d.slower,
		Queues: cmp.Or(f.channels.Receiving(), f.queues, 1), MaxQueues: f.channels.MaxReceiving(),
	}
	for _, t := range d.traps {
		p.Traps = append(p.Traps, strings.ReplaceAll(t, "DEVICE", c.Interface))
	}
	if d.halfQueues {
		p.MaxQueues /= 2
	}
	features := d.features()
	if f.device != nil {
		features = f.device.Features
	}
	most := cmp.Or(d.maxMTU, maxMTU)
	fragments := f.mtu > most && features.Has(netdevgenl.Fragments) && !f.before(6, 6)
	switch {
	case len(f.lowerGRO) > 0 && f.before(6, 6): // later there are fragments
		p.Refused = whyLowerGRO(f.lowerGRO)
		p.NotNative, p.Remedy = p.Refused, lowerGRORemedy(f.lowerGRO)
	case c.Attach == AttachGeneric:
		p.NotNative, p.Remedy = "AttachGeneric was asked for", "use AttachAuto"
	case f.gathers:
		p.NotNative, p.Remedy = bpf.WhyGathers, "none: generic mode or a packet socket has it"
	case !features.Has(netdevgenl.Basic):
		p.NotNative, p.Remedy = "the driver does not run XDP", "use an interface whose driver does, or a newer kernel"
	case !features.Has(netdevgenl.Redirect):
		p.NotNative, p.Remedy = "the driver's XDP cannot redirect frames to sockets", "use another interface, or a newer kernel"
	case f.virtio.joins():
		p.NotNative, p.Remedy = whyJoined, "use a packet socket: TPA_DEV="+c.Interface
	case d.maxMTU != 0 && f.mtu > d.maxMTU && !fragments:
		p.NotNative = fmt.Sprintf("the driver runs XDP up to an MTU of %d", d.maxMTU)
		p.Remedy = fmt.Sprintf("ip link set dev %s mtu %d", c.Interface, d.maxMTU)
	case d.halfQueues && p.MaxQueues > 0 && p.Queues > p.MaxQueues:
		p.NotNative = "the driver runs XDP with half of its queues at most"
		p.Remedy = fmt.Sprintf("ethtool -L %s combined %d", c.Interface, p.MaxQueues)
	}
	if f.virtio.joins() {
		p.Refused = whyJoined
	}
	p.Fragments = fragments && p.NotNative == ""
	switch {
	case p.NotNative != "":
		p = p.generic(f)
	case p.Fragments:
		p.MaxMTU = 0
		p.Copies = fmt.Sprintf("at an MTU over %d frames lie in several chunks", most)
	case c.Copy:
		p.Copies = "Config.Copy was asked for"
	case !features.Has(netdevgenl.ZeroCopy):
		p.Copies = "the driver has no zero-copy mode"
	case f.harm() != "":
		p.Copies = f.harm()
	case f.virtio.physical():
		// virtnet_xsk_pool_enable wants a DMA device: virtqueue_dma_dev.
		p.Copies = "the hypervisor gives the device no DMA mapping, which zero-copy mode needs (QEMU: iommu_platform=on)"
	case d.powerOfTwoRings && (f.rings.Receive&(f.rings.Receive-1) != 0 || f.rings.Transmit&(f.rings.Transmit-1) != 0):
		p.Copies = fmt.Sprintf("the driver's zero-copy mode wants rings of a power of two: ethtool -G %s rx 2048 tx 2048", c.Interface)
	default:
		p.ZeroCopy = true
		p.TxChecksum = f.device != nil && f.device.TxChecksum
	}
	return p
}

// generic is the plan for generic mode.
func (p Plan) generic(f facts) Plan {
	p.Attach = AttachGeneric
	p.Copies = "generic mode copies"
	p.MaxMTU = maxMTU
	if p.Fragments = !f.before(6, 6); p.Fragments {
		p.MaxMTU = 0 // __xsk_rcv cuts what generic mode has made one piece of
	}
	return p
}

// maxMTU is the greatest MTU of frames that fit a chunk.
const maxMTU = pageSize - headroom - link.EthernetHeaderLen

// String describes a plan in a line: "native, zero-copy".
func (p Plan) String() string {
	s := p.Attach.String() + ", "
	if p.ZeroCopy {
		s += "zero-copy"
	} else {
		s += "copy"
	}
	if p.Fragments && p.Attach == AttachNative {
		s += ", frames in several chunks"
	}
	return s
}
