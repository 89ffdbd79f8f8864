// Package netif joins a device queue to gVisor's IP stack: the link endpoint,
// the neighbour table with ARP and neighbour discovery, and transmission, which
// writes each frame once, into the device's own buffer.
//
// # Receiving
//
// The poller calls Queue.Receive and gets a burst of frames, each a view of
// memory that the device owns. Segments of known TCP flows go straight to TCP.
// All other frames go through Endpoint.Deliver, which answers ARP and neighbour
// discovery itself and hands the rest to the IP stack, which copies what it
// keeps.
//
// # Sending
//
// A frame is made in a buffer from Queue.Reserve and leaves with the next
// Queue.Flush: once per poll, or earlier when enough frames are staged or the
// poller sleeps. Segments take one of two paths. On the fast path, SendTCP and
// WriteTCP, TCP's header is all there is to write, because those below it are
// known. On the slow path, Discipline, a packet comes from the IP stack.
//
// # Threads
//
// One goroutine, the poller, receives. Any goroutine may send, under the
// endpoint's transmit lock. Sending and receiving never wait for each other.
package netif
