package xdp

import (
	"fmt"

	"github.com/cilium/ebpf"
)

// Run runs the attached program on a frame and returns what becomes of it, as XDP
// counts: 1 drops, 2 passes, 3 sends, 4 redirects.
func (f *Filter) Run(frame []byte) (action uint32, out []byte, err error) {
	p, err := ebpf.NewProgramFromID(f.program)
	if err != nil {
		return 0, nil, err
	}
	defer p.Close()
	o := ebpf.RunOptions{Data: frame, DataOut: make([]byte, len(frame)+256)}
	action, err = p.Run(&o)
	return action, o.DataOut, err
}

// CompleteAnswers has all answers leave with their checksum, as those of a driver
// do that runs XDP.
func (f *Filter) CompleteAnswers() error {
	var c filterCookies
	if err := f.maps.Cookies.Lookup(uint32(0), &c); err != nil {
		return err
	}
	if c.Behind != 0 {
		return fmt.Errorf("XDP does not answer")
	}
	c.Partial = 0
	return f.maps.Cookies.Put(uint32(0), c)
}

// SendByRing has a device send as in zero-copy mode, which no device of the tests
// has: through the transmit ring.
func (c Config) SendByRing() Config {
	c.sendByRing = true
	return c
}
