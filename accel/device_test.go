package accel

import (
	"errors"
	"strings"
	"testing"

	"github.com/gotpa/tpa/link"
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

// TestNoChecksumElsewhere: only a memif keeps bytes as they are.
func TestNoChecksumElsewhere(t *testing.T) {
	for _, c := range []Config{{Device: "lo"}, {Device: "net_null0"}, {Device: "0000:00:03.0"}, {Link: struct{ link.Device }{}}} {
		c.NoChecksum = true
		if _, err := openDevice(&c); err == nil || !strings.Contains(err.Error(), "TPA_CHECKSUM=no") {
			t.Errorf("%q: got %v, want an error that names the setting", c.Device, err)
		}
	}
}
