package leak

import (
	"strings"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"github.com/gotpa/tpa/link"
	"github.com/gotpa/tpa/link/softnic"
)

// A recorder is a test that writes down what it is told, and runs its clean-ups
// when it is asked to.
type recorder struct {
	testing.TB
	cleanups []func()
	errors   []string
}

func (r *recorder) Helper()          {}
func (r *recorder) Failed() bool     { return false }
func (r *recorder) Cleanup(f func()) { r.cleanups = append(r.cleanups, f) }
func (r *recorder) Errorf(_ string, args ...any) {
	r.errors = append(r.errors, args[0].(string))
}

func (r *recorder) end() {
	for _, f := range r.cleanups {
		f()
	}
}

func TestCheck(t *testing.T) {
	timeout = 0
	nic, err := softnic.New(softnic.Config{Name: "card"})
	if err != nil {
		t.Fatal(err)
	}
	defer nic.Close()
	for _, tc := range []struct {
		name string
		run  func() (undo func())
		want string
	}{
		{"nothing", func() func() { return func() {} }, ""},
		{"goroutine", func() func() {
			stop := make(chan struct{})
			go func() { <-stop }()
			return func() { close(stop) }
		}, "goroutine"},
		{"packet", func() func() {
			pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{})
			return pkt.DecRef
		}, "stack.PacketBuffer"},
		{"buffer of a device", func() func() {
			nic.StallReceive(0, true)
			nic.Deliver(make([]byte, 60))
			return func() {
				nic.StallReceive(0, false)
				frames := make([]link.Frame, 1)
				nic.Queue(0).Receive(frames)
				nic.Queue(0).Receive(frames)
			}
		}, "1 buffers of card in use"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := &recorder{TB: t}
			Check(r, nic)
			undo := tc.run()
			r.end()
			undo()
			switch {
			case tc.want == "" && len(r.errors) > 0:
				t.Errorf("reported %q, want nothing", r.errors)
			case tc.want != "" && (len(r.errors) == 0 || !strings.Contains(r.errors[0], tc.want)):
				t.Errorf("reported %q, want one with %q", r.errors, tc.want)
			}
		})
	}
}
