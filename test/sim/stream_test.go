package sim

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
)

// A stream is an endless sequence of bytes that both ends of a conversation
// know. Every byte depends on its place, so that lost, repeated and exchanged
// bytes are found.
type stream uint64

// fill puts the bytes from off on into b.
func (s stream) fill(b []byte, off int64) {
	for off%8 != 0 && len(b) > 0 {
		b[0] = byte(s.word(off) >> (8 * (off % 8)))
		b, off = b[1:], off+1
	}
	for ; len(b) >= 8; b, off = b[8:], off+8 {
		binary.LittleEndian.PutUint64(b, s.word(off))
	}
	for i := range b {
		b[i] = byte(s.word(off) >> (8 * i))
	}
}

// word is the eight bytes around off, mixed as in splitmix64.
func (s stream) word(off int64) uint64 {
	x := uint64(s) + uint64(off/8)*0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// A source reads the first n bytes of a stream.
type source struct {
	stream stream
	at, n  int64
}

func (s *source) Read(b []byte) (int, error) {
	if s.at == s.n {
		return 0, io.EOF
	}
	b = b[:min(int64(len(b)), s.n-s.at)]
	s.stream.fill(b, s.at)
	s.at += int64(len(b))
	return len(b), nil
}

// A check is written the bytes that arrive and compares them with the stream.
type check struct {
	stream stream
	at     int64
	want   []byte
}

func (c *check) Write(b []byte) (int, error) {
	if cap(c.want) < len(b) {
		c.want = make([]byte, len(b))
	}
	want := c.want[:len(b)]
	c.stream.fill(want, c.at)
	if !bytes.Equal(b, want) {
		i := 0
		for b[i] == want[i] {
			i++
		}
		return i, fmt.Errorf("byte %d of the stream is %#02x, want %#02x", c.at+int64(i), b[i], want[i])
	}
	c.at += int64(len(b))
	return len(b), nil
}
