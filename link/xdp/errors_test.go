package xdp

import (
	"errors"
	"strings"
	"syscall"
	"testing"

	"github.com/gotpa/tpa/link"
)

// TestErrors: causes that this machine cannot bring about, each with its name and
// the way out.
func TestErrors(t *testing.T) {
	for _, tt := range []struct {
		name string
		err  error
		is   error
		want []string
	}{
		{"kernel without AF_XDP", errSocket("eth0", 0, syscall.EAFNOSUPPORT), syscall.EAFNOSUPPORT, []string{"no AF_XDP", "CONFIG_XDP_SOCKETS"}},
		{"no right to open", errSocket("eth0", 0, syscall.EPERM), syscall.EPERM, []string{"CAP_NET_RAW", "setcap"}},
		{"locked memory", errSocket("eth0", 0, syscall.ENOBUFS), syscall.ENOBUFS, []string{"locked memory", "ulimit -l"}},
		{"queue taken", errSocket("eth0", 3, syscall.EBUSY), syscall.EBUSY, []string{"receive queue 3", "ss --xdp"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var e *link.InterfaceError
			if !errors.As(tt.err, &e) || e.Problem == "" || e.Remedy == "" || !errors.Is(tt.err, tt.is) {
				t.Errorf("%v: want a problem, a remedy, and %v below", tt.err, tt.is)
			}
			for _, w := range append(tt.want, "eth0") {
				if !strings.Contains(tt.err.Error(), w) {
					t.Errorf("%v does not say %q", tt.err, w)
				}
			}
		})
	}
}
