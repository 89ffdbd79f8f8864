package bpf

import "fmt"

// A Mode is how a filter is attached to an interface.
type Mode int

const (
	// Auto tries Native, then Generic.
	Auto Mode = iota
	// Native runs the filter in the driver, before the kernel has made a packet of
	// the frame.
	Native
	// Generic runs the filter in the kernel's receive path, on any driver, at a
	// higher price per frame.
	Generic
	// Ingress runs the filter behind XDP, for a packet socket: see OpenIngress.
	Ingress
)

func (m Mode) String() string {
	switch m {
	case Auto:
		return "auto"
	case Native:
		return "native"
	case Generic:
		return "generic"
	case Ingress:
		return "ingress"
	}
	return fmt.Sprintf("Mode(%d)", int(m))
}
