package scenario

// known are the scenarios that one of our TCPs fails and Linux passes, and why, by
// engine and title. docs/testing.md has the list.
var known = map[string]map[string]string{
	"gvisor": {
		"RFC 9293 section 3.10.7.4: SYN-RECEIVED: the SYN again is answered again":                                    "answers with an acknowledgement that has no SYN",
		"RFC 9293 section 3.7.1: without an MSS it is 1220 over IPv6":                                                 noMSS,
		"RFC 9293 section 3.7.1: segments are full when SACK is permitted":                                            "keeps room for the options of an acknowledgement in each segment: 36 bytes",
		"RFC 9293 section 3.8.6.2.1: a window of a few bytes does not make a small segment at once":                   "has no silly window avoidance on the sending side",
		"RFC 2018 section 3: gaps are reported after our side closed for writing":                                     "sends no SACK blocks after a half-close",
		"RFC 2018 section 4: data again is reported as duplicate (RFC 2883 section 4)":                                noDSACK,
		"RFC 2883 section 4: what is there out of order is reported as duplicate, with its block behind":              noDSACK,
		"RFC 2883 section 4: the end of a segment that is there out of order is reported as duplicate":                noDSACK,
		"RFC 2883 section 4: the beginning of a segment that is there out of order is reported as duplicate":          noDSACK,
		"RFC 2883 section 4: the middle of a segment that is there out of order is reported as duplicate":             noDSACK,
		"RFC 2883 section 4: the part of a segment that came in order is reported as duplicate":                       noDSACK,
		"RFC 9293 section 3.5.2: the reset for data after closing has the number that the peer expects":               "takes the number behind all that it has sent",
		"RFC 9293 section 3.10.7.4: CLOSE-WAIT: the peer's FIN twice within a moment is acknowledged twice":           "limits how often a FIN is acknowledged",
		"RFC 5961 section 3.2: a reset right behind the window is ignored":                                            "answers it",
		"RFC 5961 section 3.2: SYN-RECEIVED: a reset right behind the window is ignored":                              "has a smaller window than it told the peer",
		"RFC 9293 section 3.10.5: a linger time of 0 resets nothing after both FINs":                                  "waits for the acknowledgement of its FIN",
		"RFC 5961 section 3.2: a reset with the number of the peer's FIN, as macOS sends it (Linux, tcp_reset_check)": "ignores it",
		"RFC 5961 section 5: data that acknowledges what was before the first byte is not taken":                      "takes it",
		"RFC 7323 section 3.2: segments that leave agreed timestamps out are taken":                                   noStamp,
		"RFC 7323 section 3.2: a handshake that leaves agreed timestamps out goes on":                                 noStamp,
		"RFC 3522 section 3.2: a time-out that came too early is taken back (Eifel)":                                  noEifel,
		"RFC 3522 section 3.2: a time-out that came too early is taken back, with SACK":                               noEifel,
		"RFC 6937 section 3: sending does not pause while the window comes down":                                      firstFlight,
		"RFC 6298 section 2.3: steady round trips bring the timer near to them":                                       "the variance of steady round trips comes down to nothing, and the timer to the round trip itself",
		"RFC 5681 section 3.2: fast retransmit of the very first segment":                                             firstFlight,
		"RFC 6675 section 5: what SACK shows as lost of the very first flight is sent again":                          firstFlight,
		"RFC 5681 section 3.2: the first two duplicates let new segments out (RFC 3042)":                              "has no limited transmit",
		"RFC 8985 section 7: the tail of a flight is probed before the timer runs out":                                noRACK,
		"RFC 8985 section 6: a segment is lost when one sent much later has arrived":                                  noRACK,
		"RFC 5681 section 3.1: congestion avoidance: the window grows by one segment per round trip":                  "grows faster after a fast recovery",
		"RFC 9293 section 3.6: the FIN waits for data that waits for the window":                                      "sends the FIN in a segment of its own, with the next round trip",
		"RFC 6191 section 2: in TIME-WAIT a SYN with a newer timestamp opens a connection again":                      "goes by the sequence number alone",
		"RFC 9293 section 3.10.8: the user timeout begins anew with each acknowledgement of something":                "counts from the first retransmission, whatever was acknowledged since",
		"RFC 1122 section 4.2.3.4: Nagle: a full segment does not wait":                                               "fills the segment up with what was sent already, when the timer runs out",
		"RFC 1122 section 4.2.3.4: Nagle: a FIN does not make data wait":                                              "waits for the acknowledgement",
	},
}

const (
	noMSS       = "takes the default of IPv4, 536, for both"
	noDSACK     = "does not report duplicates"
	noEifel     = "does not look at the timestamp that the acknowledgement echoes"
	noStamp     = "drops what has no timestamp where they were agreed"
	noRACK      = "has no RACK-TLP, or has it off: see docs/internals.md"
	firstFlight = "waits for the timer when the first segment of a connection is lost"
)
