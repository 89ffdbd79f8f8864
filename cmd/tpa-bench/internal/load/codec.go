package load

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"

	"github.com/gotpa/tpa/cmd/tpa-bench/internal/resp"
)

// request is one request under way.
type request struct {
	intended int64 // when it was due, ns since the run began
	set      bool  // a SET, to be answered by OK; else a value comes back
	seed     uint64
}

// codec writes the requests of one connection and reads the replies. encode
// and decode share no state that changes: one goroutine may write while another
// reads.
type codec interface {
	// encode appends the next request and notes in r what its reply must be.
	encode(dst []byte, r *request) []byte
	// decode takes bytes of the reply to r from the front of p, which may hold
	// less or more than the reply. It returns how many it took, and whether that
	// was the end of the reply. A refusal as error leaves the connection usable.
	decode(p []byte, r *request) (n int, done bool, err error)
	// reset forgets a reply that was cut short, for a new connection.
	reset()
}

// refusal is an error reply.
type refusal string

func (e refusal) Error() string { return "server: " + string(e) }

var errCorrupt = errors.New("a reply holds other bytes than were sent")

// pattern makes and checks payloads.
type pattern struct {
	size  int
	fixed []byte // the payload, unless it changes with the seed
	made  []byte // the payload of a seed
	seed  uint64
}

// newPattern returns a pattern whose payloads are all different if vary is set.
func newPattern(size int, vary bool) *pattern {
	p := &pattern{size: size, made: make([]byte, size)}
	p.fill(1)
	if !vary {
		p.fixed = p.made
	}
	return p
}

// payload returns the payload of a seed. It is valid until the next call.
func (p *pattern) payload(seed uint64) []byte {
	if p.fixed != nil {
		return p.fixed
	}
	if p.seed != seed {
		p.fill(seed)
	}
	return p.made
}

// fill makes letters and digits by splitmix64, eight at a time.
func (p *pattern) fill(seed uint64) {
	p.seed = seed
	var eight [8]byte
	state := seed * 0x9e3779b97f4a7c15
	for i := 0; i < p.size; i += 8 {
		state += 0x9e3779b97f4a7c15
		z := state
		z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
		z = (z ^ z>>27) * 0x94d049bb133111eb
		z ^= z >> 31
		binary.LittleEndian.PutUint64(eight[:], z)
		for j, b := range eight {
			eight[j] = alphabet[b&63]
		}
		copy(p.made[i:], eight[:])
	}
}

const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"

// redisCodec speaks RESP: GETs and SETs of one key.
type redisCodec struct {
	// encode's
	sets, gets int // a cycle: so many SETs, then so many GETs
	turn       int
	seed       uint64 // of the last SET
	getRequest []byte
	setHead    []byte // a SET up to its value
	write      *pattern
	verify     bool

	// decode's
	size int // bytes of a value
	left int // bytes of the current value, with CR LF, still to come; 0: no value has begun
	read *pattern
}

func newRedisCodec(c *Config, conn int) *redisCodec {
	key := fmt.Sprintf("key:%012d", conn)
	head := resp.AppendArray(nil, 3)
	head = resp.AppendBulk(head, "SET")
	head = resp.AppendBulk(head, key)
	head = fmt.Appendf(head, "$%d\r\n", c.Payload)
	rc := &redisCodec{
		gets:       1,
		seed:       1,
		getRequest: resp.AppendCommand(nil, "GET", key),
		setHead:    head,
		write:      newPattern(c.Payload, c.Verify),
		verify:     c.Verify,
		size:       c.Payload,
		read:       newPattern(c.Payload, c.Verify),
	}
	switch c.Workload.Name {
	case "set":
		rc.sets, rc.gets = 1, 0
	case "mixed":
		rc.sets, rc.gets = 1, 10
		rc.turn = conn % 11 // so that the connections do not all write at once
	}
	return rc
}

func (rc *redisCodec) encode(dst []byte, r *request) []byte {
	set := rc.turn < rc.sets
	if rc.turn++; rc.turn >= rc.sets+rc.gets {
		rc.turn = 0
	}
	if set {
		return rc.encodeSet(dst, r)
	}
	r.set, r.seed = false, rc.seed
	return append(dst, rc.getRequest...)
}

func (rc *redisCodec) encodeSet(dst []byte, r *request) []byte {
	if rc.verify {
		rc.seed++
	}
	r.set, r.seed = true, rc.seed
	dst = append(dst, rc.setHead...)
	dst = append(dst, rc.write.payload(rc.seed)...)
	return append(dst, '\r', '\n')
}

func (rc *redisCodec) decode(p []byte, r *request) (n int, done bool, err error) {
	if rc.left == 0 {
		kind, length, text, size, err := resp.Header(p)
		switch {
		case err != nil || size == 0:
			return 0, false, err
		case kind == resp.Failure:
			return size, true, refusal(text)
		case r.set && kind == resp.Status:
			return size, true, nil
		case r.set || kind != resp.Bulk:
			return 0, false, fmt.Errorf("a reply of kind %q does not answer the request", kind)
		case length < 0:
			return size, true, refusal("the key is gone")
		case length != int64(rc.size):
			return 0, false, fmt.Errorf("a value of %d bytes: want %d", length, rc.size)
		}
		n, rc.left = size, rc.size+2
		p = p[size:]
	}
	p = p[:min(len(p), rc.left)]
	if rc.verify {
		if at := rc.size + 2 - rc.left; at < rc.size {
			want := rc.read.payload(r.seed)[at:]
			if k := min(len(p), len(want)); !bytes.Equal(p[:k], want[:k]) {
				return 0, false, errCorrupt
			}
		}
	}
	rc.left -= len(p)
	return n + len(p), rc.left == 0, nil
}

func (rc *redisCodec) reset() { rc.left = 0 }

// streamCodec sends plain bytes and wants them back.
type streamCodec struct {
	seed   uint64
	write  *pattern
	verify bool
	digest hash.Hash // of all that was encoded for a connection, if nothing comes back

	read *pattern
	got  int // bytes of the current message
}

func newStreamCodec(c *Config, conn int) *streamCodec {
	sc := &streamCodec{
		seed:   uint64(conn) << 40,
		write:  newPattern(c.Payload, c.Verify),
		verify: c.Verify,
		read:   newPattern(c.Payload, c.Verify),
	}
	if c.Workload.oneWay && c.Verify {
		sc.digest = sha256.New()
	}
	return sc
}

func (sc *streamCodec) encode(dst []byte, r *request) []byte {
	sc.seed++
	r.seed = sc.seed
	p := sc.write.payload(sc.seed)
	if sc.digest != nil {
		sc.digest.Write(p)
	}
	return append(dst, p...)
}

func (sc *streamCodec) decode(p []byte, r *request) (n int, done bool, err error) {
	n = min(len(p), sc.read.size-sc.got)
	if sc.verify && !bytes.Equal(p[:n], sc.read.payload(r.seed)[sc.got:sc.got+n]) {
		return 0, false, errCorrupt
	}
	if sc.got += n; sc.got == sc.read.size {
		sc.got = 0
		return n, true, nil
	}
	return n, false, nil
}

func (sc *streamCodec) reset() {
	sc.got = 0
	if sc.digest != nil {
		sc.digest.Reset()
	}
}
