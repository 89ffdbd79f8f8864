package rss

import (
	"encoding/hex"
	"io"
)

// Lengths of keys in bytes. The hash of the longest input, two IPv6 addresses
// and ports, uses 40; some devices (i40e, ice) hold 52 and use the rest for
// inputs that are not spread on here.
const (
	KeyLen     = 40
	LongKeyLen = 52
)

// MicrosoftKey returns the 40-byte key of the published test vectors, the
// default of many drivers. Everyone knows it, so everyone can make flows that
// all arrive on one queue: see RandomKey.
func MicrosoftKey() []byte {
	key, _ := hex.DecodeString("6d5a56da255b0ec24167253d43a38fb0d0ca2bcbae7b30b477cb2da38030f20c6a42b73bbeac01fa")
	return key
}

// SymmetricKey returns a key of n bytes under which both directions of a flow
// have the same hash: 16 bits that repeat, as Woo and Park describe in
// "Scalable TCP Session Monitoring with Symmetric Receive-side Scaling".
func SymmetricKey(n int) []byte {
	key := make([]byte, n)
	for i := range key {
		key[i] = [2]byte{0x6d, 0x5a}[i%2]
	}
	return key
}

// RandomKey returns a key of n bytes from r, which should be crypto/rand.Reader:
// who does not know the key cannot aim flows at one queue.
func RandomKey(r io.Reader, n int) ([]byte, error) {
	key := make([]byte, n)
	_, err := io.ReadFull(r, key)
	return key, err
}

// Table returns a redirection table of that many entries that gives each queue
// the same share, up to one entry.
func Table(entries, queues int) []uint16 {
	table := make([]uint16, entries)
	for i := range table {
		table[i] = uint16(i % queues)
	}
	return table
}
