package xdp

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/gotpa/tpa/internal/ethtool"
	"github.com/gotpa/tpa/internal/netdevgenl"
)

func TestPlan(t *testing.T) {
	told := func(f netdevgenl.Features) *netdevgenl.Device { return &netdevgenl.Device{Features: f} }
	const native, zeroCopy = netdevgenl.Basic | netdevgenl.Redirect, netdevgenl.Basic | netdevgenl.Redirect | netdevgenl.ZeroCopy
	for _, tt := range []struct {
		name string
		cfg  Config
		facts
		want Plan
	}{
		{
			"ENA in Linux copies", Config{}, facts{driver: ethtool.Driver{Name: "ena"}, mtu: 1500, device: told(native), channels: ethtool.Channels{Combined: 4, MaxCombined: 8}},
			Plan{Told: true, Attach: AttachNative, Copies: "the driver has no zero-copy mode", ChunkSize: 4096, MaxMTU: 3498, Queues: 4, MaxQueues: 4},
		},
		{
			"ENA of Amazon", Config{}, facts{driver: ethtool.Driver{Name: "ena", Version: "2.17.2g"}, mtu: 1500, device: told(zeroCopy), channels: ethtool.Channels{Combined: 4, MaxCombined: 8}},
			Plan{Version: "2.17.2g", Told: true, Attach: AttachNative, ZeroCopy: true, ChunkSize: 4096, MaxMTU: 3498, Queues: 4, MaxQueues: 4},
		},
		{
			"ENA as a cloud gives it", Config{}, facts{driver: ethtool.Driver{Name: "ena"}, mtu: 9001, device: told(zeroCopy), channels: ethtool.Channels{Combined: 8, MaxCombined: 8}},
			Plan{Told: true, Attach: AttachGeneric, NotNative: "the driver runs XDP up to an MTU of 3498", Remedy: "ip link set dev eth0 mtu 3498",
				Copies: "generic mode copies", ChunkSize: 4096, MaxMTU: 3826, Queues: 8, MaxQueues: 4},
		},
		{
			"frames in several chunks", Config{}, facts{driver: ethtool.Driver{Name: "i40e"}, mtu: 9000, device: told(zeroCopy | netdevgenl.Fragments), kernel: "6.6.0"},
			Plan{Told: true, Attach: AttachNative, Fragments: true, Copies: "at an MTU over 3046 frames lie in several chunks", ChunkSize: 4096, Queues: 1},
		},
		{
			"sockets that take one chunk", Config{}, facts{driver: ethtool.Driver{Name: "i40e"}, mtu: 9000, device: told(zeroCopy | netdevgenl.Fragments), kernel: "6.5.0"},
			Plan{Told: true, Attach: AttachGeneric, NotNative: "the driver runs XDP up to an MTU of 3046", Remedy: "ip link set dev eth0 mtu 3046",
				Copies: "generic mode copies", ChunkSize: 4096, MaxMTU: 3826, Queues: 1},
		},
		{
			"ENA with all of its queues", Config{}, facts{driver: ethtool.Driver{Name: "ena"}, mtu: 1500, device: told(zeroCopy), channels: ethtool.Channels{Combined: 8, MaxCombined: 8}},
			Plan{Told: true, Attach: AttachGeneric, NotNative: "the driver runs XDP with half of its queues at most", Remedy: "ethtool -L eth0 combined 4",
				Copies: "generic mode copies", ChunkSize: 4096, MaxMTU: 3826, Queues: 8, MaxQueues: 4},
		},
		{
			"ice before Linux 6.3", Config{}, facts{driver: ethtool.Driver{Name: "ice"}, mtu: 1500, channels: ethtool.Channels{Combined: 8, MaxCombined: 16}},
			Plan{Attach: AttachNative, ZeroCopy: true, ChunkSize: 2048, MaxMTU: 3046, Queues: 8, MaxQueues: 16},
		},
		{
			"checksums by the device", Config{}, facts{driver: ethtool.Driver{Name: "mlx5_core"}, mtu: 1500,
				device: &netdevgenl.Device{Features: zeroCopy, TxChecksum: true}, kernel: "6.8.0", channels: ethtool.Channels{Combined: 8, MaxCombined: 8}},
			Plan{Told: true, Attach: AttachNative, ZeroCopy: true, TxChecksum: true, ChunkSize: 2048, Queues: 8, MaxQueues: 8},
		},
		{
			"queues of mlx5 before Linux 6.1", Config{}, facts{driver: ethtool.Driver{Name: "mlx5_core"}, mtu: 1500, kernel: "5.15.0-100-generic"},
			Plan{Attach: AttachNative, Copies: "zero-copy mode of this driver has queues before Linux 6.1 that RSS does not reach", ChunkSize: 2048, Queues: 1},
		},
		{
			"rings of an odd size", Config{}, facts{driver: ethtool.Driver{Name: "ice"}, mtu: 1500, rings: ethtool.Rings{Receive: 2048, Transmit: 2000}},
			Plan{Attach: AttachNative, Copies: "the driver's zero-copy mode wants rings of a power of two: ethtool -G eth0 rx 2048 tx 2048", ChunkSize: 2048, MaxMTU: 3046, Queues: 1},
		},
		{
			"virtio of a hypervisor without DMA mapping", Config{}, facts{driver: ethtool.Driver{Name: "virtio_net"}, mtu: 1500, device: told(zeroCopy), queues: 1, virtio: virtio("0000000000000000000000000000000000")},
			Plan{Told: true, Attach: AttachNative, Copies: "the hypervisor gives the device no DMA mapping, which zero-copy mode needs (QEMU: iommu_platform=on)",
				ChunkSize: 2048, MaxMTU: 3506, Queues: 1},
		},
		{
			"virtio whose queues XDP adds to", Config{}, facts{driver: ethtool.Driver{Name: "virtio_net"}, mtu: 1500, device: told(zeroCopy), processors: 2,
				channels: ethtool.Channels{Combined: 2, MaxCombined: 4}},
			Plan{Told: true, Attach: AttachNative, Copies: staleQueues, ChunkSize: 2048, MaxMTU: 3506, Queues: 2, MaxQueues: 4},
		},
		{
			"virtio without queues to spare", Config{}, facts{driver: ethtool.Driver{Name: "virtio_net"}, mtu: 1500, device: told(zeroCopy), processors: 2,
				channels: ethtool.Channels{Combined: 2, MaxCombined: 2}},
			Plan{Told: true, Attach: AttachNative, ZeroCopy: true, ChunkSize: 2048, MaxMTU: 3506, Queues: 2, MaxQueues: 2},
		},
		{
			"virtio without control of offloads", Config{}, facts{driver: ethtool.Driver{Name: "virtio_net"}, mtu: 1500, device: told(zeroCopy), queues: 1, virtio: virtio("1100000110")},
			Plan{Told: true, Attach: AttachGeneric, NotNative: whyJoined, Remedy: "use a packet socket: TPA_DEV=eth0", Refused: whyJoined, Copies: "generic mode copies",
				ChunkSize: 2048, MaxMTU: 3826, Queues: 1},
		},
		{
			"a VLAN of an interface with GRO", Config{}, facts{driver: ethtool.Driver{Name: "802.1Q VLAN Support"}, mtu: 1500, kernel: "6.1.0", lowerGRO: []lowerGRO{{"eth1", "ethtool -K eth1 gro off"}}},
			Plan{Attach: AttachGeneric, NotNative: "eth1 below may hand on segments of up to 64 KB, which fit no chunk", Remedy: "use Linux 6.6 or newer, which hands them over in several chunks; or ethtool -K eth1 gro off",
				Refused: "eth1 below may hand on segments of up to 64 KB, which fit no chunk", Copies: "generic mode copies", ChunkSize: 2048, MaxMTU: 3826, Queues: 1},
		},
		{
			"copying on purpose", Config{Copy: true}, facts{driver: ethtool.Driver{Name: "mlx5_core"}, mtu: 3000, device: told(zeroCopy)},
			Plan{Told: true, Attach: AttachNative, Copies: "Config.Copy was asked for", ChunkSize: 4096, Queues: 1},
		},
		{
			"generic on purpose", Config{Attach: AttachGeneric}, facts{driver: ethtool.Driver{Name: "mlx5_core"}, mtu: 1500, device: told(zeroCopy)},
			Plan{Told: true, Attach: AttachGeneric, NotNative: "AttachGeneric was asked for", Remedy: "use AttachAuto",
				Copies: "generic mode copies", ChunkSize: 2048, MaxMTU: 3826, Queues: 1},
		},
		{
			"generic, frames in several chunks", Config{}, facts{driver: ethtool.Driver{Name: "bridge"}, mtu: 1500, device: told(0), kernel: "6.6.0"},
			Plan{Told: true, Attach: AttachGeneric, NotNative: "the driver does not run XDP", Remedy: "use an interface whose driver does, or a newer kernel",
				Copies: "generic mode copies", Fragments: true, ChunkSize: 2048, Queues: 1},
		},
		{
			"gve with the newer queue format before Linux 6.17", Config{}, facts{driver: ethtool.Driver{Name: "gve"}, mtu: 1460, device: told(0), channels: ethtool.Channels{Receive: 2, MaxReceive: 4}},
			Plan{Told: true, Attach: AttachGeneric, NotNative: "the driver does not run XDP", Remedy: "use an interface whose driver does, or a newer kernel",
				Copies: "generic mode copies", ChunkSize: 2048, MaxMTU: 3826, Queues: 2, MaxQueues: 2},
		},
		{
			"a driver that nobody here knows", Config{}, facts{driver: ethtool.Driver{Name: "new"}, mtu: 1500, queues: 3},
			Plan{Attach: AttachGeneric, NotNative: "the driver does not run XDP", Remedy: "use an interface whose driver does, or a newer kernel",
				Copies: "generic mode copies", ChunkSize: 2048, MaxMTU: 3826, Queues: 3},
		},
		{
			"one that does not redirect", Config{}, facts{driver: ethtool.Driver{Name: "new"}, mtu: 1500, device: told(netdevgenl.Basic)},
			Plan{Told: true, Attach: AttachGeneric, NotNative: "the driver's XDP cannot redirect frames to sockets", Remedy: "use another interface, or a newer kernel",
				Copies: "generic mode copies", ChunkSize: 2048, MaxMTU: 3826, Queues: 1},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.cfg.Interface = "eth0"
			tt.want.Driver, tt.want.MTU = tt.facts.driver.Name, tt.facts.mtu
			got := tt.cfg.plan(tt.facts)
			if len(got.Traps) != len(drivers[got.Driver].traps) {
				t.Errorf("got traps %q, want those of %s", got.Traps, got.Driver)
			}
			got.Traps = nil
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestMemoryModes(t *testing.T) {
	for _, tt := range []struct {
		name   string
		driver string
		mtu    int
		copy   bool
		want   []memoryMode
	}{
		{"a card", "ice", 1500, false, []memoryMode{{2048, false}, {4096, false}, {2048, true}}},
		{"ENA", "ena", 1500, false, []memoryMode{{4096, false}, {2048, true}}},
		{"buffers in units of 1 KB", "igb", 1500, false, []memoryMode{{4096, false}, {2048, true}}},
		{"larger frames", "ice", 3000, false, []memoryMode{{4096, false}, {4096, true}}},
		{"frames that just fit", "new", 1778, false, []memoryMode{{2048, false}, {4096, false}, {2048, true}}},
		{"frames that just do not", "new", 1779, false, []memoryMode{{4096, false}, {4096, true}}},
		{"copying on purpose", "ena", 1500, true, []memoryMode{{2048, true}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := drivers[tt.driver].memoryModes(tt.mtu, tt.copy); !slices.Equal(got, tt.want) {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}
