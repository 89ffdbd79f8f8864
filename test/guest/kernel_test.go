package guest

import (
	"bytes"
	"context"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// A kernel is one of Debian's.
type kernel struct {
	name  string // as the table has it
	suite suite
}

// Kernels from the oldest that is supported to the newest there is.
var kernels = []kernel{{"5.10", bullseye}, {"6.1", bookworm}, {"6.12", backports}, {"newest", sid}}

// An image is a kernel on disk.
type image struct {
	version string // 6.1.0-50-amd64
	boot    string // the file to boot
	modules map[string]string
}

// open fetches the kernel.
func (k kernel) open(ctx context.Context) (*image, error) {
	dir, err := k.suite.unpacked(ctx, "linux-"+k.name, []string{"linux-image-amd64"}, func(p string) bool {
		return strings.HasPrefix(p, "linux-image-") || strings.HasPrefix(p, "linux-binary-") || strings.HasPrefix(p, "linux-modules-")
	})
	if err != nil {
		return nil, err
	}
	img := &image{modules: map[string]string{}}
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		name := d.Name()
		if v, ok := strings.CutPrefix(name, "vmlinuz-"); ok && d.Type().IsRegular() {
			img.version, img.boot = v, path
		} else if name == "vmlinuz" && d.Type().IsRegular() { // beside the modules, since Linux 7 in Debian
			img.version, img.boot = filepath.Base(filepath.Dir(path)), path
		}
		if stem, suffix, ok := strings.Cut(name, ".ko"); ok && (suffix == "" || suffix == ".xz") {
			img.modules[moduleName(stem)] = path
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	if img.boot == "" {
		return nil, fmt.Errorf("%s holds no kernel", dir)
	}
	img.boot, err = unpackKernel(ctx, img.boot)
	return img, err
}

// moduleName spells a module's name as the kernel does.
func moduleName(s string) string { return strings.ReplaceAll(s, "-", "_") }

// unpackKernel returns the ELF file in a bzImage, written beside it: QEMU boots it
// by PVH, without the decompression in the guest, which takes half of the time. What
// cannot be unpacked boots as it is. The header is that of
// Documentation/arch/x86/boot.rst.
func unpackKernel(ctx context.Context, path string) (string, error) {
	elfPath := filepath.Join(filepath.Dir(path), strings.Replace(filepath.Base(path), "vmlinuz", "vmlinux", 1))
	if _, err := os.Stat(elfPath); err == nil {
		return elfPath, nil
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	if len(b) < 0x250 || string(b[0x202:0x206]) != "HdrS" {
		return "", fmt.Errorf("%s is no bzImage", path)
	}
	start := (uint64(b[0x1f1]) + 1) * 512
	start += uint64(binary.LittleEndian.Uint32(b[0x248:]))
	end := start + uint64(binary.LittleEndian.Uint32(b[0x24c:]))
	if start > end || end > uint64(len(b)) {
		return "", fmt.Errorf("%s is cut short", path)
	}
	payload := b[start : end-4] // the rest is the length of what was packed
	packer := "xz"
	if bytes.HasPrefix(payload, []byte{0x28, 0xb5, 0x2f, 0xfd}) {
		packer = "zstd"
	}
	out, err := unpack(ctx, packer, payload)
	if err != nil || !bytes.HasPrefix(out, []byte(elf.ELFMAG)) {
		return path, nil
	}
	return elfPath, os.WriteFile(elfPath, out, 0o644)
}

func unpack(ctx context.Context, packer string, b []byte) ([]byte, error) {
	cmd := exec.CommandContext(ctx, packer, "-dc")
	cmd.Stdin = bytes.NewReader(b)
	return cmd.Output()
}

// A module is a part of a kernel, to be put into a running one.
type module struct {
	name    string
	content []byte
}

// closure returns modules and all that they depend on, in the order in which they
// can be loaded. What the kernel has built in, or not at all, is left out.
func (img *image) closure(ctx context.Context, names ...string) ([]module, error) {
	var list []module
	seen := map[string]bool{}
	var add func(name string) error
	add = func(name string) error {
		path := img.modules[name]
		if seen[name] || path == "" {
			return nil
		}
		seen[name] = true
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if strings.HasSuffix(path, ".xz") {
			if b, err = unpack(ctx, "xz", b); err != nil {
				return fmt.Errorf("unpack %s: %w", path, err)
			}
		}
		deps, err := dependencies(b)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		for _, d := range deps {
			if err := add(d); err != nil {
				return err
			}
		}
		list = append(list, module{name, b})
		return nil
	}
	for _, name := range names {
		if err := add(moduleName(name)); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// dependencies reads the modules that a module needs from its section .modinfo.
func dependencies(b []byte) ([]string, error) {
	f, err := elf.NewFile(bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	s := f.Section(".modinfo")
	if s == nil {
		return nil, fmt.Errorf("no section .modinfo")
	}
	info, err := s.Data()
	if err != nil {
		return nil, err
	}
	for field := range bytes.SplitSeq(info, []byte{0}) {
		if v, ok := strings.CutPrefix(string(field), "depends="); ok && v != "" {
			return strings.Split(moduleName(v), ","), nil
		}
	}
	return nil, nil
}
