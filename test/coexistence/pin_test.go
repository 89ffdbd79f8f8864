package coexistence

import (
	"errors"
	"testing"

	"github.com/gotpa/tpa/internal/testnet"
	"github.com/gotpa/tpa/link/xdp"
)

// TestPin: with TPA_XDP_PIN, the filter of a server that has ended or was killed stays
// attached, and the kernel has everything, what the server had refused too. The next
// server takes over without attaching anew, and without the setting nothing stays.
func TestPin(t *testing.T) {
	testnet.MountBPF(t, "/sys/fs/bpf")
	s := newSite(t, testnet.Wire{})
	t.Cleanup(func() {
		s.server.Do(func() {
			if _, err := xdp.Clean(); err != nil {
				t.Error(err)
			}
		})
	})
	addr, _ := at(s.si, port)
	neighbour, _ := at(s.si, port+1)
	echoServer(t, s.server, ":6380")
	kernel := s.load(s.client, 2, neighbour, echo)

	for _, end := range []func(*process){(*process).kill, func(p *process) { p.terminate(); p.Wait() }} {
		p := s.start(port, "TPA_XDP_PIN=true", "TPA_DEV=xdp:"+s.si.Name)
		if err := s.served(addr); err != nil {
			t.Error(err)
		}
		end(p)
		if !s.attached() {
			t.Error("the filter is gone")
		}
		// The kernel has the port now, whatever the filter did there.
		k := s.launch(port, "TPA_FALLBACK=auto", "TPA_DEV=nowhere")
		k.line()
		if err := s.served(addr); err != nil {
			t.Errorf("served by the kernel under a filter that was left: %v", err)
		}
		k.kill()
	}

	p := s.start(port, "TPA_DEV=xdp:"+s.si.Name)
	if err := s.served(addr); err != nil {
		t.Error(err)
	}
	p.kill()
	s.eventually("nothing stays", func() error {
		if s.attached() {
			return errors.New("a filter is attached")
		}
		return nil
	})
	kernel.stop()
	if n := kernel.failures.Load(); n != 0 || kernel.requests.Load() == 0 {
		t.Errorf("the kernel's neighbouring port: %d failures (%v) and %d requests", n, kernel.last.Load(), kernel.requests.Load())
	}
}
