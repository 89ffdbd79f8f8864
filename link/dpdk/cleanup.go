//go:build dpdk && cgo && linux

package dpdk

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A cleanupHelper is a process that outlives this one, should it be killed, to undo
// what drivers do to one of the kernel's interfaces and the kernel does not undo by
// itself: net_af_xdp leaves its XDP program attached, and that one and
// net_af_packet leave the interface promiscuous, even when they are closed.
//
// It is a shell that waits for the end of a pipe of ours, which comes when the
// device is closed or this process is dead.
type cleanupHelper struct {
	name    string // of the interface
	promisc bool   // it was promiscuous before
	program uint32 // XDP program that was attached before, 0 for none
	cmd     *exec.Cmd
	pipe    *os.File
}

// cleanupScript gets the name of the interface, then the number of the program to
// detach and the mode it is attached in, if there is one, then what to set
// promiscuous mode to, if anything. It leaves alone a program that is not the
// one: somebody else's by now.
const cleanupScript = `
trap '' HUP INT TERM
read -r line
if [ -n "$2" ] && ip -details link show dev "$1" | grep -q "prog/xdp id $2 "; then
	ip link set dev "$1" "$3" off
fi
if [ -n "$4" ]; then
	ip link set dev "$1" promisc "$4"
fi
exit 0 # the interface may be gone
`

// attachedGeneric is XDP_ATTACHED_SKB.
const attachedGeneric = 2

// cleanupHelper notes the state of the interface that a device is to be opened on.
// It returns nil where the device has none, or its driver leaves nothing behind.
func (c *Config) cleanupHelper() *cleanupHelper {
	if !strings.HasPrefix(c.name(), "net_af_") {
		return nil
	}
	for arg := range strings.SplitSeq(c.Device, ",") {
		name, ok := strings.CutPrefix(arg, "iface=")
		if !ok {
			continue
		}
		l, err := netlink.LinkByName(name)
		if err != nil {
			return nil // opening the device will say so
		}
		t := &cleanupHelper{name: name, promisc: l.Attrs().RawFlags&unix.IFF_PROMISC != 0}
		if x := l.Attrs().Xdp; x != nil && x.Attached {
			t.program = x.ProgId
		}
		return t
	}
	return nil
}

// start starts the process, if the device that was opened needs it.
func (t *cleanupHelper) start() error {
	l, err := netlink.LinkByName(t.name)
	if err != nil {
		return err
	}
	var program, mode, promisc string
	if x := l.Attrs().Xdp; x != nil && x.Attached && x.ProgId != t.program {
		program, mode = strconv.Itoa(int(x.ProgId)), "xdpdrv"
		if x.AttachMode == attachedGeneric {
			mode = "xdpgeneric"
		}
	}
	if l.Attrs().RawFlags&unix.IFF_PROMISC != 0 && !t.promisc {
		promisc = "off"
	}
	if program == "" && promisc == "" {
		return nil
	}
	read, write, err := os.Pipe()
	if err != nil {
		return err
	}
	defer read.Close()
	cmd := exec.Command("sh", "-c", cleanupScript, "tpa-cleanup", t.name, program, mode, promisc)
	cmd.Stdin = read
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // what ends our session does not end it
	if _, err = exec.LookPath("ip"); err == nil {
		err = cmd.Start()
	}
	if err != nil {
		write.Close()
		return fmt.Errorf("start a process that cleans up after a crash: %w", err)
	}
	t.cmd, t.pipe = cmd, write
	return nil
}

// finish has the process do its work, and waits for it: the device was closed.
func (t *cleanupHelper) finish() error {
	if t == nil || t.cmd == nil {
		return nil
	}
	t.pipe.Close()
	err := t.cmd.Wait()
	t.cmd = nil
	if err != nil {
		return fmt.Errorf("clean up %s: %w", t.name, err)
	}
	return nil
}
