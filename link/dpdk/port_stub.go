//go:build !dpdk || !cgo || !linux

package dpdk

import (
	"fmt"

	"github.com/gotpa/tpa/link"
)

// device never exists in a program without DPDK.
type device struct {
	link.Device
	link.Spreader
	kernel   string
	isolated bool
}

func (device) createRule(Rule) (*FlowRule, error) { return nil, errNoDPDK }
func (device) isolate(bool) error                 { return errNoDPDK }

func open(EAL, Config) (*Port, error) { return nil, errNoDPDK }

var errNoDPDK = fmt.Errorf("%w: this program was built without DPDK; on Linux, install DPDK 22.11 or newer (Debian: libdpdk-dev) and build with CGO_ENABLED=1 and -tags dpdk", ErrNotSupported)

func version() string { return "" }

func memory() []Memory { return nil }
