package ports

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Connections returns the connections that the kernel has at a local port:
// established ones and those being opened or closed, but not what only waits for
// old duplicates (TIME_WAIT).
func Connections(port uint16) ([]Connection, error) {
	var all []Connection
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		req := nl.NewNetlinkRequest(nl.SOCK_DIAG_BY_FAMILY, unix.NLM_F_DUMP)
		req.AddData(diagRequest{family, port})
		err := req.ExecuteIter(unix.NETLINK_INET_DIAG, nl.SOCK_DIAG_BY_FAMILY, func(msg []byte) bool {
			if c, ok := parseDiag(msg); ok {
				all = append(all, c)
			}
			return true
		})
		if err != nil {
			return nil, fmt.Errorf("list connections at port %d: %w", port, err)
		}
	}
	return all, nil
}

// diagRequest is struct inet_diag_req_v2: all sockets of one family and local
// port in the states of interest.
type diagRequest struct {
	family uint8
	port   uint16
}

// TCP states of the kernel, tcp_states.h.
const (
	established = 1
	synSent     = 2
	finWait1    = 4
	finWait2    = 5
	closeWait   = 8
	lastAck     = 9
	closing     = 11

	diagStates = 1<<established | 1<<synSent | 1<<finWait1 | 1<<finWait2 | 1<<closeWait | 1<<lastAck | 1<<closing
)

func (r diagRequest) Len() int { return 56 }

func (r diagRequest) Serialize() []byte {
	b := make([]byte, r.Len())
	b[0], b[1] = r.family, unix.IPPROTO_TCP
	binary.NativeEndian.PutUint32(b[4:], diagStates)
	binary.BigEndian.PutUint16(b[8:], r.port)
	return b
}

// parseDiag reads a struct inet_diag_msg.
func parseDiag(b []byte) (c Connection, ok bool) {
	if len(b) < 40 {
		return c, false
	}
	local, remote := netip.AddrFrom16([16]byte(b[8:])).Unmap(), netip.AddrFrom16([16]byte(b[24:])).Unmap()
	if b[0] == unix.AF_INET {
		local, remote = netip.AddrFrom4([4]byte(b[8:])), netip.AddrFrom4([4]byte(b[24:]))
	}
	c.Local = netip.AddrPortFrom(local, binary.BigEndian.Uint16(b[4:]))
	c.Remote = netip.AddrPortFrom(remote, binary.BigEndian.Uint16(b[6:]))
	return c, true
}
