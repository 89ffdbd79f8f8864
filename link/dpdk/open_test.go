//go:build dpdk && cgo && linux

package dpdk_test

import (
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/gotpa/tpa/link/dpdk"
)

// Every refusal is one sentence that says what to do, and leaves nothing behind:
// a good port can be opened after all of them.
func TestOpenErrors(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	busy := filepath.Join(dir, "busy.sock")
	l, err := net.Listen("unixpacket", busy)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	open(t, dpdk.Config{Device: "net_null7"})

	for _, tt := range []struct {
		name   string
		config dpdk.Config
		want   string
		is     error
	}{
		{"unknown driver", dpdk.Config{Device: "net_nosuch0"}, "no driver for a virtual device of that name", os.ErrNotExist},
		{"no such PCI device", dpdk.Config{Device: "0000:ff:1f.7"}, "there is no such PCI device (lspci", os.ErrNotExist},
		{"open already", dpdk.Config{Device: "net_null7"}, "is open in this process already", os.ErrExist},
		{"interface of a driver", dpdk.Config{Device: "net_af_packet0,iface=nosuch0"}, "No such device", nil},
		{"role of a memif", dpdk.Config{Device: "net_memif0,role=boss"}, "Unknown role: boss", nil},
		{"folder of a socket", dpdk.Config{Device: memifDevice(0, "server", dir+"/none/m.sock")}, "Invalid socket directory", nil},
		{"file for a socket", dpdk.Config{Device: memifDevice(0, "server", file)}, "a file of that name exists that is no socket", os.ErrExist},
		{"socket in use", dpdk.Config{Device: memifDevice(0, "server", busy)}, "another server listens on it", syscall.EADDRINUSE},
		{"no server", dpdk.Config{Device: memifDevice(0, "client", dir+"/m.sock")}, "start the side with role=server first", syscall.ECONNREFUSED},
		{"small memif buffers", dpdk.Config{Device: memifDevice(0, "server", dir+"/m.sock") + ",bsize=1024"}, "bsize is 1024: frames of up to 1518 bytes must fit", nil},
		{"odd memif buffers", dpdk.Config{Device: memifDevice(0, "server", dir+"/m.sock") + ",bsize=big"}, "bsize is big", nil},
		{"odd socket", dpdk.Config{Device: memifDevice(0, "server", dir+"/a=b.sock")}, "no value that holds a '='", nil},
		{"memif ring", dpdk.Config{Device: memifDevice(0, "server", dir+"/m.sock"), RxRing: 16385}, "memif takes up to 16384", nil},
		{"no checksums", dpdk.Config{Device: "net_null0", NoChecksum: true}, "only the shared memory of net_memif keeps bytes", nil},
		{"queues", dpdk.Config{Device: "net_ring0", Queues: 17}, "Config.Queues is 17: the device has at most 16", nil},
		{"MTU", dpdk.Config{Device: "net_af_packet0,iface=lo", MTU: 9001}, "Config.MTU is 9001: the device takes", nil},
		{"memory", dpdk.Config{Device: "net_null0", RxRing: 65535, TxRing: 65535}, "raise EAL.MemoryMB", syscall.ENOMEM},
		{"memory of the last queue", dpdk.Config{Device: "net_null0", Queues: 256}, "raise EAL.MemoryMB", syscall.ENOMEM},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p, err := dpdk.Open(testEAL, tt.config)
			if err == nil {
				p.Close()
				t.Fatal("no error")
			}
			if !strings.Contains(err.Error(), tt.want) || tt.is != nil && !errors.Is(err, tt.is) {
				t.Errorf("got %q, want %q, of kind %v", err, tt.want, tt.is)
			}
			if strings.Contains(err.Error(), "\n") || !strings.HasPrefix(err.Error(), "dpdk: ") {
				t.Errorf("%q is not one line that says where it comes from", err)
			}
		})
	}
	for _, device := range []string{"net_null0", "net_ring0", memifDevice(0, "server", dir+"/m.sock")} {
		open(t, dpdk.Config{Device: device})
	}
}

func TestOneEALPerProcess(t *testing.T) {
	p := start(t, "open", order{
		EAL:   dpdk.EAL{HugePages: dpdk.HugePagesNever, MemoryMB: 64},
		Ports: []dpdk.Config{{Device: "net_null0"}, {Device: "net_null1"}},
		Count: 1,
	}, nil)
	p.expect(t, "opened net_null0")
	if got, want := p.next(t), "runs with another configuration"; !strings.Contains(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	p.end(t)
}

// An EAL that cannot start is an error like any other, and stays one.
func TestEALDoesNotStart(t *testing.T) {
	p := start(t, "open", order{
		EAL:   dpdk.EAL{HugePages: dpdk.HugePagesNever, MemoryMB: 64, ExtraArgs: []string{"--base-virtaddr=nonsense"}},
		Ports: []dpdk.Config{{Device: "net_null0"}, {Device: "net_null0"}},
	}, silent(t))
	if got, want := p.next(t), `dpdk: cannot start DPDK's EAL with ["--file-prefix=tpa`; !strings.HasPrefix(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if got, want := p.next(t), "failed to start earlier in this process"; !strings.Contains(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	p.end(t)
}

// silent fails the test if the program writes to its standard error.
func silent(tb testing.TB) func(*exec.Cmd) {
	return func(cmd *exec.Cmd) {
		r, w, err := os.Pipe()
		if err != nil {
			tb.Fatal(err)
		}
		cmd.Stderr = w
		tb.Cleanup(func() {
			w.Close()
			text, err := io.ReadAll(r)
			if err != nil || len(text) > 0 {
				tb.Errorf("standard error: %q, %v", text, err)
			}
			r.Close()
		})
	}
}

// A user without privileges can open what needs none, and is told what the rest
// needs.
func TestWithoutPrivileges(t *testing.T) {
	if os.Geteuid() != 0 {
		lacking(t, "needs root to become somebody else")
	}
	// The test binary's folder is root's alone.
	dir := t.TempDir()
	for d := dir; d != os.TempDir() && d != "/"; d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	binary := filepath.Join(dir, "dpdk.test")
	if err := os.WriteFile(binary, text, 0o755); err != nil {
		t.Fatal(err)
	}
	p := start(t, "open", order{
		EAL:   dpdk.EAL{HugePages: dpdk.HugePagesNever},
		Ports: []dpdk.Config{{Device: "net_null0"}, {Device: "net_af_packet0,iface=lo"}},
	}, func(cmd *exec.Cmd) {
		silent(t)(cmd)
		cmd.Path = binary
		cmd.Dir = "/"
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: 65534, Gid: 65534}
	})
	p.expect(t, "opened net_null0")
	if got, want := p.next(t), "perhaps for want of permission (run as root)"; !strings.Contains(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	p.end(t)
}

func TestRSS(t *testing.T) {
	if _, err := open(t, dpdk.Config{Device: "net_ring0"}).RSS(); !errors.Is(err, dpdk.ErrNotSupported) {
		t.Errorf("RSS of a device that has none: %v", err)
	}
	p := open(t, dpdk.Config{Device: "net_null0", Queues: 4})
	rss, err := p.RSS()
	if err != nil {
		t.Fatal(err)
	}
	if len(rss.Key) != 40 || len(rss.Table)&(len(rss.Table)-1) != 0 || len(rss.Table) == 0 {
		t.Fatalf("key of %d bytes, table of %d entries", len(rss.Key), len(rss.Table))
	}
	want := rss
	want.Key = bytesOf(40, 9)
	want.Table = make([]uint16, len(rss.Table))
	for i := range want.Table {
		want.Table[i] = uint16(i*7) % 4
	}
	if err := p.SetRSS(want); err != nil {
		t.Fatal(err)
	}
	got, err := p.RSS()
	if err != nil || string(got.Key) != string(want.Key) {
		t.Errorf("got key %x, %v, want %x", got.Key, err, want.Key)
	}
	for i := range got.Table {
		if got.Table[i] != want.Table[i] {
			t.Fatalf("table entry %d: got %d, want %d", i, got.Table[i], want.Table[i])
		}
	}
	for name, change := range map[string]func(){
		"short key":    func() { want.Key = want.Key[:39] },
		"long table":   func() { want.Table = append(want.Table, 0) },
		"queue 4 of 4": func() { want.Table[5] = 4 },
	} {
		saved, table := want, append([]uint16(nil), want.Table...)
		change()
		if err := p.SetRSS(want); err == nil {
			t.Errorf("%s: no error", name)
		}
		want, want.Table = saved, table
	}
	p.Close()
	if _, err := p.RSS(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("RSS after Close: %v", err)
	}
}
