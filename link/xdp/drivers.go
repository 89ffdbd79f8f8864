package xdp

import "github.com/gotpa/tpa/internal/netdevgenl"

// A driver is what is known about one of the kernel's drivers, for what the kernel
// does not tell. Sizes hold for pages of 4 KB.
type driver struct {
	// native and zeroCopy stand for what kernels before 6.3 do not tell. They are
	// what the driver of Linux 5.10 does.
	native, zeroCopy bool
	// pageChunks: zero-copy mode takes chunks of the size of a page alone, or has a
	// buffer in units of 1 KB, so that half a page less the headroom is too small for
	// frames of 1,500 bytes.
	pageChunks bool
	// maxMTU is the greatest MTU for native mode without fragments, 0 where it is
	// not known here.
	maxMTU int
	// halfQueues: XDP needs as many queues again to send from.
	halfQueues bool
	// powerOfTwoRings: zero-copy mode takes rings of a power of two alone.
	powerOfTwoRings bool
	// ownZeroCopyQueues: before Linux 6.1, zero-copy mode has queues of its own, which
	// RSS does not reach.
	ownZeroCopyQueues bool
	// addsQueues: with XDP the driver takes another queue into use for each processor,
	// if it has as many. A zero-copy socket of such a queue that outlives the program,
	// as after a kill, is not taken from the driver (virtnet_xsk_pool_disable), and the
	// next program that is attached brings the kernel down.
	addsQueues bool
	// slower is why a packet socket is faster, "" where it is not.
	slower string
	// traps is what else a user of the driver should know.
	traps []string
}

// drivers by name. What stands here is from the drivers' source and documents;
// docs/nics.md says which of them has run.
var drivers = map[string]driver{
	// The MTU is that of the peer's packets: veth_xdp_set.
	"veth": {native: true, maxMTU: 3506, slower: "a veth pair passes segments of 64 KB in one piece, which XDP has it copy in pieces of the MTU"},
	// ENA_XDP_MAX_MTU; ena_xdp_allowed; "Only page size chunks are supported"
	// (ena_xdp.c of Amazon's driver).
	"ena": {native: true, pageChunks: true, maxMTU: 3498, halfQueues: true, traps: []string{
		"zero-copy mode needs Amazon's own driver, 2.13 or newer; the one in Linux copies",
		"attaching drops the carrier for about 0.8 s",
		"the instance's packet rate is limited: watch pps_allowance_exceeded (ethtool -S), rx_missed_errors stays 0",
		"burst credits make short measurements too good: run a minute or more",
	}},
	// gve_main.c: XDP is there for the queue formats GQI-QPL and, from Linux 6.17 on,
	// DQO-RDA.
	"gve": {native: true, maxMTU: 2032, halfQueues: true, traps: []string{
		"on machines with the newer queue format (DQO) XDP needs Linux 6.17",
		"large receive offload and header split must be off: ethtool -K DEVICE lro off, ethtool -G DEVICE tcp-data-split off",
		"changing the number of queues closes and opens the device",
	}},
	// netvsc_bpf.c: the program is handed on to the VF, whose frames carry the VF's
	// queues, so that sockets at the master never get them.
	"hv_netvsc": {native: true, maxMTU: 3506, traps: []string{
		"with accelerated networking most frames come from the VF below: native mode is not used, for its sockets would lose them",
		"XDP is refused while LRO is on: ethtool -K DEVICE lro off",
	}},
	// MANA_XDP_MTU_MAX; mana_xdp_set takes all queues down and makes them anew.
	"mana": {native: true, maxMTU: 3506, traps: []string{
		"attaching makes all queues anew: the link is gone for a moment",
		"there is no zero-copy mode",
	}},
	// virtnet_xdp_set: room for the headroom and skb_shared_info in a page; one queue
	// to send from for each processor, else sending takes a lock.
	"virtio_net": {native: true, maxMTU: 3506, addsQueues: true, traps: []string{
		"the host should offer as many queues as the guest has processors, twice: else what the filter sends takes a lock",
		"attaching switches off checksum and segmentation offload of the guest: the kernel's own bulk traffic is slower",
	}},
	"mlx5_core": {native: true, zeroCopy: true, ownZeroCopyQueues: true, traps: []string{
		"in zero-copy mode the number of channels cannot be changed while a socket is open",
	}},
	// ICE_RXBUF_3072 less ICE_ETH_PKT_HDR_PAD.
	"ice": {native: true, zeroCopy: true, maxMTU: 3046, powerOfTwoRings: true, traps: []string{
		"zero-copy mode takes combined queues alone: ethtool -L DEVICE rx 0 tx 0 combined N",
		"in zero-copy mode frames for the kernel are copied: its own traffic is dearer",
	}},
	"i40e": {native: true, zeroCopy: true, maxMTU: 3046},
	// SRRCTL.BSIZEPKT: igb_setup_srrctl, igc_configure_rx_ring, ixgbe_configure_srrctl
	// (there but for 82599).
	"ixgbe":       {native: true, zeroCopy: true, pageChunks: true},
	"igc":         {pageChunks: true},
	"stmmac":      {native: true},
	"bnxt_en":     {native: true},
	"igb":         {native: true, pageChunks: true},
	"ixgbevf":     {native: true},
	"mlx4_en":     {native: true},
	"mvneta":      {native: true},
	"nfp":         {native: true},
	"qede":        {native: true},
	"sfc":         {native: true},
	"thunder-nic": {native: true},
	"tun":         {native: true},
}

// features returns what a driver does according to its name.
func (d driver) features() (f netdevgenl.Features) {
	if d.native {
		f |= netdevgenl.Basic | netdevgenl.Redirect
	}
	if d.zeroCopy {
		f |= netdevgenl.ZeroCopy
	}
	return f
}
