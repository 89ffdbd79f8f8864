// Package ethtool asks drivers of network interfaces what ethtool asks them, and
// tells them what it tells them, by ioctl: older kernels have that, too. What
// only netlink has by name is asked for by that.
package ethtool

import "golang.org/x/sys/unix"

// A Socket asks about the interfaces of one network namespace. Any goroutine may
// use it.
type Socket struct{ fd int }

// Open returns a Socket for the network namespace of the calling thread.
func Open() (*Socket, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return &Socket{fd}, nil
}

// Close closes the socket.
func (s *Socket) Close() { unix.Close(s.fd) }

// A Driver is what `ethtool -i NAME` shows.
type Driver struct{ Name, Version, Firmware string }

// Driver returns the driver of an interface.
func (s *Socket) Driver(name string) (Driver, error) {
	info, err := unix.IoctlGetEthtoolDrvinfo(s.fd, name)
	if err != nil {
		return Driver{}, err
	}
	return Driver{
		unix.ByteSliceToString(info.Driver[:]), unix.ByteSliceToString(info.Version[:]), unix.ByteSliceToString(info.Fw_version[:]),
	}, nil
}

// Channels are the queues in `ethtool -l NAME`: those that receive only, and those
// that receive and send.
type Channels struct {
	Receive, Combined       int // in use
	MaxReceive, MaxCombined int // the most there can be
}

// Receiving is the number of queues in use that receive.
func (c Channels) Receiving() int { return c.Receive + c.Combined }

// MaxReceiving is the most queues that can receive.
func (c Channels) MaxReceiving() int { return c.MaxReceive + c.MaxCombined }

// Channels returns the queues of an interface.
func (s *Socket) Channels(name string) (Channels, error) {
	// struct ethtool_channels: received, sent, other and combined, first the most
	// there can be, then those in use.
	value := struct {
		cmd                             uint32
		maxRx, maxTx, maxOther, maxBoth uint32
		rx, tx, other, both             uint32
	}{cmd: unix.ETHTOOL_GCHANNELS}
	err := do(s, name, &value)
	return Channels{int(value.rx), int(value.both), int(value.maxRx), int(value.maxBoth)}, err
}

// Rings are the descriptors of each queue in `ethtool -g NAME`.
type Rings struct{ Receive, Transmit int }

// Rings returns the ring sizes of an interface.
func (s *Socket) Rings(name string) (Rings, error) {
	// struct ethtool_ringparam: received, small, jumbo and sent, first the most there
	// can be, then those in use.
	value := struct {
		cmd          uint32
		_            [4]uint32
		rx, _, _, tx uint32
	}{cmd: unix.ETHTOOL_GRINGPARAM}
	err := do(s, name, &value)
	return Rings{int(value.rx), int(value.tx)}, err
}

// SetTxChecksum is `ethtool -K NAME tx on|off`.
func (s *Socket) SetTxChecksum(name string, on bool) error {
	value := struct{ cmd, data uint32 }{cmd: unix.ETHTOOL_STXCSUM}
	if on {
		value.data = 1
	}
	return do(s, name, &value)
}
