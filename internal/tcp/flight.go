package tcp

import "slices"

// A flight is a part of the sequence space that left at one moment. It begins
// where the flight before it ends, the first one at SND.UNA.
type flight struct {
	end   uint32
	state flightState
	at    int64 // when it left last
}

// flightState is what became of a flight.
type flightState uint8

const (
	resent flightState = 1 << iota // it left more than once
	sacked                         // the peer has it; nothing else counts then
	lost                           // it has to be sent again
)

// flights is the scoreboard of a connection with SACK: what is between SND.UNA
// and SND.NXT, in order. What is sent in one poll has one time and makes one
// flight, so that there are few of them and a request and its answer cost two
// stores.
type flights struct {
	list []flight // from head on
	head int
	// sacked and lost are how many bytes have these states.
	sacked, lost uint32
	// grain is the time within which what leaves counts as sent at once.
	grain int64
}

// maxFlights bounds the scoreboard against peers that report every other byte:
// SACK blocks that would cut more flights are ignored. What is sent is noted
// still, less exactly.
const maxFlights = 1024

func (f *flights) crowded() bool { return len(f.list)-f.head >= maxFlights }

// clear forgets all.
func (f *flights) clear() { f.list, f.head, f.sacked, f.lost = f.list[:0], 0, 0, 0 }

// sent adds what ends at end and left just now.
func (f *flights) sent(end uint32, state flightState, at int64) {
	if n := len(f.list); n > f.head {
		last := &f.list[n-1]
		if last.state == state && at-last.at <= f.grain {
			last.end = end
			return
		}
		if f.crowded() && last.state&(sacked|lost) == 0 {
			last.end, last.at, last.state = end, at, last.state|state
			return
		}
	}
	if f.head > 0 && len(f.list) == cap(f.list) {
		f.list = f.list[:copy(f.list, f.list[f.head:])]
		f.head = 0
	}
	f.list = append(f.list, flight{end, state, at})
}

// count adds n bytes of some state, or takes them away.
func (f *flights) count(state flightState, n uint32) {
	if state&sacked != 0 {
		f.sacked += n
	}
	if state&lost != 0 {
		f.lost += n
	}
}

// find returns the first flight that ends behind seq.
func (f *flights) find(seq uint32) int {
	i, _ := slices.BinarySearchFunc(f.list[f.head:], seq, func(x flight, seq uint32) int {
		if after(x.end, seq) {
			return 1
		}
		return -1
	})
	return f.head + i
}

// begin is where flight i begins.
func (f *flights) begin(i int, una uint32) uint32 {
	if i == f.head {
		return una
	}
	return f.list[i-1].end
}

// set gives what lies in x, which is not empty and in flight, a state and a time.
func (f *flights) set(una uint32, x span, state flightState, at int64) {
	i := f.find(x.first)
	first := f.begin(i, una)
	// What takes the place of flights i up to, not including, j.
	var in [3]flight
	n := 0
	if before(first, x.first) {
		in[0] = flight{x.first, f.list[i].state, f.list[i].at}
		n = 1
	}
	in[n] = flight{x.end, state, at}
	n++
	j, from := i, x.first
	for ; j < len(f.list) && before(from, x.end); j++ {
		y := &f.list[j]
		end := y.end
		if after(end, x.end) {
			end = x.end
			in[n] = *y
			n++
		}
		f.count(y.state, -(end - from))
		from = end
	}
	f.count(state, x.end-x.first)
	// Equal neighbours become one.
	if i > f.head && f.same(&f.list[i-1], &in[0]) {
		i--
		in[0].at = f.list[i].at
	}
	k := 0
	for m := 1; m < n; m++ {
		if f.same(&in[k], &in[m]) {
			in[k].end = in[m].end
		} else {
			k++
			in[k] = in[m]
		}
	}
	if j < len(f.list) && f.same(&in[k], &f.list[j]) {
		in[k].end = f.list[j].end
		j++
	}
	f.list = slices.Replace(f.list, i, j, in[:k+1]...)
}

// same tells whether b, behind a, is to be one with it.
func (f *flights) same(a, b *flight) bool {
	if a.state != b.state {
		return false
	}
	if a.state == sacked {
		return true
	}
	d := b.at - a.at
	return d >= 0 && d <= f.grain || f.crowded()
}

// nextLost returns the first lost flight from i on.
func (f *flights) nextLost(i int, una uint32) (at int, x span, ok bool) {
	for ; f.lost > 0 && i < len(f.list); i++ {
		if y := &f.list[i]; y.state&lost != 0 {
			return i, span{f.begin(i, una), y.end}, true
		}
	}
	return i, x, false
}

// lose marks all that the peer has not reported as lost, or all.
func (f *flights) lose(una uint32, all bool) {
	first := una
	for i := f.head; i < len(f.list); i++ {
		x := &f.list[i]
		if n := x.end - first; all || x.state&sacked == 0 {
			f.count(x.state, -n)
			x.state = x.state&resent | lost
			f.lost += n
		}
		first = x.end
	}
}

// found takes back what was marked as lost.
func (f *flights) found() {
	if f.lost == 0 {
		return
	}
	for i := f.head; i < len(f.list); i++ {
		f.list[i].state &^= lost
	}
	f.lost = 0
}
