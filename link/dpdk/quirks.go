//go:build dpdk && cgo && linux

package dpdk

// quirk is what has to be known about a driver that it does not tell.
type quirk struct {
	// oneQueue: with more, flows do not stay on their queue.
	oneQueue bool
	// noTSO: what it offers does not hold.
	noTSO bool
	// keepsBuffers: a closed port never gives back what was in its rings.
	keepsBuffers bool
	// reaps: sent buffers can be had back at any time, though
	// rte_eth_tx_done_cleanup is not there.
	reaps bool
}

// quirks are those of DPDK 22.11, by driver.
var quirks = map[string]quirk{
	// It sets PACKET_FANOUT_FLAG_ROLLOVER: a full ring passes a flow's packets on to
	// the next queue. Configurable from DPDK 25.03.
	"net_af_packet": {oneQueue: true},
	// The kernel's fill ring is forgotten with the socket.
	"net_af_xdp": {keepsBuffers: true},
	// It cuts a frame into 64 segments at most; one that needs more stays at the
	// head of the queue for ever.
	"net_tap": {noTSO: true},
	// It looks at its completions in rte_eth_tx_descriptor_status.
	"mlx5_auxiliary": {reaps: true},
	"mlx5_pci":       {reaps: true},
}
