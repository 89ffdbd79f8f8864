package recorder

import "fmt"

// Kind is what a record is about.
type Kind uint8

// Kinds of records.
const (
	In         Kind = iota + 1 // a segment received
	Out                        // a segment sent
	Held                       // an acknowledgement held back, to travel with data
	Retransmit                 // a segment sent again
	Read                       // bytes that the program read
	Write                      // bytes that the program wrote
	Probe                      // a segment that asks whether the peer is there: keep-alive, window shut
	State                      // TCP's state changed
	Timer                      // the retransmission timer ran out
	Loss                       // a recovery from loss began
	Recovered                  // it ended
	TailProbe                  // the end of a flight was asked for (RFC 8985)
)

var kindNames = [...]string{"", "in", "out", "held", "again", "read", "write", "probe", "state", "timeout", "loss", "recovered", "tail probe"}

// String returns the kind's name.
func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return fmt.Sprintf("kind %d", k)
}

// Reason is why a capture was taken.
type Reason uint8

// Reasons for captures.
const (
	Timeout  Reason = iota + 1 // the retransmission timer ran out
	Recovery                   // segments were sent again without that
	ResetIn                    // the peer reset the connection
	ResetOut                   // we did
	Stall                      // the peer's window stayed shut
	Unread                     // our window stayed shut: the program does not read
	Panic                      // the poller panicked with a segment of it in hand
)

var reasonNames = [...]string{"", "timeout", "recovery", "reset by peer", "reset by us", "stall", "stall: the program does not read", "panic"}

// String returns the reason's name.
func (r Reason) String() string {
	if int(r) < len(reasonNames) {
		return reasonNames[r]
	}
	return fmt.Sprintf("reason %d", r)
}
