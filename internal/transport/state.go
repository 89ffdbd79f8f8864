package transport

import "fmt"

// State is the state of an endpoint. The numbers of RFC 9293's states are Linux's
// (include/net/tcp_states.h), which recordings hold.
type State uint32

const (
	StateEstablished State = iota + 1
	StateSynSent
	StateSynReceived
	StateFinWait1
	StateFinWait2
	StateTimeWait
	StateClosed
	StateCloseWait
	StateLastAck
	StateListen
	StateClosing

	// Of an endpoint without a connection: neither bound nor connected, bound,
	// about to send its SYN, and after a failure.
	StateInitial
	StateBound
	StateConnecting
	StateError
)

var stateNames = [...]string{
	StateEstablished: "ESTABLISHED", StateSynSent: "SYN-SENT", StateSynReceived: "SYN-RCVD",
	StateFinWait1: "FIN-WAIT1", StateFinWait2: "FIN-WAIT2", StateTimeWait: "TIME-WAIT", StateClosed: "CLOSED",
	StateCloseWait: "CLOSE-WAIT", StateLastAck: "LAST-ACK", StateListen: "LISTEN", StateClosing: "CLOSING",
	StateInitial: "INITIAL", StateBound: "BOUND", StateConnecting: "CONNECTING", StateError: "ERROR",
}

// String returns a name such as "ESTABLISHED".
func (s State) String() string {
	if int(s) < len(stateNames) && stateNames[s] != "" {
		return stateNames[s]
	}
	return fmt.Sprintf("State(%d)", uint32(s))
}

// Open tells whether a connection stands, at least in one direction.
func (s State) Open() bool {
	switch s {
	case StateEstablished, StateFinWait1, StateFinWait2, StateTimeWait, StateCloseWait, StateLastAck, StateClosing:
		return true
	}
	return false
}

// Opening tells whether a handshake is under way.
func (s State) Opening() bool {
	return s == StateSynSent || s == StateSynReceived || s == StateConnecting
}

// Over tells whether nothing is left of a connection.
func (s State) Over() bool { return s == StateClosed || s == StateError }
