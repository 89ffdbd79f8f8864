package sim

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/gotpa/tpa/accel"
	"github.com/gotpa/tpa/link"
	"github.com/gotpa/tpa/link/fault"
)

// A setup is everything about a world but the program that runs in it.
type setup struct {
	mtu    int
	v6     bool // whether conversations may use IPv6
	nic    link.Capabilities
	queues [2]int
	tcp    accel.TCP
	// engines are the hosts' own tcp.Engine.
	engines [2]accel.Engine
	// there and back are what happens to frames towards host 1 and host 0. They
	// are received so, or, with early set, sent so.
	there, back fault.Impairment
	early       bool
	// faultEvents are how many times a link goes down, a queue stalls or a card
	// changes its RSS while the program runs.
	faultEvents int
	// middlebox is set when something stands between the hosts: paths are how it
	// treats frames towards host 1 and host 0, and fieldEvents how many times it
	// changes, or a host is started again, while the program runs.
	middlebox   bool
	paths       [2]path
	fieldEvents int
	// resized buffers are set to other sizes while they are in use.
	resized bool
}

func (s setup) String() string {
	return fmt.Sprintf("MTU %d, IPv6 %v, queues %v, offloads %+v, engines %q, TCP %+v, there %v, back %v, early %v, %d fault events, middlebox %v %v, %d field events, resized buffers %v",
		s.mtu, s.v6, s.queues, s.nic, s.engines, s.tcp, describe(s.there), describe(s.back), s.early, s.faultEvents, s.middlebox, s.paths, s.fieldEvents, s.resized)
}

// describe leaves out what is zero.
func describe(i fault.Impairment) string {
	var parts []string
	for field := range strings.FieldsSeq(fmt.Sprintf("%+v", i)) {
		if _, value, _ := strings.Cut(strings.Trim(field, "{}"), ":"); value != "0" && value != "0s" {
			parts = append(parts, strings.Trim(field, "{}"))
		}
	}
	return "{" + strings.Join(parts, " ") + "}"
}

// draw makes a random set-up.
func draw(seed uint64) setup {
	r := rand.New(seeded(seed, "setup"))
	s := setup{
		mtu: []int{576, 1280, 1500, 1500, 9000}[r.IntN(5)],
		tcp: accel.TCP{NoSACK: r.IntN(5) == 0, NoCoalescing: r.IntN(3) == 0, TimeWait: time.Second},
	}
	s.v6 = s.mtu >= 1280
	s.nic.RxChecksum = r.IntN(2) == 0
	if r.IntN(2) == 0 {
		s.nic.TxIPv4Checksum, s.nic.TxTCPChecksum = true, true
		if r.IntN(2) == 0 {
			s.nic.TSO = 1 << (14 + 2*(seed&1)) // all of a segment of TCP's, or not
		}
	}
	if r.IntN(4) > 0 {
		s.there, s.back = impair(r), impair(r)
	}
	// 0 is the default, of megabytes.
	s.tcp.SendBuffer = []int{0, 8 << 10, 32 << 10, 128 << 10, 512 << 10}[r.IntN(5)]
	engine := func() accel.Engine {
		return []accel.Engine{accel.EngineTPA, accel.EngineTPA, accel.EngineGVisor}[r.IntN(3)]
	}
	s.engines = [2]accel.Engine{engine(), engine()}
	s.tcp.ReceiveBuffer = []int{0, 32 << 10, 128 << 10, 512 << 10}[r.IntN(4)]
	s.early = r.IntN(5) == 0
	if r.IntN(3) == 0 {
		s.faultEvents = 1 + r.IntN(3)
	}
	s.drawField(rand.New(seeded(seed, "field")))
	return s
}

// drawField draws what the field adds. Its random numbers are of their own, as
// those of whatever is added later shall be: a seed keeps what else it stands for.
func (s *setup) drawField(r *rand.Rand) {
	if r.IntN(2) == 0 {
		s.queues = [2]int{1 + r.IntN(5), 1 + r.IntN(5)}
	}
	s.resized = r.IntN(4) == 0
	s.middlebox = r.IntN(2) == 0
	if !s.middlebox {
		return
	}
	if r.IntN(3) > 0 {
		s.engines = [2]accel.Engine{} // much of it is too much for gVisor's TCP
	}
	for i := range s.paths {
		if r.IntN(2) == 0 {
			s.paths[i].narrow(r, s)
		}
		if r.IntN(3) == 0 {
			s.paths[i].drop(r, s)
		}
	}
	s.fieldEvents = r.IntN(4)
}

// impair draws how bad a network is.
func impair(r *rand.Rand) (i fault.Impairment) {
	some := func(p *float64, most float64) {
		if r.IntN(3) == 0 {
			*p = r.Float64() * most
		}
	}
	some(&i.Drop, 0.05)
	if r.IntN(4) == 0 {
		i.DropBurst = 1 + 4*r.Float64()
	}
	some(&i.Duplicate, 0.05)
	some(&i.Reorder, 0.05)
	some(&i.Corrupt, 0.02)
	some(&i.Cut, 0.02)
	if r.IntN(2) == 0 {
		i.Delay = time.Duration(r.Int64N(int64(50 * time.Millisecond)))
		i.Jitter = time.Duration(r.Int64N(int64(10 * time.Millisecond)))
	}
	if r.IntN(4) == 0 {
		i.Rate = 1_000_000 + r.Int64N(1_000_000_000)
		i.Backlog = 20 + r.IntN(1000)
	}
	return i
}
