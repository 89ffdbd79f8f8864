package imports

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// smallest is the smallest server: that of the README, and what it answers.
const smallest = `package main

import "github.com/gotpa/tpa/accel"

func main() {
	ln, err := accel.Listen("tcp", ":6379")
	if err != nil {
		panic(err)
	}
	for {
		c, err := ln.Accept()
		if err != nil {
			panic(err)
		}
		c.Write([]byte("hello"))
		c.Close()
	}
}
`

// TestSize holds the size of the smallest server, built without options, in MB of a
// million bytes. What it is made of is in docs/capacity.md.
func TestSize(t *testing.T) {
	const most = 16.0
	dir := t.TempDir()
	source, program := filepath.Join(dir, "main.go"), filepath.Join(dir, "server")
	if err := os.WriteFile(source, []byte(smallest), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("go", "build", "-o", program, source)
	cmd.Dir = root(t)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", cmd, err, out)
	}
	info, err := os.Stat(program)
	if err != nil {
		t.Fatal(err)
	}
	if got := float64(info.Size()) / 1e6; got > most {
		t.Errorf("the smallest server has %.1f MB, want at most %.1f: go list -deps says what it takes in", got, most)
	} else {
		t.Logf("%.2f MB", got)
	}
}
