// Package virtualtime runs tests of whole stacks in virtual time: inside the
// bubbles of testing/synctest, where the clock moves on as soon as every
// goroutine waits, and an hour of retransmissions takes a second.
//
// gVisor parks its goroutines under a reason for waiting that synctest does not
// take for waiting: that of a select, which for all that synctest knows may
// depend on the world outside. Main therefore builds the test anew, against a
// copy of gVisor with one constant changed, so that parked goroutines count as
// waiting on a sync.Cond, and runs that in place of the test at hand:
//
//	func TestMain(m *testing.M) { virtualtime.Main(m) }
//
// Nothing in the module or in Go's module cache is touched. The copy lies in the
// user's cache directory, and builds against it are cached like any other. Main
// checks that the constant means what it should in the versions of Go and gVisor
// in use. Versions that do not fit skip the package's tests and say why; with
// TPA_TEST_STRICT=1 they fail them. Go 1.26 and 1.27 fit.
//
// # What to mind in a bubble
//
// A goroutine that waits for a sync.Mutex does not count as waiting. Time stands
// still, for good, when one goroutine sleeps with a mutex held and another one
// wants it: so do two concurrent Reads, or two Writes, of one connection.
//
// # The same test does the same things
//
// In a bubble, goroutines run in the same order each time, and in each process:
// Main keeps to one P, keeps the garbage collector away (see Test), and builds
// with a runtime in which what Go leaves to chance follows from what the bubble
// did before: the order of timers that fire at the same instant, of ready cases of
// a select, of maps, and the top-level functions of math/rand. No goroutine loses
// its turn because real time passed. gVisor's own random numbers repeat; those of
// crypto/rand do not.
//
// A Go in which one of these places looks different keeps its chance there: Main
// says so, the tests run, and those that need Repeatable are skipped.
package virtualtime

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"

	gsync "gvisor.dev/gvisor/pkg/sync"

	"github.com/gotpa/tpa/internal/clock"
	"github.com/gotpa/tpa/internal/testnet"
)

const (
	gvisor = "gvisor.dev/gvisor"
	// constants is the file of gVisor that holds the reasons for waiting.
	constants = "pkg/sync/runtime_constants_go_impl.go"
	// marker is the environment variable that tells the rebuilt test apart.
	marker = "TPA_TEST_VIRTUALTIME"
	// luck is the environment variable that tells it what was left to chance.
	luck = "TPA_TEST_VIRTUALTIME_CHANCE"
)

// errMisfit is wrapped in errors about versions of Go and gVisor that do not fit.
var errMisfit = errors.New("package virtualtime does not fit this version")

// Repeatable is that the same test does the same things in each run.
var Repeatable = testnet.Requirement{
	Name: "runs that repeat",
	Probe: func() error {
		if misfits := os.Getenv(luck); misfits != "" {
			return fmt.Errorf("%s does not have %s", runtime.Version(), misfits)
		}
		return nil
	},
	Fix: "make the edits in test/virtualtime/chance.go fit this Go, or use the Go that go.mod names",
}

// Main runs the tests of a package in virtual time. It does not return.
func Main(m *testing.M) {
	if reason := os.Getenv(marker); reason != "" {
		if got := strconv.Itoa(int(gsync.WaitReasonSelect)); got != reason {
			fail(fmt.Errorf("the rebuilt test has wait reason %s, want %s", got, reason))
		}
		runtime.GOMAXPROCS(1)
		// A goroutine that has to help the collector loses its turn.
		debug.SetGCPercent(-1)
		debug.SetMemoryLimit(memoryLimit)
		os.Exit(m.Run())
	}
	err := rerun()
	if errors.Is(err, errMisfit) && !testnet.Strict() {
		// The last line makes go test show that nothing ran.
		fmt.Printf("virtualtime: all tests of this package are skipped: %v\ntesting: warning: no tests to run\n", err)
		os.Exit(0)
	}
	fail(err)
}

// In bytes: the collector runs before a bubble starts when collectAbove are in
// use, and within a bubble only beyond memoryLimit.
const (
	collectAbove = 128 << 20
	memoryLimit  = 2 << 30
)

// Test is synctest.Test, after some cleaning up.
func Test(t *testing.T, f func(*testing.T)) {
	t.Helper()
	var m runtime.MemStats
	if runtime.ReadMemStats(&m); m.HeapAlloc > collectAbove {
		runtime.GC()
	}
	clock.SetVirtual()
	synctest.Test(t, f)
}

// fail ends the process: the tests could not run.
func fail(err error) {
	fmt.Fprintln(os.Stderr, "virtualtime:", err)
	os.Exit(1)
}

// rerun builds the test of the current directory for virtual time and replaces
// this process by it. It returns only on an error.
func rerun() error {
	dir, reason, misfits, err := prepare()
	if err != nil {
		return err
	}
	race := setting("-race") == "true"
	tags := strings.TrimPrefix(setting("-tags")+",virtualtime", ",")
	name := filepath.Base(os.Args[0])
	if race {
		name += ".race"
	}
	binary := filepath.Join(dir, name)
	args := []string{"test", "-c", "-o", binary,
		"-modfile=" + filepath.Join(dir, "go.mod"), "-overlay=" + filepath.Join(dir, "overlay.json"), "-tags=" + tags}
	if race {
		args = append(args, "-race")
	}
	if _, err := goTool(append(args, ".")...); err != nil {
		// The test itself could be built: it is running.
		return fmt.Errorf("%w: %w", errMisfit, err)
	}
	env := append(os.Environ(), marker+"="+reason, "GODEBUG=asyncpreemptoff=1")
	if len(misfits) > 0 {
		list := strings.Trim(fmt.Sprint(misfits), "[]")
		fmt.Printf("virtualtime: these tests may differ from run to run: %s does not have %s\n", runtime.Version(), list)
		env = append(env, luck+"="+list)
	}
	return syscall.Exec(binary, append([]string{os.Args[0]}, os.Args[1:]...), env)
}

// prepare fills a directory with a copy of gVisor that suits synctest, a go.mod
// that uses it, and an overlay for the runtime. It returns the directory, the new
// value of the constant, and the edits of chance that do not fit.
func prepare() (dir, reason string, misfits []replacement, err error) {
	out, err := goTool("list", "-m", "-json", gvisor)
	if err != nil {
		return "", "", nil, err
	}
	var module struct{ Dir, Version string }
	if err := json.Unmarshal(out, &module); err != nil {
		return "", "", nil, fmt.Errorf("reading go list -m: %w", err)
	}
	out, err = goTool("env", "GOROOT", "GOMOD", "GOMODCACHE")
	if err != nil {
		return "", "", nil, err
	}
	env := strings.Split(strings.TrimSpace(string(out)), "\n")
	if len(env) != 3 {
		return "", "", nil, fmt.Errorf("go env: %q", out)
	}
	goroot, gomod, modcache := env[0], env[1], env[2]
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", "", nil, err
	}
	root := filepath.Join(cache, "tpa-virtualtime")
	if err := os.MkdirAll(root, 0o755); err != nil {
		return "", "", nil, err
	}
	// The go command refuses overlays for a Go that it has downloaded itself, by
	// the name of the file.
	if strings.HasPrefix(goroot, modcache+string(filepath.Separator)) {
		if goroot, err = alias(root, goroot); err != nil {
			return "", "", nil, err
		}
	}
	patched, reason, err := patch(module.Dir, module.Version, goroot)
	if err != nil {
		return "", "", nil, err
	}
	overlay, changed := map[string][]byte{}, map[string][]byte{constants: patched}
	if err := mustEdit(overlay, goroot, clockEdits); err != nil {
		return "", "", nil, err
	}
	if misfits, err = edit(overlay, goroot, chanceEdits); err != nil {
		return "", "", nil, err
	}
	if err := mustEdit(changed, module.Dir, gvisorEdits); err != nil {
		return "", "", nil, err
	}
	dirs, err := packageDirs(module.Dir)
	if err != nil {
		return "", "", nil, err
	}
	mod, err := os.ReadFile(gomod)
	if err != nil {
		return "", "", nil, err
	}
	sum, err := os.ReadFile(strings.TrimSuffix(gomod, ".mod") + ".sum")
	if err != nil {
		return "", "", nil, err
	}

	// The directory is named by all that goes into it, so that it never changes
	// once it is complete.
	id := sha256.New()
	fmt.Fprintf(id, "%s\n%s\n%s\n%s\n%s\n%s\n%s", goroot, module.Version, changed, overlay, mod, sum, strings.Join(dirs, "\n"))
	dir = filepath.Join(root, fmt.Sprintf("%x", id.Sum(nil)[:8]))
	if _, err := os.Stat(dir); err == nil {
		return dir, reason, misfits, nil
	}
	fresh, err := os.MkdirTemp(root, "new")
	if err != nil {
		return "", "", nil, err
	}
	defer os.RemoveAll(fresh)
	if err := copyModule(filepath.Join(fresh, "gvisor"), module.Dir, dirs, changed); err != nil {
		return "", "", nil, err
	}
	mod = fmt.Appendf(mod, "\nreplace %s => %s\n", gvisor, filepath.Join(dir, "gvisor"))
	replace := map[string]string{}
	for name, data := range overlay {
		base := "runtime_" + filepath.Base(name)
		replace[filepath.Join(goroot, name)] = filepath.Join(dir, base)
		if err := os.WriteFile(filepath.Join(fresh, base), data, 0o644); err != nil {
			return "", "", nil, err
		}
	}
	list, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", "", nil, err
	}
	if err := errors.Join(
		os.WriteFile(filepath.Join(fresh, "go.mod"), mod, 0o644),
		os.WriteFile(filepath.Join(fresh, "go.sum"), sum, 0o644),
		os.WriteFile(filepath.Join(fresh, "overlay.json"), list, 0o644),
	); err != nil {
		return "", "", nil, err
	}
	if err := os.Rename(fresh, dir); err != nil {
		// Somebody else was faster: then it is there.
		if _, statErr := os.Stat(dir); statErr != nil {
			return "", "", nil, err
		}
	}
	return dir, reason, misfits, nil
}

// alias gives a Go another name, below root, and has this process use it.
func alias(root, goroot string) (name string, err error) {
	name = filepath.Join(root, filepath.Base(goroot))
	if err := os.Symlink(goroot, name); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", err
	}
	return name, errors.Join(os.Setenv("GOROOT", name), os.Setenv("GOTOOLCHAIN", "local"),
		os.Setenv("PATH", filepath.Join(name, "bin")+string(filepath.ListSeparator)+os.Getenv("PATH")))
}

// mustEdit is edit for edits that all have to fit.
func mustEdit(files map[string][]byte, dir string, edits []replacement) error {
	misfits, err := edit(files, dir, edits)
	if err == nil && len(misfits) > 0 {
		err = fmt.Errorf("%w: %s does not have %v", errMisfit, dir, misfits[0])
	}
	return err
}

// patch returns gVisor's file of wait reasons with that of a select replaced by
// that of a sync.Cond, and its new value, after checking that both mean what
// they should in this Go.
func patch(module, version, goroot string) (file []byte, reason string, err error) {
	runtime2 := filepath.Join(goroot, "src/runtime/runtime2.go")
	src, err := os.ReadFile(runtime2)
	if err != nil {
		return nil, "", err
	}
	selectReason, condReason := waitReason(src, "waitReasonSelect"), waitReason(src, "waitReasonSyncCondWait")
	if selectReason < 0 || condReason < 0 {
		return nil, "", fmt.Errorf("%w: %s has no waitReasonSelect or no waitReasonSyncCondWait", errMisfit, runtime2)
	}
	if !regexp.MustCompile(`(?s)isIdleInSynctest = .*?\bwaitReasonSyncCondWait:\s+true`).Match(src) {
		return nil, "", fmt.Errorf("%w: %s does not count waitReasonSyncCondWait as idle in synctest", errMisfit, runtime2)
	}
	src, err = os.ReadFile(filepath.Join(module, constants))
	if err != nil {
		return nil, "", err
	}
	declaration := regexp.MustCompile(`(WaitReasonSelect\s+uint8 = )(\d+)\n`)
	found := declaration.FindSubmatch(src)
	if found == nil {
		return nil, "", fmt.Errorf("%w: %s of gVisor %s does not declare WaitReasonSelect", errMisfit, constants, version)
	}
	if got := string(found[2]); got != strconv.Itoa(selectReason) {
		return nil, "", fmt.Errorf("%w: gVisor %s takes the wait reason of a select for %s, in this Go it is %d", errMisfit, version, got, selectReason)
	}
	reason = strconv.Itoa(condReason)
	return declaration.ReplaceAll(src, []byte("${1}"+reason+"\n")), reason, nil
}

// waitReason returns the value of a constant of the runtime's list of reasons
// for waiting, -1 when it is not there. The list counts up line by line.
func waitReason(src []byte, name string) int {
	_, list, ok := bytes.Cut(src, []byte("waitReasonZero "))
	if !ok {
		return -1
	}
	for i, line := range bytes.Split(list, []byte("\n")) {
		fields := strings.Fields(string(line))
		switch {
		case i > 0 && (len(fields) == 0 || fields[0] == ")"):
			return -1
		case i > 0 && fields[0] == name:
			return i
		}
	}
	return -1
}

// packageDirs lists the directories of gVisor's packages that the test in the
// current directory needs, relative to the module.
func packageDirs(module string) ([]string, error) {
	out, err := goTool("list", "-deps", "-test", "-f", `{{with .Module}}{{if eq .Path "`+gvisor+`"}}{{$.Dir}}{{end}}{{end}}`, ".")
	if err != nil {
		return nil, err
	}
	var dirs []string
	for dir := range strings.FieldsSeq(string(out)) {
		rel, err := filepath.Rel(module, dir)
		if err != nil {
			return nil, err
		}
		dirs = append(dirs, rel)
	}
	return dirs, nil
}

// copyModule copies packages of a module, with some files replaced.
func copyModule(to, from string, dirs []string, changed map[string][]byte) error {
	copyFile := func(name string) error {
		data, ok := changed[name]
		if !ok {
			var err error
			if data, err = os.ReadFile(filepath.Join(from, name)); err != nil {
				return err
			}
		}
		return os.WriteFile(filepath.Join(to, name), data, 0o644)
	}
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	if err := copyFile("go.mod"); err != nil {
		return err
	}
	for _, dir := range dirs {
		if err := os.MkdirAll(filepath.Join(to, dir), 0o755); err != nil {
			return err
		}
		entries, err := os.ReadDir(filepath.Join(from, dir))
		if err != nil {
			return err
		}
		for _, e := range entries {
			if !e.Type().IsRegular() {
				continue
			}
			if err := copyFile(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// setting returns a setting with which this program was built.
func setting(key string) string {
	info, _ := debug.ReadBuildInfo()
	if info == nil {
		return ""
	}
	for _, s := range info.Settings {
		if s.Key == key {
			return s.Value
		}
	}
	return ""
}

// goTool runs the go command in the current directory.
func goTool(args ...string) ([]byte, error) {
	cmd := exec.Command("go", args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, &stderr)
	}
	return stdout.Bytes(), nil
}
