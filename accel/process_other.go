//go:build !linux

package accel

import (
	"errors"
	"io/fs"
	"net"
)

// debugSockets: there is no way to tell who is at the other end, so there are none, and
// no file of the flight recorder beside them.
const debugSockets = false

// ended is never sure.
func ended(int) bool { return false }

// owner does not know.
func owner(fs.FileInfo) (uid int, ok bool) { return 0, false }

// peer does not know either.
func peer(*net.UnixConn) (uid, pid int, err error) { return 0, 0, errors.ErrUnsupported }
