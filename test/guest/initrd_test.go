package guest

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// A ramdisk writes an initial RAM disk: a cpio archive in the format "newc", see
// Documentation/driver-api/early-userspace/buffer-format.rst. Several of them, one
// after the other, are one. Errors are kept until close.
type ramdisk struct {
	w     *bufio.Writer
	f     *os.File
	inode int
	size  int // written
	have  map[string]bool
	err   error
}

func createRamdisk(name string) (*ramdisk, error) {
	f, err := os.Create(name)
	if err != nil {
		return nil, err
	}
	return &ramdisk{w: bufio.NewWriterSize(f, 1<<20), f: f, have: map[string]bool{".": true}}, nil
}

// Modes of stat(2).
const (
	modeDirectory = 0o040755
	modeProgram   = 0o100755
	modeSymlink   = 0o120777
)

// add writes an entry and the folders above it, unless it is there. Names have no
// leading slash.
func (r *ramdisk) add(name string, mode int, content []byte) {
	name = strings.TrimPrefix(path.Clean(name), "/")
	if r.have[name] {
		return
	}
	r.have[name] = true
	r.add(path.Dir(name), modeDirectory, nil)
	r.entry(name, mode, content)
}

func (r *ramdisk) entry(name string, mode int, content []byte) {
	r.inode++
	r.printf("070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
		r.inode, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name)+1, 0, name)
	r.pad()
	r.write(content)
	r.pad()
}

func (r *ramdisk) printf(format string, args ...any) { r.write(fmt.Appendf(nil, format, args...)) }

func (r *ramdisk) write(b []byte) {
	if r.err == nil {
		_, r.err = r.w.Write(b)
	}
	r.size += len(b)
}

// pad aligns what follows to 4 bytes.
func (r *ramdisk) pad() { r.write(make([]byte, -r.size&3)) }

func (r *ramdisk) close() error {
	r.entry("TRAILER!!!", 0, nil)
	r.write(make([]byte, -r.size&511))
	if r.err == nil {
		r.err = r.w.Flush()
	}
	if err := r.f.Close(); r.err == nil {
		r.err = err
	}
	return r.err
}

// file adds a file of this machine under another name.
func (r *ramdisk) file(name, source string) {
	b, err := os.ReadFile(source)
	if err != nil && r.err == nil {
		r.err = err
	}
	r.add(name, modeProgram, b)
}

// library adds a library under its name and, where that is a link, under its true
// one: two copies of a driver of DPDK would both be loaded.
func (r *ramdisk) library(name string) {
	real, err := filepath.EvalSymlinks(name)
	if err != nil && r.err == nil {
		r.err = err
	}
	r.file(real, real)
	if real != name {
		r.add(name, modeSymlink, []byte(real))
	}
}

// program adds a program or library with all libraries that it needs.
func (r *ramdisk) program(ctx context.Context, name, source string) {
	r.file(name, source)
	out, err := exec.CommandContext(ctx, "ldd", source).Output()
	if err != nil {
		return // it is static
	}
	for line := range strings.Lines(string(out)) {
		// "libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x…)" or "/lib64/ld-linux-x86-64.so.2 (0x…)"
		for _, word := range strings.Fields(line) {
			if strings.HasPrefix(word, "/") {
				r.library(word)
			}
		}
	}
}

// dpdkDrivers are the parts of DPDK that it loads when it starts.
var dpdkDrivers = []string{"bus_pci", "bus_vdev", "mempool_ring", "net_virtio", "net_e1000", "net_vmxnet3"}

// devbind stands in for the tool of DPDK, which is in Python: "--bind DRIVER ADDRESS".
const devbind = `#!/bin/sh -e
[ "$1" = --bind ] || { set -- --bind "${1#--bind=}" "$2"; }
d=/sys/bus/pci/devices/$3
[ ! -e $d/driver ] || echo $3 >$d/driver/unbind
echo $2 >$d/driver_override
echo $3 >/sys/bus/pci/drivers_probe
[ -e $d/driver ]
`

// base writes the part of the RAM disk that all kernels share: the agent, the
// programs and the tools.
func base(ctx context.Context, name string, p *programs) error {
	r, err := createRamdisk(name)
	if err != nil {
		return err
	}
	r.file("init", p.agent)
	r.file("bin/tpa-bench", p.bench)
	r.add("sbin", modeDirectory, nil)
	if p.benchDPDK != "" {
		r.program(ctx, "bin/tpa-bench-dpdk", p.benchDPDK)
		for _, d := range dpdkDrivers {
			found, _ := filepath.Glob("/usr/lib/x86_64-linux-gnu/dpdk/pmds-*/librte_" + d + ".so.*")
			for _, lib := range found {
				r.library(lib)
				r.program(ctx, lib, lib)
			}
		}
	}
	r.file("bin/busybox", "/bin/busybox")
	r.add("bin/dpdk-devbind.py", modeProgram, []byte(devbind))
	for _, tool := range []string{"ip", "ethtool", "tc", "setcap"} {
		source, err := exec.LookPath(tool)
		if err != nil {
			return err
		}
		r.program(ctx, "usr/sbin/"+tool, source)
	}
	applets, err := run(ctx, "/", "/bin/busybox", "--list")
	if err != nil {
		return err
	}
	for applet := range strings.FieldsSeq(applets) {
		if !slices.Contains([]string{"busybox", "ip", "tc", "init"}, applet) {
			r.add("bin/"+applet, modeSymlink, []byte("busybox"))
		}
	}
	return r.close()
}

// initrd writes a whole RAM disk: base, and the modules of a kernel. It returns
// the names of the files of modules by the module's name, in the order of loading.
func (img *image) initrd(ctx context.Context, name, base string) (map[string][]string, error) {
	tail := name + ".modules"
	r, err := createRamdisk(tail)
	if err != nil {
		return nil, err
	}
	files := map[string][]string{}
	var deps strings.Builder
	folder := "lib/modules/" + img.version + "/" // where modprobe looks
	for _, wanted := range []string{
		"virtio_pci", "virtio_console", "virtio_net", "e1000e", "e1000", "vmxnet3", "igb",
		"vfio_pci", "vfio_iommu_type1", "uio_pci_generic", "8021q", "bonding", "bridge", "veth", "sch_netem", "sch_fq", "af_packet", "unix", "ipv6",
	} {
		list, err := img.closure(ctx, wanted)
		if err != nil {
			return nil, err
		}
		for i, m := range list {
			r.add("modules/"+m.name, modeProgram, m.content)
			r.add(folder+m.name+".ko", modeSymlink, []byte("/modules/"+m.name))
			files[wanted] = append(files[wanted], m.name)
			if i < len(list)-1 {
				continue
			}
			fmt.Fprintf(&deps, "%s.ko:", m.name)
			if wanted == "vfio_pci" {
				deps.WriteString(" vfio_iommu_type1.ko") // a soft dependency, which busybox knows not
			}
			for _, d := range slices.Backward(list[:i]) {
				fmt.Fprintf(&deps, " %s.ko", d.name)
			}
			deps.WriteByte('\n')
		}
	}
	r.add(folder+"modules.dep", modeProgram, []byte(deps.String()))
	boot := append(slices.Clone(files["virtio_pci"]), files["virtio_console"]...)
	r.add("modules/boot", modeProgram, []byte(strings.Join(boot, " ")))
	if err := r.close(); err != nil {
		return nil, err
	}
	out, err := os.Create(name)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	for _, part := range []string{base, tail} {
		in, err := os.Open(part)
		if err != nil {
			return nil, err
		}
		_, err = io.Copy(out, in)
		in.Close()
		if err != nil {
			return nil, err
		}
	}
	os.Remove(tail)
	return files, out.Close()
}

// programs are built for the guest.
type programs struct {
	agent, bench string
	benchDPDK    string // empty without DPDK
}

// build builds the programs into a folder.
func build(ctx context.Context, dir string, dpdk bool) (*programs, error) {
	p := &programs{agent: filepath.Join(dir, "agent"), bench: filepath.Join(dir, "tpa-bench")}
	compile := func(out, pkg, tags, cgo string) error {
		cmd := exec.CommandContext(ctx, "go", "build", "-tags", tags, "-pgo=off", "-ldflags=-s -w", "-o", out, pkg)
		cmd.Env = append(os.Environ(), "CGO_ENABLED="+cgo)
		if b, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("build %s: %w: %s", pkg, err, tail(string(b), 1000))
		}
		return nil
	}
	if err := compile(p.agent, "./agent", "", "0"); err != nil {
		return nil, err
	}
	if err := compile(p.bench, "../../cmd/tpa-bench", "", "0"); err != nil {
		return nil, err
	}
	if !dpdk {
		return p, nil
	}
	p.benchDPDK = filepath.Join(dir, "tpa-bench-dpdk")
	return p, compile(p.benchDPDK, "../../cmd/tpa-bench", "dpdk", "1")
}

// TestRamdisk reads what ramdisk writes with the tool that everybody has.
func TestRamdisk(t *testing.T) {
	if _, err := exec.LookPath("cpio"); err != nil {
		t.Skip("no cpio here to read the archive with: apt-get install cpio")
	}
	name := filepath.Join(t.TempDir(), "initrd")
	r, err := createRamdisk(name)
	if err != nil {
		t.Fatal(err)
	}
	r.add("/bin/a", modeProgram, []byte("abcde"))
	r.add("bin/b", modeSymlink, []byte("a"))
	r.add("bin/a", modeProgram, []byte("twice"))
	if err := r.close(); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	in, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	cmd := exec.Command("cpio", "-idm", "--quiet")
	cmd.Dir, cmd.Stdin = dir, in
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("cpio: %v: %s", err, out)
	}
	for _, file := range []string{"a", "b"} {
		if b, err := os.ReadFile(filepath.Join(dir, "bin", file)); err != nil || string(b) != "abcde" {
			t.Errorf("bin/%s: got %q, %v; want %q", file, b, err, "abcde")
		}
	}
}
