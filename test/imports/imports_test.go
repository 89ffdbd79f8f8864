package imports

import (
	"bytes"
	"encoding/json"
	"errors"
	"go/format"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/gotpa/tpa"

// A rule forbids packages to depend on others, directly or through others.
// Patterns are those of matches.
type rule struct {
	from, to string
	why      string
}

var rules = []rule{
	{"link/...", "accel/...", "a device knows nothing of the API above it"},
	{"link/...", "net", "a device knows nothing of connections"},
	{"link/...", "internal/shard", "a shard drives devices, not the other way"},
	{"link/...", "internal/netif", "the IP stack's interface drives queues, not the other way"},
	{"link/...", "gvisor.dev/gvisor/pkg/tcpip/stack", "a device knows no stack"},
	{"link/xdp", "link/packet", "the two are siblings; what they share is in internal/bpf"},
	{"link/packet", "link/xdp", "the two are siblings; what they share is in internal/bpf"},
	{"link/bifurcation", "link/dpdk", "a device brings its filter along: link.Sharer"},
	{"link/bifurcation", "internal/bpf", "a device brings its filter along: link.Sharer"},
	{"internal/ethtool", "link/...", "asking the kernel knows no device of ours"},
	{"internal/netdevgenl", "link/...", "asking the kernel knows no device of ours"},
	{"internal/bpf", "internal/netif", "a filter knows no stack"},
	{"link", "gvisor.dev/...", "the contract of a device names nothing of a stack"},
	{"internal/slowpath", "internal/shard", "the slow path of a SYN crosses a shard once, in its poller"},
	{"internal/slowpath", "internal/tcp", "an engine is a slowpath.TCP to it"},
	{"internal/slowpath", "internal/gvisortcp", "an engine is a slowpath.TCP to it"},
	{"internal/tcp", "internal/slowpath", "an engine hands on what it does not take, and knows not where to"},
	{"internal/gvisortcp", "internal/slowpath", "an engine hands on what it does not take, and knows not where to"},
	{"internal/processor", "link/...", "what a poller does with its processor knows no packets"},
	{"internal/processor", "internal/transport", "what a poller does with its processor knows no packets"},
	{"internal/processor", "gvisor.dev/gvisor/pkg/tcpip/stack", "what a poller does with its processor knows no packets"},
	{"internal/netif", "internal/shard", "a shard is built on it"},
	{"internal/netif", "internal/tcp", "TCP sends through it"},
	{"internal/netif", "net", "an interface knows nothing of connections"},
	{"net", "link/...", "a connection talks to its transport.Endpoint and transport.Stack and knows no device"},
	{"net", "internal/tcp", "a connection knows no TCP but by package transport"},
	{"net", "internal/gvisortcp", "a connection knows no TCP but by package transport"},
	{"net", "gvisor.dev/gvisor/pkg/tcpip/...", "a connection knows no TCP but by package transport"},
	{"internal/transport", "gvisor.dev/...", "the seam names no type of either side"},
	{"internal/transport", "internal/...", "the seam names no type of either side"},
	{"internal/tcp", "internal/gvisortcp", "what exists for gVisor's TCP alone stands there alone"},
	{"internal/tcp", "gvisor.dev/gvisor/pkg/tcpip/transport/tcp", "what exists for gVisor's TCP alone stands in internal/gvisortcp"},
	{"internal/gvisortcp", "internal/tcp", "an engine knows no other"},
	{"internal/limits", "internal/tcp", "the limits hold for each engine alike"},
	{"internal/limits", "internal/gvisortcp", "the limits hold for each engine alike"},
	{"net", "accel/...", "the public API is built on it"},
	{"net", "internal/shard", "a shard is one Stack among others to it"},
	{"internal/...", "accel/...", "the public API is built on it"},
	{"internal/...", "link/dpdk", "shards know the contract in link, accel picks the device"},
	{"internal/...", "link/xdp", "shards know the contract in link, accel picks the device"},
	{"accel/...", "metrics/...", "metrics read accel's Stats, and users choose whether to"},
	{"link/...", "metrics/...", "metrics read accel's Stats"},
	{"net", "metrics/...", "metrics read accel's Stats"},
	{"internal/...", "metrics/...", "metrics read accel's Stats"},
	{"...", "cmd/...", "commands are not libraries"},
	{"...", "examples/...", "examples are not libraries"},
	{"...", "test/...", "tests are not libraries"},
	{"...", "link/softnic", "a network card in software is for tests"},
	{"...", "link/fault", "a bad network is for tests"},
	{"...", "link/memory", "a device in memory is for tests; users import it in theirs"},
	{"...", "internal/testnet", "networks for tests have no place in a program"},
	{"...", "internal/testframe", "frames for tests have no place in a program"},
	{"...", "internal/leak", "a check for tests has no place in a program"},
	{"...", "internal/echoserver", "a server for tests has no place in a program"},

	// What a server takes in with accel stays small.
	{"accel/...", "github.com/prometheus/...", "only metrics speaks Prometheus"},
	{"accel/...", "github.com/spf13/...", "a library has no command line"},
	{"accel/...", "gonum.org/...", "a library draws no curves"},
	{"accel/...", "google.golang.org/...", "a library brings no RPC"},
	{"accel", "testing", "test code has no place in a program"},
	{"accel/debug", "testing", "test code has no place in a program"},
	{"...", "accel/acceltest", "a network for tests has no place in a program"},
	{"accel", "html/template", "only accel/debug has pages: templates keep every method of every type in a program"},
	{"accel", "net/http", "only accel/debug has pages: a server that speaks no HTTP does not pay for it"},

	// What any package may use depends on little.
	{"internal/checksum", "gvisor.dev/...", "sums are arithmetic"},
}

// matches tells whether an import path fits a pattern: a path, or a path and all
// below it ("/..."). Paths without a dot in their first element are those of this
// module, or else of the standard library.
func matches(pattern, importPath string) bool {
	stem, below := strings.CutSuffix(pattern, "...")
	stem = strings.TrimSuffix(stem, "/")
	local, isLocal := strings.CutPrefix(importPath, module+"/")
	if stem == "" {
		return isLocal
	}
	for _, p := range []string{importPath, local} {
		if p == "net" && !isLocal {
			continue // the standard library's, not ours
		}
		if p == stem || below && strings.HasPrefix(p, stem+"/") {
			return true
		}
	}
	return false
}

type goPackage struct {
	ImportPath string
	Imports    []string
	Deps       []string
}

// list returns the packages of the module as a build with the tags sees them.
func list(t *testing.T, tags string) []goPackage {
	t.Helper()
	cmd := exec.Command("go", "list", "-tags", tags, "-json=ImportPath,Imports,Deps", "./...")
	cmd.Dir = root(t)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=1")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %v\n%s", cmd, err, &stderr)
	}
	var pkgs []goPackage
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p goPackage
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		pkgs = append(pkgs, p)
	}
	if len(pkgs) == 0 {
		t.Fatal("go list found no packages")
	}
	return pkgs
}

func root(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

func TestDirection(t *testing.T) {
	for _, tags := range []string{"", "dpdk"} {
		t.Run("tags="+tags, func(t *testing.T) {
			for _, p := range list(t, tags) {
				for _, broken := range check(p) {
					t.Error(broken)
				}
			}
		})
	}
}

// forTests are what only tests take in, by the patterns of rules, and so do the
// packages that exist for tests.
var forTests = map[string]bool{"link/memory": true, "link/fault": true, "internal/testnet": true}

func isForTests(importPath string) bool {
	return matches("accel/acceltest", importPath) || matches("test/...", importPath)
}

// check returns what is wrong with the dependencies of one package.
func check(p goPackage) []string {
	var broken []string
	for _, r := range rules {
		if !matches(r.from, p.ImportPath) {
			continue
		}
		for _, dep := range p.Deps {
			if forTests[r.to] && isForTests(p.ImportPath) {
				continue
			}
			if matches(r.to, dep) && !matches(r.to, p.ImportPath) {
				broken = append(broken, p.ImportPath+" depends on "+dep+": "+r.why)
			}
		}
	}
	return broken
}

// TestRules makes sure that the rules bite.
func TestRules(t *testing.T) {
	tests := []struct {
		pkg, dep string
		allowed  bool
	}{
		{"link", "accel", false},
		{"link/dpdk", "net", false},
		{"net", "link/xdp", false},
		{"link/xdp", "internal/netif", false},
		{"link/packet", "link/xdp", false},
		{"link/packet", "internal/bpf", true},
		{"link/bifurcation", "link/dpdk", false},
		{"internal/netif", "link", true},
		{"internal/netif", "internal/tcp", false},
		{"accel", "link/fault", false},
		{"internal/shard", "link", true},
		{"internal/shard", "link/dpdk", false},
		{"internal/shard", "net", true},
		{"accel", "link/dpdk", true},
		{"accel", "net", true},
		{"accel", "internal/testnet", false},
		{"internal/shard", "internal/testframe", false},
		{"internal/processor", "link", false},
		{"internal/processor", "internal/clock", true},
		{"metrics", "accel", true},
		{"cmd/tpa-bench", "accel", true},
		{"accel", "cmd/tpa-bench", false},
	}
	for _, tt := range tests {
		broken := check(goPackage{ImportPath: module + "/" + tt.pkg, Deps: []string{module + "/" + tt.dep}})
		if got := len(broken) == 0; got != tt.allowed {
			t.Errorf("%s may import %s: %t, want %t", tt.pkg, tt.dep, got, tt.allowed)
		}
	}
	if broken := check(goPackage{ImportPath: module + "/link", Deps: []string{"net", "net/netip", "testing/iotest"}}); broken != nil {
		t.Errorf("the standard library is forbidden: %v", broken)
	}
}

func TestCgoStaysInDPDK(t *testing.T) {
	for _, tags := range []string{"", "dpdk"} {
		for _, p := range list(t, tags) {
			// Below link/dpdk stand the C halves of its tests.
			dpdk := p.ImportPath == module+"/link/dpdk" || strings.HasPrefix(p.ImportPath, module+"/link/dpdk/")
			if slices.Contains(p.Imports, "C") && (tags == "" || !dpdk) {
				t.Errorf("%s imports C with tags %q: only link/dpdk may, and only with the tag dpdk", p.ImportPath, tags)
			}
		}
	}
}

// files calls f with every file of the repository that people wrote.
func files(t *testing.T, f func(name string, content []byte)) {
	t.Helper()
	dir := root(t)
	err := fs.WalkDir(os.DirFS(dir), ".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (name == ".git" || name == "bin" || name == "out"):
			return fs.SkipDir
		case d.IsDir() || !d.Type().IsRegular() || name == ".git" || path.Ext(name) == ".o":
			return nil
		}
		content, err := os.ReadFile(filepath.Join(dir, name))
		if err == nil {
			f(name, content)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestFormatted(t *testing.T) {
	files(t, func(name string, content []byte) {
		if path.Ext(name) != ".go" {
			return
		}
		want, err := format.Source(content)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if !bytes.Equal(content, want) {
			t.Errorf("%s: not formatted; run gofmt -w %s", name, name)
		}
	})
}

func TestUnsafeIsNamed(t *testing.T) {
	files(t, func(name string, content []byte) {
		if path.Ext(name) != ".go" {
			return
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, content, parser.ImportsOnly)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			return
		}
		var usesUnsafe, usesC bool
		for _, i := range f.Imports {
			usesUnsafe = usesUnsafe || i.Path.Value == `"unsafe"`
			usesC = usesC || i.Path.Value == `"C"`
		}
		stem := strings.TrimSuffix(strings.TrimSuffix(name, ".go"), "_test")
		if usesUnsafe && !usesC && !strings.HasSuffix(stem, "_unsafe") {
			t.Errorf("%s imports unsafe: such code goes to a file named *_unsafe.go, with the reason why it is sound", name)
		}
	})
}

// TestNoMachinePaths looks for paths that exist on one machine only.
func TestNoMachinePaths(t *testing.T) {
	machinePath := regexp.MustCompile(`(^|[^\w.~/-])/(work|root|home)/\w`)
	files(t, func(name string, content []byte) {
		if path.Ext(name) == "" && bytes.IndexByte(content, 0) >= 0 {
			return // a program that somebody built here
		}
		for i, line := range bytes.Split(content, []byte("\n")) {
			if machinePath.Match(line) && name != "test/imports/imports_test.go" {
				t.Errorf("%s:%d holds a path of one machine: %s", name, i+1, bytes.TrimSpace(line))
			}
		}
	})
}
