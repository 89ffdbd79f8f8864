// Package leak lets a test fail that leaves something of a runtime behind:
// goroutines, endpoints, packet buffers and segments of gVisor, buffers of a
// device. A function that makes runtimes for tests calls Check first:
//
//	leak.Check(t, device)
//	rt, err := accel.New(accel.Config{Link: device, ...})
//	t.Cleanup(func() { rt.Close() })
//
// Importing the package switches gVisor's own counting of references on, unless
// the test program was started to measure: it costs a lock per packet. Only tests
// import it.
package leak

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"gvisor.dev/gvisor/pkg/refs"
	"gvisor.dev/gvisor/pkg/tcpip"

	"github.com/gotpa/tpa/link"
)

// timeout is how long what a test has ended may take to be gone.
var timeout = 30 * time.Second

func init() {
	for _, arg := range os.Args[1:] {
		if strings.HasPrefix(strings.TrimLeft(arg, "-"), "test.bench=") {
			return
		}
	}
	refs.SetLeakMode(refs.LeaksPanic)
}

// staying are goroutines that live as long as the process: the reader of DPDK's
// log, from the first DPDK device on.
var staying = goleak.IgnoreAnyFunction("github.com/gotpa/tpa/link/dpdk.(*logReader).read")

// checked holds the devices of the tests that are being checked.
var checked = struct {
	sync.Mutex
	devices map[testing.TB][]link.Device
}{devices: map[testing.TB][]link.Device{}}

// Check fails the test if, once it has ended and all clean-ups registered after
// this call are done, more is there than now. The devices must have no buffer in
// use then. Further calls in a test only add devices.
func Check(t testing.TB, devices ...link.Device) {
	t.Helper()
	checked.Lock()
	before, again := checked.devices[t]
	checked.devices[t] = append(before, devices...)
	checked.Unlock()
	if again {
		return
	}
	goroutines := goleak.IgnoreCurrent()
	endpoints, objects := len(tcpip.GetDanglingEndpoints()), count(references())
	t.Cleanup(func() {
		checked.Lock()
		devices := checked.devices[t]
		delete(checked.devices, t)
		checked.Unlock()
		if t.Failed() {
			return // it may have been cut short
		}
		var left []string
		for deadline := time.Now().Add(timeout); ; time.Sleep(10 * time.Millisecond) {
			left = nil
			if n := len(tcpip.GetDanglingEndpoints()); n > endpoints {
				left = append(left, fmt.Sprintf("%d endpoints, %d before", n, endpoints))
			}
			if r := references(); count(r) > objects {
				left = append(left, fmt.Sprintf("%d references before, now: %s", objects, r))
			}
			for _, d := range devices {
				if s := d.Stats(); s.BuffersInUse != 0 {
					left = append(left, fmt.Sprintf("%d buffers of %s in use", s.BuffersInUse, d.Info().Name))
				}
			}
			// The last of all, because it waits on its own for those that are ending.
			if len(left) == 0 {
				if err := goleak.Find(goroutines, staying); err != nil {
					left = append(left, err.Error())
				}
			}
			if len(left) == 0 || time.Now().After(deadline) {
				break
			}
		}
		for _, what := range left {
			t.Errorf("left behind: %s", what)
		}
	})
}

// references returns gVisor's list of counted objects that are there, one a line,
// empty for none.
func references() (list string) {
	defer func() {
		if p := recover(); p != nil {
			list = strings.TrimSpace(fmt.Sprint(p))
		}
	}()
	refs.DoRepeatedLeakCheck()
	return ""
}

// count returns how many objects are in a list under its heading.
func count(list string) int { return strings.Count(list, "\n") }
