package fault

import (
	"errors"
	"fmt"
	"maps"
	"sync/atomic"

	"github.com/gotpa/tpa/link"
)

var (
	_ link.Device   = (*Device)(nil)
	_ link.Spreader = (*Device)(nil)
	_ link.Queue    = (*queue)(nil)
	_ link.Waiter   = (*waiterQueue)(nil)
)

// Config is how a device is impaired.
type Config struct {
	// Seed chooses the random numbers.
	Seed uint64
	// Receive is what happens to frames that the device received, Transmit to
	// those sent through it.
	Receive, Transmit Impairment
}

// direction tells the two random streams of a queue apart.
type direction uint32

const (
	receive direction = iota + 1
	transmit
)

// A Device is a device behind impairments. Any goroutine may call its methods at
// any time.
type Device struct {
	inner  link.Device
	queues []link.Queue
	lines  []*queue

	receive, transmit                 atomic.Pointer[Impairment]
	receiveCounters, transmitCounters counters
}

// Wrap puts impairments in front of a device. Closing the result closes the
// device. The error names the field that is out of range.
func Wrap(dev link.Device, c Config) (*Device, error) {
	d := &Device{inner: dev}
	if err := errors.Join(d.SetReceive(c.Receive), d.SetTransmit(c.Transmit)); err != nil {
		return nil, err
	}
	for i := range dev.Info().Queues {
		q := newQueue(d, dev.Queue(i), c.Seed, i)
		d.lines = append(d.lines, q)
		if w, ok := q.inner.(link.Waiter); ok {
			d.queues = append(d.queues, &waiterQueue{q, w})
		} else {
			d.queues = append(d.queues, q)
		}
	}
	return d, nil
}

// SetReceive changes the impairment of received frames. Those that wait stay as
// they are.
func (d *Device) SetReceive(i Impairment) error { return set(&d.receive, "Receive", i) }

// SetTransmit changes the impairment of sent frames. Those that wait stay as
// they are.
func (d *Device) SetTransmit(i Impairment) error { return set(&d.transmit, "Transmit", i) }

func set(p *atomic.Pointer[Impairment], name string, i Impairment) error {
	if err := i.check(); err != nil {
		return fmt.Errorf("fault: %s: %w", name, err)
	}
	i = i.withDefaults()
	p.Store(&i)
	return nil
}

// Counters tell what happened to received and to sent frames.
func (d *Device) Counters() (received, sent Counters) {
	in, out := 0, 0
	for _, q := range d.lines {
		in += int(q.rx.size.Load())
		out += int(q.tx.size.Load())
	}
	return d.receiveCounters.load(in), d.transmitCounters.load(out)
}

// Unwrap returns the device behind the impairments.
func (d *Device) Unwrap() link.Device { return d.inner }

// Info implements link.Device.
func (d *Device) Info() link.Info { return d.inner.Info() }

// Queue implements link.Device. The queues implement link.Waiter if those of the
// wrapped device do.
func (d *Device) Queue(i int) link.Queue { return d.queues[i] }

// LinkUp implements link.Device.
func (d *Device) LinkUp() bool { return d.inner.LinkUp() }

// Stats implements link.Device. The counters are those of the wrapped device,
// with the impairments' own among the extended ones. Frames that wait count as
// buffers in use.
func (d *Device) Stats() link.DeviceStats {
	s := d.inner.Stats()
	s.Extended = maps.Clone(s.Extended)
	if s.Extended == nil {
		s.Extended = map[string]uint64{}
	}
	received, sent := d.Counters()
	for prefix, c := range map[string]Counters{"fault_rx_": received, "fault_tx_": sent} {
		s.Extended[prefix+"frames"] = c.Frames
		s.Extended[prefix+"dropped"] = c.Dropped
		s.Extended[prefix+"overflowed"] = c.Overflowed
		s.Extended[prefix+"duplicated"] = c.Duplicated
		s.Extended[prefix+"reordered"] = c.Reordered
		s.Extended[prefix+"delayed"] = c.Delayed
		s.Extended[prefix+"corrupted"] = c.Corrupted
		s.Extended[prefix+"cut"] = c.Cut
		s.BuffersInUse += c.Waiting
		s.BuffersTotal += c.Waiting
	}
	return s
}

// errNoRSS is what a device answers that does not know its RSS.
var errNoRSS = errors.New("fault: the wrapped device does not tell its RSS")

// RSS implements link.Spreader. It is an error when the wrapped device does not.
func (d *Device) RSS() (link.RSS, error) {
	if s, ok := d.inner.(link.Spreader); ok {
		return s.RSS()
	}
	return link.RSS{}, errNoRSS
}

// SetRSS implements link.Spreader. It is an error when the wrapped device does
// not.
func (d *Device) SetRSS(r link.RSS) error {
	if s, ok := d.inner.(link.Spreader); ok {
		return s.SetRSS(r)
	}
	return errNoRSS
}

// Close implements link.Device. Frames that wait are lost.
func (d *Device) Close() error {
	for _, q := range d.queues {
		q.Close()
	}
	return d.inner.Close()
}
