package dpdk

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// Of devices whose driver lets anybody have them, one process at a time has each.
func TestClaim(t *testing.T) {
	dir := t.TempDir()
	device := func(name, driver string) *Config {
		d := filepath.Join(dir, name)
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(d, "config"), nil, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink("/sys/bus/pci/drivers/"+driver, filepath.Join(d, "driver")); err != nil {
			t.Fatal(err)
		}
		return &Config{Device: name}
	}
	uio, vfio := device("0000:00:04.0", "uio_pci_generic"), device("0000:00:05.0", "vfio-pci")
	first, err := uio.claim(dir)
	if err != nil || first == nil {
		t.Fatalf("got %v, %v; want a claim", first, err)
	}
	if _, err := uio.claim(dir); !errors.Is(err, syscall.EBUSY) {
		t.Errorf("second claim: got %v, want EBUSY", err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := uio.claim(dir)
	if err != nil {
		t.Fatalf("after Close: %v", err)
	}
	again.Close()
	for _, c := range []*Config{vfio, {Device: "net_null0"}, {Device: "0000:00:06.0"}} {
		if claim, err := c.claim(dir); claim != nil || err != nil {
			t.Errorf("%s: got %v, %v; want no claim", c.Device, claim, err)
		}
	}
}

func TestPhysical(t *testing.T) {
	dir := t.TempDir()
	for name, tt := range map[string]struct{ driver, group, want string }{
		"0000:00:01.0": {"uio_pci_generic", "", "uio_pci_generic"},
		"0000:00:02.0": {"vfio-pci", "", ""},
		"0000:00:03.0": {"vfio-pci", "vfio-noiommu\n", "vfio-pci without an IOMMU"},
		"0000:00:04.0": {"mlx5_core", "", ""},
	} {
		d := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Join(d, "iommu_group"), 0o755); err != nil {
			t.Fatal(err)
		}
		if tt.group != "" {
			if err := os.WriteFile(filepath.Join(d, "iommu_group/name"), []byte(tt.group), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Symlink("../drivers/"+tt.driver, filepath.Join(d, "driver")); err != nil {
			t.Fatal(err)
		}
		if got := (&Config{Device: name}).physical(dir); got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.driver, got, tt.want)
		}
	}
}
