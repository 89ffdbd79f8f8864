package transport

import "errors"

func openAccel() (Transport, error) {
	return nil, errors.New("the accel transport is not part of this build")
}

// DPDKVersion is the version of DPDK in this program, or "none".
func DPDKVersion() string { return "none" }
