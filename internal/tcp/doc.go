// Package tcp is a TCP that runs to completion inside a shard. It is registered
// with a gVisor stack as its TCP transport protocol: gVisor keeps IP, ARP, NDP,
// ICMP, routing and ports, this package does what lies between a segment and a
// byte stream.
//
// # The path of a segment
//
// Segments of connections come from the poller straight to [Endpoint.Input], or
// for a SYN to its listener, as bytes in the device's buffer, and leave through [Output],
// which builds the frame in the device's buffer. Between the two there is no
// packet object, no queue and no other goroutine: one lock of the connection,
// one copy in, one copy out.
//
// All other segments (such as fragments, or SYNs from hosts not seen before) come
// through gVisor's demultiplexer, which knows listeners only, to
// [Protocol.QueuePacket]. gVisor holds its locks then, so they are queued, and
// [Protocol.Drain] handles them: the poller calls it behind each packet that it
// hands to gVisor, a goroutine does for packets that this host sends to itself.
// When there is no fast path out, because the next hop's MAC address is not known
// or the peer is this host, segments leave through gVisor's IP layer.
//
// # Acknowledgements
//
// What arrives in a burst is acknowledged at the end of the poll, by
// [Endpoint.Acknowledge], unless the program's reply has carried the
// acknowledgement by then. What tells the peer about loss leaves at once.
//
// # Threads
//
// All methods may be called by any goroutine. A connection's state is guarded by
// Endpoint.mu. Locks are taken in this order: a connection, its listener,
// gVisor's. Events are announced without a lock.
//
// # Standards
//
// RFC 9293 with 5681, 6298, 6582, 6675 (SACK), 8985 (RACK-TLP), 2883 and 3708
// (duplicates), 7323 (window scale, timestamps), 5961 (blind attacks), 6528 (initial
// sequence numbers), 5927 (ICMP), 4987 (cookies), 6691 (MSS), 6191 (TIME-WAIT),
// RFC 6937 (PRR), 3522 (Eifel), 4821 and 8899 (black holes). Congestion control is
// CUBIC's (9438) or NewReno's, with HyStart++ (9406).
//
// # Loss
//
// With SACK, a scoreboard (flights) has all that is in flight, cut where the time
// of its sending or what became of it changes. RACK (rack) marks what is lost in
// it, a tail loss probe (tail) makes the peer tell when nothing else would, and
// repair sends again what is marked, as the window allows. A time-out marks all.
// Without SACK, duplicate acknowledgements are counted, and a time-out sends from
// SND.UNA on.
package tcp
