package link

import "net/netip"

// A Flow is one TCP connection, seen from this host.
type Flow struct{ Local, Remote netip.AddrPort }
