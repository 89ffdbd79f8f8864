// Package genetlink asks the kernel by generic netlink: what ethtool and netdev
// families know of network interfaces. An old kernel answers that it does not know
// a family, a command or an attribute; no caller may need an answer.
package genetlink

import (
	"encoding/binary"
	"errors"
	"fmt"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// A Conn asks in one network namespace. Any goroutine may use it, one at a time is
// served.
type Conn struct{ sockets map[int]*nl.SocketHandle }

// Open returns a Conn for the network namespace of the calling thread.
func Open() (*Conn, error) {
	s, err := nl.Subscribe(unix.NETLINK_GENERIC)
	if err != nil {
		return nil, err
	}
	// A kernel that does not answer must not hold up a program.
	limit := unix.Timeval{Sec: 5}
	_ = s.SetExtAck(true) // reasons in words, where the kernel has them
	if err := errors.Join(s.SetSendTimeout(&limit), s.SetReceiveTimeout(&limit)); err != nil {
		s.Close()
		return nil, err
	}
	return &Conn{map[int]*nl.SocketHandle{unix.NETLINK_GENERIC: {Socket: s}}}, nil
}

// Close closes the connection.
func (c *Conn) Close() { c.sockets[unix.NETLINK_GENERIC].Close() }

// Ask sends a command of a family and returns the attributes of the first answer,
// nil where the kernel confirms without any.
func (c *Conn) Ask(family string, command uint8, attrs ...*nl.RtAttr) (Attributes, error) {
	all, err := c.execute(family, command, unix.NLM_F_ACK, attrs)
	if err != nil || len(all) == 0 {
		return nil, err
	}
	return all[0], nil
}

// Dump sends a command of a family that has many answers.
func (c *Conn) Dump(family string, command uint8, attrs ...*nl.RtAttr) ([]Attributes, error) {
	return c.execute(family, command, unix.NLM_F_DUMP, attrs)
}

func (c *Conn) execute(family string, command uint8, flags int, attrs []*nl.RtAttr) ([]Attributes, error) {
	// Numbers of families are the same in all namespaces.
	f, err := netlink.GenlFamilyGet(family)
	if err != nil {
		return nil, fmt.Errorf("netlink family %s: %w", family, err)
	}
	r := nl.NewNetlinkRequest(int(f.ID), flags)
	r.Sockets = c.sockets
	r.AddData(header{command, uint8(f.Version)})
	for _, a := range attrs {
		r.AddData(a)
	}
	answers, err := r.Execute(unix.NETLINK_GENERIC, 0)
	if err != nil {
		return nil, fmt.Errorf("netlink family %s, command %d: %w", family, command, err)
	}
	var all []Attributes
	for _, answer := range answers {
		if len(answer) < nl.SizeofGenlmsg {
			return nil, fmt.Errorf("netlink family %s: an answer of %d bytes", family, len(answer))
		}
		a, err := Parse(answer[nl.SizeofGenlmsg:])
		if err != nil {
			return nil, fmt.Errorf("netlink family %s: %w", family, err)
		}
		all = append(all, a)
	}
	return all, nil
}

// header is struct genlmsghdr: command, version and two bytes that must be 0, which
// nl.Genlmsg leaves to chance.
type header [4]byte

func (h header) Len() int          { return len(h) }
func (h header) Serialize() []byte { return h[:] }

// Attributes are those of an answer, by type. Of several of one type, the last one.
type Attributes map[uint16][]byte

// Parse reads a list of attributes.
func Parse(b []byte) (Attributes, error) {
	list, err := List(b)
	if err != nil {
		return nil, err
	}
	all := make(Attributes, len(list))
	for _, a := range list {
		all[a.Attr.Type] = a.Value
	}
	return all, nil
}

// List reads attributes in their order, and takes the flags off their types.
func List(b []byte) ([]syscall.NetlinkRouteAttr, error) {
	list, err := nl.ParseRouteAttr(b)
	for i := range list {
		list[i].Attr.Type &^= unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER
	}
	return list, err
}

// Uint returns an attribute of 4 or 8 bytes; false where there is none.
func (a Attributes) Uint(kind uint16) (uint64, bool) {
	switch b := a[kind]; len(b) {
	case 4:
		return uint64(binary.NativeEndian.Uint32(b)), true
	case 8:
		return binary.NativeEndian.Uint64(b), true
	}
	return 0, false
}

// Uint32 returns an attribute for a question.
func Uint32(kind int, v uint32) *nl.RtAttr { return nl.NewRtAttr(kind, nl.Uint32Attr(v)) }
