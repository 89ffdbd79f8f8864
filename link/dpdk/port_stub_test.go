//go:build !dpdk || !cgo || !linux

package dpdk

import (
	"errors"
	"strings"
	"testing"
)

func TestOpenWithoutDPDK(t *testing.T) {
	_, err := Open(EAL{}, Config{Device: "net_null0"})
	if !errors.Is(err, ErrNotSupported) || !strings.Contains(err.Error(), "-tags dpdk") {
		t.Errorf("got %v, want ErrNotSupported and how to build", err)
	}
	if _, err := Open(EAL{}, Config{}); err == nil || errors.Is(err, ErrNotSupported) {
		t.Errorf("got %v, want an error about the configuration", err)
	}
}
