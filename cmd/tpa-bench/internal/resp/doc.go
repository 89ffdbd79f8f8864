// Package resp reads and writes RESP2, the protocol of Redis, as both ends of a
// benchmark need it: without allocation once buffers have grown, and with
// bounds on everything that the peer decides.
//
// A server puts a Reader over its connection and calls Parse until no whole
// command is left, then sends its replies, then calls Fill: so the replies to
// a pipeline leave in one write. A client appends commands to a buffer and
// reads replies with Header.
//
// A Reader belongs to one goroutine. The protocol is described at
// https://redis.io/docs/latest/develop/reference/protocol-spec/.
package resp
