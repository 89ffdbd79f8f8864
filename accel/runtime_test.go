package accel

import (
	"errors"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/gotpa/tpa/link/memory"
)

// TestFailedStart checks that a runtime which cannot start leaves no folder behind, and
// one that another program has, as it is.
func TestFailedStart(t *testing.T) {
	for _, there := range []bool{false, true} {
		dir := filepath.Join(t.TempDir(), "tpa")
		if there {
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
		}
		dev, peer, err := memory.Pair(memory.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer peer.Close()
		twice := netip.MustParsePrefix("10.0.0.2/24")
		c := Config{Link: dev, Addrs: []netip.Prefix{twice, twice}, Logger: slog.New(slog.DiscardHandler)}
		if err := c.check(); err != nil {
			t.Fatal(err)
		}
		rt := newRuntime(c)
		rt.socketDirs = []string{dir}
		if err := rt.start(); err == nil {
			t.Fatal("it has started with one address twice")
		}
		if rt.recorder == nil {
			t.Fatal("it failed before it made the flight recorder")
		}
		entries, err := os.ReadDir(dir)
		if !there && !errors.Is(err, fs.ErrNotExist) || there && (err != nil || len(entries) > 0) {
			t.Errorf("left behind of a folder that was there: %t: %v, %v", there, entries, err)
		}
	}
}
