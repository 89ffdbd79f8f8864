package netstack

import (
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// PacketTooBig is the error that an ICMP message of that kind becomes in gVisor's
// stack. It holds the greatest payload of an IP packet in bytes.
type PacketTooBig uint32

var _ stack.TransportError = PacketTooBig(0)

// Origin implements stack.TransportError.
func (PacketTooBig) Origin() tcpip.SockErrOrigin { return tcpip.SockExtErrorOriginLocal }

// Type implements stack.TransportError.
func (PacketTooBig) Type() uint8 { return 0 }

// Code implements stack.TransportError.
func (PacketTooBig) Code() uint8 { return 0 }

// Info implements stack.TransportError.
func (p PacketTooBig) Info() uint32 { return uint32(p) }

// Kind implements stack.TransportError.
func (PacketTooBig) Kind() stack.TransportErrorKind { return stack.PacketTooBigTransportError }
