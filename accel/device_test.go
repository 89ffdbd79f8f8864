package accel

import (
	"errors"
	"strings"
	"testing"

	"github.com/gotpa/tpa/link"
	"github.com/gotpa/tpa/link/dpdk"
)

func TestCheckSystem(t *testing.T) {
	if err := checkSystem("linux", "eth0"); err != nil {
		t.Errorf("on Linux: %v", err)
	}
	for _, goos := range []string{"darwin", "windows", "freebsd"} {
		err := checkSystem(goos, "eth0")
		if !errors.Is(err, errors.ErrUnsupported) || !strings.Contains(err.Error(), "eth0") || !strings.Contains(err.Error(), goos) {
			t.Errorf("%s: got %v, want an error that names the device and the system", goos, err)
		}
	}
}

// TestOtherDevice: a setting that is not for the device, or that no device could have,
// is wrong, whatever the fallback policy says.
func TestOtherDevice(t *testing.T) {
	for _, tt := range []struct {
		name   string
		config Config
		want   string // empty: no error
	}{
		{"no checksums on an interface", Config{Device: "lo", NoChecksum: true}, "TPA_CHECKSUM=no"},
		{"no checksums on another device of DPDK", Config{Device: "net_null0", NoChecksum: true}, "TPA_CHECKSUM=no"},
		{"no checksums on a card", Config{Device: "0000:00:03.0", NoChecksum: true}, "TPA_CHECKSUM=no"},
		{"no checksums on a device of the program's", Config{Link: struct{ link.Device }{}, NoChecksum: true}, "TPA_CHECKSUM=no"},
		{"no checksums on a memif", Config{Device: "net_memif0,role=server", NoChecksum: true}, ""},
		{"more CPUs than queues", Config{Device: "eth0", CPUs: []int{2, 3}}, "2 CPUs for 1 queues"},
		{"a CPU for each queue", Config{Device: "eth0", Queues: 2, CPUs: []int{2, 3}}, ""},
		{"arguments that load code", Config{Device: "net_null0", DPDK: dpdk.EAL{ExtraArgs: []string{"--vdev=net_null1"}}}, "which is refused"},
		{"a VLAN on an interface", Config{Device: "eth0", VLAN: 12}, "TPA_DEV=eth0.12"},
		{"a VLAN on a card", Config{Device: "00:03.0", VLAN: 12}, ""},
		{"steering on an interface", Config{Device: "eth0", Steering: SteerRules}, "leave out TPA_STEERING"},
		{"steering on a card", Config{Device: "0000:00:03.0", Steering: SteerWhole}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := tt.config.check()
			if tt.want == "" {
				if err != nil {
					t.Errorf("got %v, want no error", err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want an error with %q", err, tt.want)
			}
		})
	}
}
