package tcp

import (
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/gotpa/tpa/internal/transport"
)

// The methods of this file need Endpoint.mu held.

// blackHole is what is known of a path that seems to drop large packets without
// saying so (RFC 4821, RFC 8899 section 4.4): ICMP is filtered, often. Sizes are those of
// packets without IP header, as of sender.mtu.
type blackHole struct {
	full  int // what was sent before
	good  int // what gets through
	bad   int // what does not: the search lies between the two
	limit int // sender.mtu of before

	at    int64 // when the next probe is due, 0 until something has got through
	probe span  // a segment of size that is under way, if not empty
	size  int
}

const (
	// blackHoleAfter is how many time-outs in a row begin before a smaller size is
	// tried: a second or two, most of the time.
	blackHoleAfter = 2
	// probeEvery is how long larger sizes wait for their trial while the search goes
	// on, searchAgain how long after it (RFC 8899's PMTU_RAISE_TIMER).
	probeEvery  = int64(10 * time.Second)
	searchAgain = int64(10 * time.Minute)
	// closeEnough is what ends the search.
	closeEnough = 32
)

// smallerSizes are tried one after the other: RFC 8899's BASE_PLPMTU, then what
// every path takes.
func (e *Endpoint) smallerSizes() []int {
	if e.route.NetProto() == header.IPv6ProtocolNumber {
		return []int{transport.MinMTU6 - header.IPv6MinimumSize}
	}
	return []int{1200 - header.IPv4MinimumSize, transport.MinMTU4 - header.IPv4MinimumSize}
}

// headers is what a full segment has besides its payload, behind the IP header.
func (e *Endpoint) headers() int {
	if e.tsOK {
		return header.TCPMinimumSize + timestampLen
	}
	return header.TCPMinimumSize
}

// suspectBlackHole makes segments smaller when large ones have timed out again and
// again. It may be wrong: the search finds out.
func (e *Endpoint) suspectBlackHole() {
	if e.route == nil {
		return
	}
	size := e.mss + e.headers()
	first := min(e.out.len(), int(e.sendMax-e.unacknowledged), e.mss) + e.headers()
	for _, smaller := range e.smallerSizes() {
		if smaller >= first {
			continue // it was not for its size
		}
		h := e.hole
		if h == nil {
			h = &blackHole{full: size, limit: e.mtu}
			e.hole = h
		}
		h.good, h.bad, h.at, h.probe = smaller, h.full, 0, span{}
		e.mtu = smaller
		e.updateMSS()
		return
	}
}

// largerSize sends a segment of a larger size than others, when one is due. What it
// carries is sent again in smaller ones if it is lost. It needs SACK, without which
// nothing tells for certain.
func (e *Endpoint) largerSize(room int) (sent bool) {
	h, now := e.hole, e.p.now()
	if h.at == 0 || now < h.at || !e.sackOK || e.inRecovery || e.backoff > 0 || e.sendNext != e.sendMax || h.probe.first != h.probe.end {
		return false
	}
	h.size = (h.good + h.bad) / 2
	if h.bad == h.full {
		h.size = h.full // perhaps the path was dead, not small
	}
	n := h.size - e.headers()
	// What follows it shows its loss.
	if left := e.out.len() - int(e.sendNext-e.unacknowledged); left < n+duplicatesForLoss*e.mss || room < n {
		return false
	}
	mss, first := e.mss, e.sendNext
	e.mss = n
	whole := e.transmit(n, false)
	e.mss = mss
	if e.sendNext == first {
		return false
	}
	if h.at = now + probeEvery; whole {
		h.probe = span{first, e.sendNext}
	}
	return true
}

// holeAdvanced looks after the search when something was acknowledged.
func (e *Endpoint) holeAdvanced(now int64) {
	h := e.hole
	switch {
	case h.at == 0:
		h.at = now + probeEvery
	case h.probe.first == h.probe.end || before(e.unacknowledged, h.probe.end):
	case h.size == h.full:
		e.mtu, e.hole = h.limit, nil
		e.updateMSS()
	default:
		h.probe = span{}
		h.good, e.mtu = h.size, h.size
		e.updateMSS()
		h.searched(now)
	}
}

// searched ends the search when it is close enough.
func (h *blackHole) searched(now int64) {
	if h.bad-h.good <= closeEnough {
		h.bad, h.at = h.full, now+searchAgain
	}
}

// probeLost tells whether nothing but a larger segment was lost, for its size: that
// is no congestion (RFC 4821 section 7.5). Otherwise a probe under way says nothing.
func (e *Endpoint) probeLost() bool {
	h := e.hole
	if h == nil || h.probe.first == h.probe.end {
		return false
	}
	_, x, ok := e.flights.nextLost(e.flights.head, e.unacknowledged)
	alone := ok && x == h.probe && e.flights.lost == x.end-x.first
	h.probe = span{}
	if alone {
		// That of the full size is tried first, and shows no more than the search knows.
		if h.bad = h.size; h.bad == h.full {
			h.bad--
		}
		h.searched(e.p.now())
	}
	return alone
}
