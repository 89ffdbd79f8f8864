package accel

import (
	"errors"
	"strings"
	"testing"
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
