package sim

import (
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"github.com/gotpa/tpa/accel"
	"github.com/gotpa/tpa/link"
	"github.com/gotpa/tpa/link/fault"
)

// losses are the models of the matrix.
var losses = []fault.Impairment{
	{},
	{Drop: 0.02},
	{Drop: 0.02, DropBurst: 4},
	{Reorder: 0.03, Duplicate: 0.02},
	{Corrupt: 0.01, Cut: 0.01, Delay: 5 * time.Millisecond, Jitter: 2 * time.Millisecond},
	{Rate: 50_000_000, Backlog: 50, Delay: time.Millisecond},
}

// queueCounts are those that programs run over.
var queueCounts = []int{1, 2, 5}

// matrix returns every combination of what a device and a stack can be set to.
// IPv6 needs an MTU of 1280 (RFC 8200 section 5), TSO needs checksum offload.
func matrix() (all []setup) {
	for _, mtu := range []int{576, 1280, 1500, 9000} {
		for _, v6 := range []bool{false, true} {
			for _, checksums := range []bool{false, true} {
				for _, tso := range []int{0, 1 << 16} {
					if v6 && mtu < 1280 || tso > 0 && !checksums {
						continue
					}
					for _, alone := range []bool{false, true} {
						for _, queues := range queueCounts {
							for _, noSACK := range []bool{false, true} {
								for _, loss := range losses {
									all = append(all, setup{
										mtu: mtu, v6: v6, queues: [2]int{queues, queues},
										nic:   link.Capabilities{RxChecksum: checksums, TxIPv4Checksum: checksums, TxTCPChecksum: checksums, TSO: tso},
										tcp:   accel.TCP{NoCoalescing: alone, NoSACK: noSACK, TimeWait: time.Second},
										there: loss, back: loss,
									})
								}
							}
						}
					}
				}
			}
		}
	}
	return all
}

// TestMatrix runs a transfer and an exchange over every nineteenth combination, or
// with MATRIX=all over all of them. A combination is its own seed.
func TestMatrix(t *testing.T) {
	all, step := matrix(), 19
	if os.Getenv("MATRIX") == "all" {
		step = 1
	}
	first, last := 0, len(all)
	if seed, count := seeds(t, 0); count == 1 {
		first, last, step = int(seed), int(seed)+1, 1
	}
	runs := 0
	for i := first; i < last && i < len(all) && !t.Failed(); i += step {
		run(t, uint64(i), all[i], pair)
		runs++
	}
	t.Logf("%d of %d combinations", runs, len(all))
}

// pair is the program of the matrix: one transfer and one exchange at once,
// over the IP version that is looked at.
func pair(w *world) {
	p := &program{world: w, byID: map[uint32]*conversation{}}
	for i, k := range kinds[:2] {
		v := &conversation{id: uint32(i), kind: k, client: i, v6: w.setup.v6, rounds: 3}
		r := rand.New(rand.NewPCG(w.seed, uint64(i)))
		v.up, v.down = drawFlux(r, 30_000), drawFlux(r, 30_000)
		v.up.bytes, v.down.bytes = 40_000, 20_000
		p.conversations = append(p.conversations, v)
		p.byID[v.id] = v
	}
	p.run(false)
}
