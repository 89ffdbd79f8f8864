//go:build dpdk && cgo && linux

package dpdk

import (
	"errors"
	"fmt"
	"io/fs"
	"math/bits"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// memif is the driver of shared-memory links between two processes.
const memif = "net_memif"

// Defaults and limits of the memif driver.
const (
	memifBuffer   = 2048 // bsize
	memifMaxRing  = 14   // rsize, log2
	memifSocket   = "/run/memif.sock"
	memifAbstract = "yes"
)

// A client asks a server memifTries times, and waits memifTimeout for its answer:
// one that is busy starting needs a second or two.
const (
	memifTries   = 10
	memifTimeout = 500 * time.Millisecond
)

func (c *Config) isMemif() bool { return strings.HasPrefix(c.name(), memif) }

func (c *Config) isMemifServer() bool {
	role := c.arg("role", "client")
	return role == "server" || role == "master"
}

// prepareMemif turns what the driver takes as arguments of its own into them,
// and makes way for a server whose predecessor was killed.
func (c *Config) prepareMemif() error {
	if !c.isMemif() {
		return nil
	}
	_, args, _ := strings.Cut(c.Device, ",")
	for arg := range strings.SplitSeq(args, ",") {
		if strings.Count(arg, "=") > 1 {
			// It would start with defaults and say nothing.
			return fmt.Errorf("%s: the driver reads no value that holds a '='", arg)
		}
	}
	// A frame that needs two buffers of the ring leaves a mark on the first that
	// the driver does not clear before DPDK 26.03: what uses that buffer next is
	// glued to its successor. So every frame has to fit one.
	if frame := c.MTU + ethernet + vlanTag; c.arg("bsize", "") == "" {
		if frame > memifBuffer {
			c.Device += ",bsize=" + strconv.Itoa(align(frame, 64))
		}
	} else if size, err := strconv.Atoi(c.arg("bsize", "")); err != nil || size < max(frame, 1500+ethernet+vlanTag) {
		return fmt.Errorf("bsize is %s: frames of up to %d bytes must fit", c.arg("bsize", ""), max(frame, 1500+ethernet+vlanTag))
	}
	if ring := max(c.RxRing, c.TxRing); ring > 0 && c.arg("rsize", "") == "" {
		if ring > 1<<memifMaxRing {
			return fmt.Errorf("Config.RxRing or TxRing is %d: memif takes up to %d", ring, 1<<memifMaxRing)
		}
		c.Device += ",rsize=" + strconv.Itoa(bits.Len(uint(ring-1)))
	}
	if c.isMemifServer() && c.arg("socket-abstract", memifAbstract) == "no" {
		return removeStaleSocket(c.arg("socket", memifSocket))
	}
	return nil
}

// startMemifError explains why a port did not start.
func (c *Config) startMemifError() error {
	return fmt.Errorf("no memif server answers on socket=%s: start the side with role=server first: %w", c.arg("socket", memifSocket), syscall.ECONNREFUSED)
}

// removeStaleSocket removes the socket of a server that ended without removing
// it, which the driver would take for a running one.
func removeStaleSocket(path string) error {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode()&fs.ModeSocket == 0 {
		return fmt.Errorf("socket=%s: a file of that name exists that is no socket: %w", path, fs.ErrExist)
	}
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_SEQPACKET|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer syscall.Close(fd)
	switch err := syscall.Connect(fd, &syscall.SockaddrUnix{Name: path}); err {
	case nil:
		return fmt.Errorf("socket=%s: another server listens on it: %w", path, syscall.EADDRINUSE)
	case syscall.ECONNREFUSED:
		return os.Remove(path)
	default:
		return fmt.Errorf("socket=%s: %w", path, err)
	}
}
