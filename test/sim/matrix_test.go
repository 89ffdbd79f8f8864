package sim

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/gotpa/tpa/accel"
	"github.com/gotpa/tpa/link"
	"github.com/gotpa/tpa/link/fault"
)

// A dimension of the matrix is something that a device, a stack or a network can
// be set to.
type dimension struct {
	name   string
	values []value
}

type value struct {
	name string
	set  func(*setup)
}

// dimensions is the table that the matrix is made of.
var dimensions = []dimension{
	{"MTU", each([]int{576, 1280, 1500, 9000}, func(s *setup, mtu int) { s.mtu = mtu })},
	{"IPv6", each([]bool{false, true}, func(s *setup, v6 bool) { s.v6 = v6 })},
	{"checksum offload", each([]bool{false, true}, func(s *setup, on bool) {
		s.nic.RxChecksum, s.nic.TxIPv4Checksum, s.nic.TxTCPChecksum = on, on, on
	})},
	{"TSO", each([]int{0, 1 << 16}, func(s *setup, most int) { s.nic.TSO = most })},
	{"coalescing", each([]bool{true, false}, func(s *setup, on bool) { s.tcp.NoCoalescing = !on })},
	{"queues", each([]int{1, 2, 5}, func(s *setup, n int) { s.queues = [2]int{n, n} })},
	{"SACK", each([]bool{true, false}, func(s *setup, on bool) { s.tcp.NoSACK = !on })},
	{"engines", each([][2]accel.Engine{{accel.EngineTPA, accel.EngineTPA}, {accel.EngineGVisor, accel.EngineGVisor}, {accel.EngineTPA, accel.EngineGVisor}}, func(s *setup, e [2]accel.Engine) { s.engines = e })},
	{"network", networks()},
}

func each[T any](all []T, set func(*setup, T)) []value {
	var values []value
	for _, v := range all {
		values = append(values, value{fmt.Sprint(v), func(s *setup) { set(s, v) }})
	}
	return values
}

// networks are the ways to lose, each without a delay and with one that varies.
func networks() []value {
	losses := []fault.Impairment{
		{},
		{Drop: 0.005}, {Drop: 0.01}, {Drop: 0.02}, {Drop: 0.05}, {Drop: 0.1},
		{Drop: 0.02, DropBurst: 2}, {Drop: 0.02, DropBurst: 4}, {Drop: 0.02, DropBurst: 8},
		{Duplicate: 0.02}, {Duplicate: 0.1},
		{Reorder: 0.01}, {Reorder: 0.03}, {Reorder: 0.1},
		{Corrupt: 0.01}, {Cut: 0.01}, {Corrupt: 0.02, Cut: 0.02},
		{Rate: 100_000_000, Backlog: 50}, {Rate: 10_000_000, Backlog: 20}, {Rate: 50_000_000, Backlog: 50, Drop: 0.01},
	}
	delayed := slices.Clone(losses)
	for i := range delayed {
		delayed[i].Delay, delayed[i].Jitter = 5*time.Millisecond, 2*time.Millisecond
	}
	var values []value
	for _, i := range slices.Concat(losses, delayed) {
		values = append(values, value{describe(i), func(s *setup) { s.there, s.back = i, i }})
	}
	return values
}

// A row is one value of each dimension, by its place.
type row [9]int

// rows returns every combination that can be.
func rows() []row {
	all := []row{{}}
	for d := range dimensions {
		var longer []row
		for _, r := range all {
			for v := range dimensions[d].values {
				r[d] = v
				longer = append(longer, r)
			}
		}
		all = longer
	}
	return slices.DeleteFunc(all, func(r row) bool { return !r.setup().possible() })
}

func (r row) setup() setup {
	// TIME-WAIT is as long as RFC 9293 section 3.4.2 means it, so that every FIN that is
	// sent again finds it: a shorter one is right to answer the last of them with a
	// reset, where networks lose one acknowledgement after the other.
	s := setup{tcp: accel.TCP{TimeWait: time.Minute}}
	for d, v := range r {
		dimensions[d].values[v].set(&s)
	}
	return s
}

// possible tells whether there is such a set-up: IPv6 needs an MTU of 1280 (RFC
// 8200 section 5), cutting segments includes their checksums.
func (s setup) possible() bool {
	return !(s.v6 && s.mtu < 1280) && !(s.nic.TSO > 0 && s.nic == link.Capabilities{TSO: s.nic.TSO})
}

// A couple is two values of two dimensions.
type couple struct{ dim1, val1, dim2, val2 int }

// couples calls f for each couple of a row.
func (r row) couples(f func(couple)) {
	for i := range r {
		for j := range i {
			f(couple{j, r[j], i, r[i]})
		}
	}
}

// pairwise chooses few of the rows so that each couple that occurs in them occurs
// in the choice: faults that need three settings at once are rare.
func pairwise(all []row) []int {
	missing := map[couple]bool{}
	for _, r := range all {
		r.couples(func(c couple) { missing[c] = true })
	}
	random := rand.New(rand.NewPCG(1, 1))
	var chosen []int
	for len(missing) > 0 {
		best, most := 0, -1
		for try := 0; try < 100 || most == 0; try++ {
			i, news := random.IntN(len(all)), 0
			all[i].couples(func(c couple) {
				if missing[c] {
					news++
				}
			})
			if news > most {
				best, most = i, news
			}
		}
		all[best].couples(func(c couple) { delete(missing, c) })
		chosen = append(chosen, best)
	}
	return chosen
}

// TestMatrix runs a transfer and an exchange over rows of the matrix: those that
// pairwise chooses, and with MATRIX=n each n-th as well. A row's number is its
// seed.
func TestMatrix(t *testing.T) {
	all := rows()
	if len(all) < 30_000 {
		t.Errorf("%d combinations, want at least 30,000", len(all))
	}
	chosen := pairwise(all)
	if nth, ok := number(t, "MATRIX"); ok && nth > 0 {
		for i := 0; i < len(all); i += int(nth) {
			chosen = append(chosen, i)
		}
		slices.Sort(chosen)
		chosen = slices.Compact(chosen)
	}
	if seed, ok := number(t, "SEED"); ok && seed < uint64(len(all)) {
		chosen = []int{int(seed)}
	}
	share(t, chosen, func(i int) outcome { return run(t, uint64(i), all[i].setup(), pair) })
	t.Logf("%d of %d combinations", len(chosen), len(all))
}

// TestPairwise holds pairwise to its word.
func TestPairwise(t *testing.T) {
	all := rows()
	missing := map[couple]bool{}
	for _, r := range all {
		r.couples(func(c couple) { missing[c] = true })
	}
	chosen := pairwise(all)
	for _, i := range chosen {
		all[i].couples(func(c couple) { delete(missing, c) })
	}
	if len(missing) > 0 || len(chosen) > len(all)/20 {
		t.Errorf("%d of %d rows, which leave out %d couples: %v", len(chosen), len(all), len(missing), missing)
	}
	t.Logf("%d of %d rows", len(chosen), len(all))
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
		v.up.enough()
		v.down.enough()
		p.conversations = append(p.conversations, v)
		p.byID[v.id] = v
	}
	p.run(false)
}
