//go:build dpdk && cgo && linux

package dpdk_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/gotpa/tpa/link"
	"github.com/gotpa/tpa/link/dpdk"
)

const hugePages = "/sys/kernel/mm/hugepages/hugepages-2048kB/"

func readCount(tb testing.TB, name string) int {
	tb.Helper()
	text, err := os.ReadFile(hugePages + name)
	if err != nil {
		tb.Fatal(err)
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		tb.Fatal(err)
	}
	return n
}

// reserveHugePages makes mb MB of huge pages free for the time of the test, or
// none, and keeps other such tests of this machine waiting meanwhile.
func reserveHugePages(tb testing.TB, mb int) {
	tb.Helper()
	f, err := os.OpenFile(hugePages+"nr_hugepages", os.O_RDWR, 0)
	if err != nil {
		lacking(tb, "needs root and huge pages of 2 MB to reserve: %v", err)
	}
	tb.Cleanup(func() { f.Close() })
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		tb.Fatal(err)
	}
	before := readCount(tb, "nr_hugepages")
	want := before - readCount(tb, "free_hugepages") + mb/2
	if _, err := f.WriteString(strconv.Itoa(want)); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if _, err := f.WriteString(strconv.Itoa(before)); err != nil {
			tb.Error(err)
		}
	})
	if got := readCount(tb, "free_hugepages"); got < mb/2 {
		lacking(tb, "memory is too fragmented: %d of %d huge pages", got, mb/2)
	}
}

func TestHugePages(t *testing.T) {
	for _, tt := range []struct {
		name   string
		mb     int // reserved
		policy dpdk.Policy
		uses   bool
		want   string
	}{
		{"auto with enough", 128, dpdk.HugePagesAuto, true, "opened net_null0"},
		{"auto with too few", 32, dpdk.HugePagesAuto, false, "opened net_null0"},
		{"always with enough", 128, dpdk.HugePagesAlways, true, "opened net_null0"},
		{"always with none", 0, dpdk.HugePagesAlways, false, "sysctl vm.nr_hugepages=33"},
		{"never with enough", 128, dpdk.HugePagesNever, false, "opened net_null0"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			reserveHugePages(t, tt.mb)
			free := readCount(t, "free_hugepages")
			p := start(t, "open", order{
				EAL:   dpdk.EAL{HugePages: tt.policy, MemoryMB: 64},
				Ports: []dpdk.Config{{Device: "net_null0", RxRing: 512, TxRing: 512}},
			}, silent(t))
			if got := p.next(t); !strings.Contains(got, tt.want) {
				t.Fatalf("got %q, want %q", got, tt.want)
			}
			if kB := hugeKB(t, p.cmd.Process.Pid); (kB > 0) != tt.uses {
				t.Errorf("%d kB of huge pages in use, want some: %v", kB, tt.uses)
			}
			p.end(t)
			eventually(t, "the huge pages to come back", func() bool { return readCount(t, "free_hugepages") >= free })
		})
	}
}

// A peer whose buffers lie in huge pages gets and sends the same bytes.
func TestFramesInHugePages(t *testing.T) {
	reserveHugePages(t, 128)
	socket := filepath.Join(t.TempDir(), "m.sock")
	server := open(t, dpdk.Config{Device: memifDevice(0, "server", socket)})
	peer := start(t, "echo", order{
		EAL:   dpdk.EAL{HugePages: dpdk.HugePagesAlways, MemoryMB: 64},
		Ports: []dpdk.Config{{Device: memifDevice(0, "client", socket)}},
	}, silent(t))
	peer.expect(t, "ready")
	if kB := hugeKB(t, peer.cmd.Process.Pid); kB == 0 {
		t.Error("the peer uses no huge pages")
	}
	if err := connect(server); err != nil {
		t.Fatal(err)
	}
	for size := 14; size <= server.Info().MaxFrame; size += 47 {
		want := bytesOf(size, byte(size))
		if err := send(server.Queue(0), size, link.TxOffload{}, func(b []byte) { copy(b, want) }); err != nil {
			t.Fatal(err)
		}
		if f, err := receive(server.Queue(0)); err != nil || !bytes.Equal(f.Data, want) {
			t.Fatalf("%d bytes: got %x, %v", size, f.Data, err)
		}
	}
	peer.end(t)
}

// hugeKB returns how much of a process lies in huge pages.
func hugeKB(tb testing.TB, pid int) int {
	tb.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		tb.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		var kB int
		if n, _ := fmt.Sscanf(line, "HugetlbPages: %d kB", &kB); n == 1 {
			return kB
		}
	}
	tb.Fatal("the kernel does not tell HugetlbPages")
	return 0
}

var secret = []byte("the canary sings at midnight")

// keepSecret puts the secret into every buffer that it can get.
func keepSecret(o order, in *bufio.Scanner) error {
	p, err := dpdk.Open(o.EAL, o.Ports[0])
	if err != nil {
		return err
	}
	q := p.Queue(0)
	for b := q.Reserve(60); b != nil; b = q.Reserve(60) {
		copy(b, secret)
		q.Commit(60, link.TxOffload{})
	}
	fmt.Println("kept")
	in.Scan()
	return nil
}

// After a SIGKILL no file holds what was in the buffers, and the memory is free.
func TestNothingReadableIsLeft(t *testing.T) {
	reserveHugePages(t, 128)
	// DPDK would put its files here if it made any.
	mount := t.TempDir()
	if err := syscall.Mount("none", mount, "hugetlbfs", 0, "pagesize=2M"); err != nil {
		lacking(t, "needs to mount hugetlbfs: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(mount, 0); err != nil {
			t.Error(err)
		}
	})
	for _, policy := range []dpdk.Policy{dpdk.HugePagesAlways, dpdk.HugePagesNever} {
		t.Run(fmt.Sprint("policy ", policy), func(t *testing.T) {
			free := readCount(t, "free_hugepages")
			socket := filepath.Join(t.TempDir(), "m.sock")
			runtimeDir := t.TempDir()
			p := start(t, "keep", order{
				EAL:   dpdk.EAL{HugePages: policy, MemoryMB: 64, FilePrefix: "tpa-canary"},
				Ports: []dpdk.Config{{Device: memifDevice(0, "server", socket)}},
			}, func(cmd *exec.Cmd) { cmd.Env = append(cmd.Env, "XDG_RUNTIME_DIR="+runtimeDir, "TMPDIR="+runtimeDir) })
			p.expect(t, "kept")
			p.kill()
			eventually(t, "the huge pages to come back", func() bool { return readCount(t, "free_hugepages") >= free })
			for _, dir := range []string{mount, runtimeDir, "/var/run/dpdk/tpa-canary", "/dev/shm"} {
				noSecretIn(t, dir)
			}
			if _, err := os.Stat("/var/run/dpdk/tpa-canary"); err == nil {
				t.Error("/var/run/dpdk/tpa-canary is left")
			}
		})
	}
}

func noSecretIn(t *testing.T, dir string) {
	t.Helper()
	filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return nil
		}
		if bytes.Contains(text, secret) {
			t.Errorf("%s holds the secret", path)
		}
		return nil
	})
}
