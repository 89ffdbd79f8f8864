package docs

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// imports has the package of each name that a block may use without importing it.
var imports = map[string]string{
	"accel": "github.com/gotpa/tpa/accel", "acceltest": "github.com/gotpa/tpa/accel/acceltest", "debug": "github.com/gotpa/tpa/accel/debug",
	"link": "github.com/gotpa/tpa/link", "memory": "github.com/gotpa/tpa/link/memory", "fault": "github.com/gotpa/tpa/link/fault", "metrics": "github.com/gotpa/tpa/metrics",
	"tpanet": "github.com/gotpa/tpa/net", "prometheus": "github.com/prometheus/client_golang/prometheus",
	"context": "context", "http": "net/http", "io": "io", "log": "log", "net": "net", "netip": "net/netip", "os": "os", "slog": "log/slog",
	"testing": "testing", "time": "time", "errors": "errors", "fmt": "fmt",
}

// given are names that a block may use without declaring them.
const given = `
	ctx context.Context
	conn net.Conn
	handler http.Handler
	header, body []byte
	dev link.Device
	addrs []netip.Prefix
	parser io.Writer
	ln net.Listener
	buf []byte
	serve func(net.Conn)
	open func(*tpanet.CallbackConn) tpanet.Callbacks
	err error
`

// block is one of Go in a page.
type block struct {
	page string
	line int
	code string
}

func (b block) String() string { return fmt.Sprintf("%s:%d", b.page, b.line) }

// blocks returns all blocks of Go in the documentation.
func blocks(t *testing.T) (all []block) {
	t.Helper()
	pages, err := filepath.Glob("../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, page := range append(pages, "../../README.md") {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile("(?s)```go\n(.*?)```").FindAllSubmatchIndex(text, -1) {
			all = append(all, block{page, 2 + strings.Count(string(text[:m[0]]), "\n"), string(text[m[2]:m[3]])})
		}
	}
	return all
}

// program makes a package of a block: its own, or a function around it.
func (b block) program() string {
	code := regexp.MustCompile(`(?m)^\s*\.\.\.$`).ReplaceAllString(b.code, "")
	code = regexp.MustCompile(`(?m)^import (".*"|\((?s:.*?)\n\))\n`).ReplaceAllString(code, "")
	if strings.HasPrefix(code, "package ") {
		return code
	}
	declarations, body := "", code
	if regexp.MustCompile(`(?m)^func `).MatchString(code) {
		declarations, body = code, ""
	}
	var used []string
	for name, path := range imports {
		if regexp.MustCompile(`\b` + name + `\.`).MatchString(code + given) {
			used = append(used, fmt.Sprintf("%s %q", name, path))
		}
	}
	return fmt.Sprintf("package p\n\nimport (\n%s\n)\n\nvar (%s)\n\n%s\nfunc block() error {\n%s\nreturn nil\n}\n",
		strings.Join(used, "\n"), given, declarations, body)
}

// TestGoCompiles compiles each block. That it declares what it does not use is no
// error: it is a part of a program.
func TestGoCompiles(t *testing.T) {
	all := blocks(t)
	if len(all) < 10 {
		t.Fatalf("%d blocks found, there were more", len(all))
	}
	dir := t.TempDir()
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	overlay := map[string]string{}
	args := []string{"build", "-gcflags=-e", "-overlay", filepath.Join(dir, "overlay.json")}
	of := map[string]block{}
	for i, b := range all {
		file := filepath.Join(dir, fmt.Sprintf("b%d.go", i))
		if err := os.WriteFile(file, []byte(b.program()), 0o600); err != nil {
			t.Fatal(err)
		}
		name := fmt.Sprintf("block%d", i)
		overlay[filepath.Join(here, name, "p.go")] = file
		args = append(args, "./"+name)
		of[fmt.Sprintf("b%d", i)] = b
	}
	text, err := json.Marshal(map[string]any{"Replace": overlay})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "overlay.json"), text, 0o600); err != nil {
		t.Fatal(err)
	}
	out, _ := exec.CommandContext(t.Context(), "go", args...).CombinedOutput()
	complaint := regexp.MustCompile(`(b\d+)\.go:\d+:\d+: (.*)`)
	seen := false
	for line := range strings.SplitSeq(string(out), "\n") {
		m := complaint.FindStringSubmatch(line)
		switch {
		case m == nil:
			if line != "" && !strings.HasPrefix(line, "#") {
				t.Error(line)
			}
		case strings.HasPrefix(m[2], "declared and not used"), strings.HasSuffix(m[2], "imported and not used"), strings.HasPrefix(m[2], "no new variables"):
			seen = true
		default:
			t.Errorf("%v: %s\n%s", of[m[1]], m[2], of[m[1]].code)
		}
	}
	if !seen {
		t.Errorf("the compiler did not see the blocks, which have unused variables:\n%s", out)
	}
}
