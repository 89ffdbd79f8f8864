//go:build !linux

package accel_test

import (
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/gotpa/tpa/accel"
	"github.com/gotpa/tpa/link/memory"
)

// TestNothingLeft checks that an accelerated runtime opens neither a debug socket nor
// the recorder's file where a socket cannot tell who asks, whatever is configured.
func TestNothingLeft(t *testing.T) {
	for _, name := range []string{"", "debug.sock"} {
		dir := t.TempDir()
		t.Setenv("TMPDIR", dir)
		t.Setenv("XDG_RUNTIME_DIR", dir)
		dev, peer, err := memory.Pair(memory.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer peer.Close()
		c := accel.Config{
			Link: dev, Addrs: []netip.Prefix{netip.MustParsePrefix("10.0.0.1/24")}, Fallback: accel.FallbackNever,
			Logger: slog.New(slog.DiscardHandler),
		}
		if name != "" {
			c.DebugSocket = filepath.Join(dir, name)
		}
		rt, err := accel.New(c)
		if err != nil {
			t.Fatal(err)
		}
		left, err := os.ReadDir(dir)
		if err != nil || len(left) > 0 || rt.Status().Program.Socket != "" {
			t.Errorf("DebugSocket %q: got %v, %v, socket %q; want nothing", name, left, err, rt.Status().Program.Socket)
		}
		if rt.Recording() == nil {
			t.Error("the recorder does not record in memory")
		}
		rt.Close()
	}
}
