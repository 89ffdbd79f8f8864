package xdp_test

import (
	"bytes"
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	ebpflink "github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/gotpa/tpa/internal/bpf"
	"github.com/gotpa/tpa/internal/testframe"
	"github.com/gotpa/tpa/internal/testnet"
	"github.com/gotpa/tpa/link/xdp"
)

// pinIn has links pinned in a BPF file system of the test's own, and returns the
// directory.
func pinIn(t *testing.T) string {
	t.Helper()
	mount := t.TempDir()
	testnet.MountBPF(t, mount)
	before := bpf.PinDir
	bpf.PinDir = filepath.Join(mount, "tpa")
	t.Cleanup(func() { bpf.PinDir = before })
	return bpf.PinDir
}

// pinned returns the numbers of the links that are pinned.
func pinned(t *testing.T, dir string) (ids []ebpflink.ID) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "*", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		l, err := ebpflink.LoadPinnedLink(name, nil)
		if err != nil {
			t.Fatal(err)
		}
		info, err := l.Info()
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, info.ID)
		l.Close()
	}
	return ids
}

// claimer returns a command that opens the interface with a pinned filter, claims the
// port at an address and drops all SYNs there.
func claimer(i *testnet.Interface, dir string, local netip.Addr) *exec.Cmd {
	cmd := opener(i)
	cmd.Env = append(cmd.Env, "XDP_TEST_PIN="+dir, "XDP_TEST_CLAIM="+local.String())
	return cmd
}

func TestPin(t *testing.T) {
	for _, attach := range []xdp.Attach{xdp.AttachNative, xdp.AttachGeneric} {
		t.Run(attach.String(), func(t *testing.T) {
			dir := pinIn(t)
			b := newBench(t, xdp.Config{Attach: attach, Pin: true}, testnet.Wire{})
			first := pinned(t, dir)
			if len(first) != 1 {
				t.Fatalf("%d links are pinned, want 1", len(first))
			}
			syn := b.from(b.near.IPv4.Addr(), b.claimed)
			syn.Flags = header.TCPFlagSyn
			b.send(syn.Frame())
			b.receive(b.dev.Queue(0), 1)

			// The owner lives: nobody takes over.
			wantError(t, b.near, xdp.Config{Interface: b.near.Name, Pin: true}, unix.EBUSY, "another process that uses this library")
			wantError(t, b.near, xdp.Config{Interface: b.near.Name}, xdp.ErrOccupied, "another process that uses this library")
			b.near.Host.Do(func() {
				if cleaned, err := xdp.Clean(); len(cleaned) != 0 || err != nil {
					t.Errorf("cleaned %q, %v, want nothing", cleaned, err)
				}
			})

			// Closed, the filter stays and passes everything.
			for range 2 {
				if err := b.dev.Close(); err != nil {
					t.Fatal(err)
				}
				if !attached(t, b.near) {
					t.Fatal("the program is gone")
				}
				b.wantReset(syn)
				b.dev = open(t, b.near, xdp.Config{Interface: b.near.Name, Attach: attach, Pin: true})
				if got := pinned(t, dir); len(got) != 1 || got[0] != first[0] {
					t.Errorf("links %v are pinned, want %v", got, first)
				}
				if err := b.dev.Filter().Claim(b.near.IPv4.Addr(), b.claimed, 1); err != nil {
					t.Fatal(err)
				}
				b.send(syn.Frame())
				b.receive(b.dev.Queue(0), 1)
			}
			if err := b.dev.Unpin(); err != nil {
				t.Fatal(err)
			}
			if err := b.dev.Close(); err != nil || attached(t, b.near) {
				t.Errorf("unpinned and closed: %v, attached is %v", err, attached(t, b.near))
			}
		})
	}
}

// wantReset sends a SYN that the kernel answers, where no filter keeps it.
func (b *bench) wantReset(syn *testframe.TCP) {
	b.Helper()
	b.send(syn.Frame())
	head := append(bytes.Clone(b.far.MAC), b.near.MAC...)
	for range 100 {
		f := b.sniff(head)
		if len(f) >= 54 && f[12] == 8 && f[23] == 6 && f[47]&byte(header.TCPFlagRst) != 0 {
			return
		}
	}
	b.Error("the kernel has not answered")
}

// A pinned filter whose process was killed passes everything, what it had dropped
// too; the next process takes over, and without Pin nothing stays after that one.
func TestPinKill(t *testing.T) {
	dir := pinIn(t)
	b := newBench(t, xdp.Config{}, testnet.Wire{})
	if err := b.dev.Close(); err != nil {
		t.Fatal(err)
	}
	syn := b.from(b.near.IPv4.Addr(), b.claimed)
	syn.Flags = header.TCPFlagSyn
	kill := func() {
		t.Helper()
		cmd := claimer(b.near, dir, b.near.IPv4.Addr())
		if line := firstLine(t, cmd); !strings.HasPrefix(line, "open: ") {
			t.Fatal(line)
		}
		cmd.Process.Kill()
		cmd.Wait()
		until(t, "the kernel has closed the socket", func() bool { return len(pinned(t, dir)) == 1 })
		if !attached(t, b.near) {
			t.Fatal("the program is gone")
		}
		b.wantReset(syn)
	}
	kill()
	id := pinned(t, dir)[0]
	kill()
	if got := pinned(t, dir)[0]; got != id {
		t.Errorf("the link is number %d, want %d", got, id)
	}
	open(t, b.near, xdp.Config{Interface: b.near.Name}).Close()
	until(t, "without Pin, nothing stays", func() bool { return !attached(t, b.near) && len(pinned(t, dir)) == 0 })

	kill()
	b.near.Host.Do(func() {
		if cleaned, err := xdp.Clean(); len(cleaned) != 1 || err != nil {
			t.Errorf("cleaned %q, %v, want one directory", cleaned, err)
		}
	})
	until(t, "no program is attached after cleaning up", func() bool { return !attached(t, b.near) })

	// A wish for another mode: the link cannot be used.
	kill()
	dev := open(t, b.near, xdp.Config{Interface: b.near.Name, Attach: xdp.AttachGeneric, Pin: true})
	if got := pinned(t, dir); dev.Filter().Mode() != bpf.Generic || len(got) != 1 || got[0] == id {
		t.Errorf("%v, links %v", dev, got)
	}
	dev.Unpin()
}

// Without a BPF file system, Pin is refused, and without Pin nothing changes.
func TestPinWithoutFileSystem(t *testing.T) {
	before := bpf.PinDir
	bpf.PinDir = filepath.Join(t.TempDir(), "tpa")
	t.Cleanup(func() { bpf.PinDir = before })
	_, near := wire(t, testnet.Wire{})
	wantError(t, near, xdp.Config{Interface: near.Name, Pin: true}, unix.EINVAL, "no BPF file system", "mount -t bpf")
	if _, err := os.Stat(bpf.PinDir); !errors.Is(err, os.ErrNotExist) || attached(t, near) {
		t.Errorf("something was left: %v", err)
	}
	open(t, near, xdp.Config{Interface: near.Name})
}
