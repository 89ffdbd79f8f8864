// Package ringtest reaches behind a net_ring port: it puts mbufs into the ring
// that the port receives from, with every field as a test wants it, and takes out
// those that the port sent. It serves tests only.
package ringtest
