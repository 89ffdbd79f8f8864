package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"testing"
)

func TestBuild(t *testing.T) {
	info := &debug.BuildInfo{
		Main: debug.Module{Version: "v0.1.0"},
		Deps: []*debug.Module{{Path: "gvisor.dev/gvisor", Version: "v0.0.0-1"}},
		Settings: []debug.BuildSetting{
			{Key: "vcs.revision", Value: "0123456789abcdef"}, {Key: "vcs.time", Value: "2026-11-30T12:00:00Z"}, {Key: "vcs.modified", Value: "true"},
		},
	}
	b := build{Go: "go1.26.3", Platform: "linux/amd64"}
	b.read(info)
	want := "v0.1.0 (commit 0123456789ab of 2026-11-30T12:00:00Z, changed since) go1.26.3 linux/amd64 gVisor v0.0.0-1 without DPDK"
	if got := b.String(); got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func TestVersion(t *testing.T) {
	var out bytes.Buffer
	cmd := newRoot()
	cmd.SetOut(&out)
	cmd.SetArgs([]string{"version", "--json"})
	if err := cmd.Execute(); err != nil {
		t.Fatal(err)
	}
	var b build
	if err := json.Unmarshal(out.Bytes(), &b); err != nil {
		t.Fatalf("%v in %s", err, &out)
	}
	if b.Version == "" || !strings.HasPrefix(b.Go, "go") || b.Platform == "" {
		t.Errorf("got %+v, want version, Go and platform", b)
	}
}

// TestManual checks that there is a page for each command, with its flags, and
// none for hidden ones.
func TestManual(t *testing.T) {
	dir := t.TempDir()
	cmd := newRoot()
	cmd.SetArgs([]string{"man", dir})
	if err := cmd.Execute(); err != nil {
		t.Fatal(err)
	}
	if page, err := os.ReadFile(filepath.Join(dir, "tpa-bench.1")); err != nil || !bytes.Contains(page, []byte("\n  serve     a server")) {
		t.Errorf("%v: the table of commands is not as in the help:\n%s", err, page)
	}
	for _, c := range newRoot().Commands() {
		page, err := os.ReadFile(filepath.Join(dir, "tpa-bench-"+c.Name()+".1"))
		if c.Hidden {
			if err == nil {
				t.Errorf("there is a page for %s, which is hidden", c.Name())
			}
			continue
		}
		if err != nil {
			t.Error(err)
		} else if c.HasLocalFlags() && !bytes.Contains(page, []byte("OPTIONS")) {
			t.Errorf("the page of %s has no options", c.Name())
		}
	}
}
