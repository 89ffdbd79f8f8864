package xdp

import (
	"errors"

	"github.com/gotpa/tpa/internal/bpf"
)

// Clean puts back what processes that are gone have left on interfaces of the calling
// thread's network namespace: how interrupts are deferred, and filters of Config.Pin.
// It returns the names of what it dealt with. What live processes have is left alone.
func Clean() (cleaned []string, err error) {
	cleaned, err = cleanRecords()
	pins, perr := bpf.CleanPins()
	return append(cleaned, pins...), errors.Join(err, perr)
}
