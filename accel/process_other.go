//go:build !linux

package accel

import (
	"errors"
	"io/fs"
	"net"
)

// ended is never sure.
func ended(int) bool { return false }

// owner does not know. So there is no debug socket unless Config.DebugSocket
// names a place, and no file of the flight recorder.
func owner(fs.FileInfo) (uid int, ok bool) { return 0, false }

// peer fails: a debug socket lets nobody in on this system.
func peer(*net.UnixConn) (uid, pid int, err error) { return 0, 0, errors.ErrUnsupported }
