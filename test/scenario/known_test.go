package scenario

// known are the scenarios that one of our TCPs fails and Linux passes, and why, by
// engine and title. docs/testing.md has the list.
var known = map[string]map[string]string{
	"tpa": {
		"RFC 9293 section 3.7.1: without an MSS it is 1220 over IPv6":                  noMSS,
		"RFC 2018 section 4: data again is reported as duplicate (RFC 2883 section 4)": noDSACK,
		"RFC 8985 section 7: the tail of a flight is probed before the timer runs out": noRACK,
		"RFC 8985 section 6: a segment is lost when one sent much later has arrived":   noRACK,
		"RFC 9438 section 4.6: CUBIC: a loss leaves seven tenths of the window":        "after a recovery the window starts at two segments (RFC 6582 section 3.2, step 3, first choice) and grows to seven tenths",
	},
	"gvisor": {
		"RFC 9293 section 3.5: simultaneous open, ended by SYN and acknowledgement":                              "waits for an acknowledgement without SYN",
		"RFC 9293 section 3.10.7.3: SYN-SENT: SYN with a wrong acknowledgement is answered with a reset":         stormOfSYNs,
		"RFC 9293 section 3.10.7.3: SYN-SENT: a wrong acknowledgement is answered with a reset":                  stormOfSYNs,
		"RFC 9293 section 3.10.7.4: SYN-RECEIVED: the SYN again is answered again":                               "answers with an acknowledgement that has no SYN",
		"RFC 9293 section 3.7.1: without an MSS it is 1220 over IPv6":                                            noMSS,
		"RFC 9293 section 3.7.1: segments are full when SACK is permitted":                                       "keeps room for the options of an acknowledgement in each segment: 36 bytes",
		"RFC 9293 section 3.8.6.2.1: a window of a few bytes does not make a small segment at once":              "has no silly window avoidance on the sending side",
		"RFC 9293 section 3.10.7.4: a window with an older acknowledgement does not count":                       anyWindow,
		"RFC 2018 section 3: gaps are reported after our side closed for writing":                                "sends no SACK blocks after a half-close",
		"RFC 2018 section 4: data again is reported as duplicate (RFC 2883 section 4)":                           noDSACK,
		"RFC 6298 section 2.3: steady round trips bring the timer near to them":                                  "the variance of steady round trips comes down to nothing, and the timer to the round trip itself",
		"RFC 5681 section 3.2: fast retransmit of the very first segment":                                        firstFlight,
		"RFC 6675 section 5: what SACK shows as lost of the very first flight is sent again":                     firstFlight,
		"RFC 5681 section 3.2: the first two duplicates let new segments out (RFC 3042)":                         "has no limited transmit",
		"RFC 8985 section 7: the tail of a flight is probed before the timer runs out":                           noRACK,
		"RFC 8985 section 6: a segment is lost when one sent much later has arrived":                             noRACK,
		"RFC 5681 section 3.1: congestion avoidance: the window grows by one segment per round trip":             "grows faster after a fast recovery",
		"RFC 9293 section 3.6: the FIN waits for data that waits for the window":                                 "sends the FIN in a segment of its own, with the next round trip",
		"RFC 1122 section 4.2.2.13: an old SYN does not":                                                         "does not answer it",
		"RFC 6191 section 2: in TIME-WAIT a SYN with a newer timestamp opens a connection again":                 "goes by the sequence number alone",
		"RFC 5961 section 5.2: data that acknowledges what was never sent is not taken":                          anyAck,
		"RFC 5961 section 5.2: data that acknowledges one byte too many is not taken":                            anyAck,
		"RFC 5961 section 5.2: data with an acknowledgement that is too old is not taken":                        anyAck,
		"RFC 5961 section 5.2: data with an acknowledgement half the numbers away is not taken":                  anyAck,
		"RFC 5961 section 5.2: an acknowledgement that is too old is challenged":                                 anyAck,
		"RFC 5961 section 5.2: data out of order with a wrong acknowledgement is not kept":                       anyAck,
		"RFC 5961 section 5.2: urgent data with a wrong acknowledgement is not taken":                            anyAck,
		"RFC 5961 section 5.2: a FIN with a wrong acknowledgement does not close":                                anyAck,
		"RFC 5961 section 5.2: data with a wrong acknowledgement is not taken before the connection is accepted": anyAck,
		"RFC 5961 section 5.2: data with a wrong acknowledgement is not taken when we dialled":                   anyAck,
		"RFC 5961 section 5.2: FIN-WAIT-2: data with a wrong acknowledgement is not taken":                       anyAck,
		"RFC 5961 section 5.2: with scaled windows, too":                                                         anyAck,
		"RFC 9293 section 3.10.7.4: a wrong acknowledgement does not close the window":                           anyWindow,
		"RFC 9293 section 3.10.7.4: an acknowledgement that is too old does not close the window":                anyWindow,
		"RFC 9293 section 3.10.7.4: a wrong acknowledgement does not open the window":                            anyWindow,
		"RFC 9293 section 3.10.7.4: a wrong acknowledgement does not widen the window":                           anyWindow,
		"RFC 7323 section 5.3: data with an old timestamp is answered and not taken (PAWS)":                      "has no PAWS",
		"RFC 1122 section 4.2.3.4: Nagle: a full segment does not wait":                                          "fills the segment up with what was sent already, when the timer runs out",
		"RFC 1122 section 4.2.3.4: Nagle: a FIN does not make data wait":                                         "waits for the acknowledgement",
		"RFC 5927 section 4.1: SYN-SENT: port unreachable about another number is ignored":                       anyError,
		"RFC 5927 section 4.1: SYN-SENT: host unreachable about another number is ignored":                       anyError,
		"RFC 5927 section 4.1: SYN-RECEIVED: an error about another number is ignored":                           anyError,
		"RFC 5927 section 7.2: packet too big about what is not in flight is ignored":                            anyError,
		"RFC 5927 section 7.2: packet too big about what was acknowledged is ignored":                            anyError,
		"RFC 5927 section 7.2: packet too big below the least MTU makes no tiny segments":                        anyError,
		"RFC 5927 section 7.2: packet too big with an MTU of 0 makes no tiny segments":                           anyError,
	},
}

const (
	noMSS       = "takes the default of IPv4, 536, for both"
	noDSACK     = "does not report duplicates"
	noRACK      = "has no RACK-TLP, or has it off: see docs/internals.md"
	stormOfSYNs = "sends the SYN again about twenty times within 20 ms"
	firstFlight = "waits for the timer when the first segment of a connection is lost"
	anyAck      = "takes data whatever it acknowledges"
	anyWindow   = "takes the window of any segment"
	anyError    = "believes ICMP errors whatever they quote"
)
