package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gotpa/tpa/accel"
	"github.com/gotpa/tpa/cmd/tpa-bench/internal/transport"
	"github.com/gotpa/tpa/internal/testnet"
)

// pages returns the documentation, by its names from the root of the module.
func pages(t *testing.T) map[string]string {
	t.Helper()
	names, err := filepath.Glob("../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	for _, name := range append(names, "../../README.md", "../../SECURITY.md", "../../packaging/README.md") {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		all[strings.TrimPrefix(name, "../../")] = string(text)
	}
	return all
}

// words splits a command line as a shell does, as far as the documentation goes:
// quotes, and comments at the end.
func words(line string) (all []string) {
	for _, m := range regexp.MustCompile(`'([^']*)'|(\S+)`).FindAllStringSubmatch(line, -1) {
		if strings.HasPrefix(m[0], "#") {
			break
		}
		all = append(all, m[1]+m[2])
	}
	return all
}

// TestDocumentedCommands checks that each command line of tpa-bench in the
// documentation is one: the command, its flags and its arguments exist.
func TestDocumentedCommands(t *testing.T) {
	call := regexp.MustCompile(`^(?:\$ )?(?:sudo )?(?:[A-Z_]+=\S+ )*(?:bin/)?tpa-bench (.*)`)
	found := 0
	for name, text := range pages(t) {
		joined := strings.ReplaceAll(text, "\\\n", " ")
		for line := range strings.SplitSeq(joined, "\n") {
			code, ok := strings.CutPrefix(line, "    ")
			m := call.FindStringSubmatch(strings.TrimSpace(code))
			if !ok || m == nil || regexp.MustCompile(`^\(pid`).MatchString(m[1]) { // the head of an output
				continue
			}
			found++
			args := words(m[1])
			for i, a := range args {
				args[i] = map[string]string{"PID": "1"}[a]
				if args[i] == "" {
					args[i] = a
				}
			}
			cmd, rest, err := newRoot().Find(args)
			if err == nil {
				err = cmd.ParseFlags(rest)
			}
			if err == nil {
				err = cmd.ValidateArgs(cmd.Flags().Args())
			}
			if err != nil {
				t.Errorf("%s: %q: %v", name, m[0], err)
			}
		}
	}
	if found < 20 {
		t.Errorf("%d command lines found, there were more", found)
	}
}

// A block is a documented command and what it prints.
type block struct {
	args  []string
	lines []string
}

// blocks returns those of a page that begin with $ tpa-bench.
func blocks(page string) (all []block) {
	for line := range strings.SplitSeq(page, "\n") {
		code, ok := strings.CutPrefix(line, "    ")
		args, isCall := strings.CutPrefix(code, "$ tpa-bench ")
		switch {
		case ok && isCall:
			all = append(all, block{args: words(args)})
		case ok && len(all) > 0:
			b := &all[len(all)-1]
			b.lines = append(b.lines, code)
		case len(all) > 0 && line != "":
			all = append(all, block{}) // text ends an output
		}
	}
	return slices.DeleteFunc(all, func(b block) bool { return b.args == nil })
}

var (
	columns = regexp.MustCompile(`\s{2,}`)
	figure  = regexp.MustCompile(`[+-]?\d+(\.\d+)?(µs|ms|s|k|M|G|T|%)?`)
)

// shape is a line of an output without its figures.
func shape(line string) string {
	cells := columns.Split(strings.TrimSpace(line), -1)
	for i, c := range cells {
		cells[i] = figure.ReplaceAllString(c, "N")
	}
	return strings.Join(cells, " | ")
}

// TestDocumentedOutputs runs the inspecting commands of docs/observability.md and
// wants the shape of each documented line: columns, and words where the documentation
// has words.
func TestDocumentedOutputs(t *testing.T) {
	rt, socket := program(t)
	status := rt.Status()
	known := counters(&status)
	ran := map[string]bool{}
	for _, b := range blocks(pages(t)["docs/observability.md"]) {
		name := b.args[0]
		if name == "doctor" || ran[name] && name != "trace" {
			continue
		}
		ran[name] = true
		t.Run(strings.Join(b.args, " "), func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			args := append(slices.Clone(b.args), "--addr", socket)
			for i, a := range args {
				switch {
				case a == "3" && args[i-1] == "--id":
					args[i] = "1"
				case a == "4" && args[i-1] == "-n":
					args[i] = "1" // so that there are more
				case strings.HasPrefix(a, "--watch"):
					args[i] = "--watch=100ms"
					go func() { time.Sleep(500 * time.Millisecond); cancel() }()
				}
			}
			got, err := command(ctx, args...)
			if err != nil {
				t.Fatal(err)
			}
			var shapes []string
			for line := range strings.SplitSeq(got, "\n") {
				shapes = append(shapes, shape(line))
			}
			for i, line := range b.lines {
				switch {
				case name == "stats":
					if key := strings.Fields(line + " .")[0]; line != "" && !hasKey(known, key) {
						t.Errorf("the documentation has %s, and status.json has not", key)
					}
					continue
				case line == "" || line == "…" || name == "trace" && i > 2:
					continue
				}
				want := strings.ReplaceAll(shape(line), "tpa-bench (pid N)", filepath.Base(os.Args[0])+" (pid N)")
				if !slices.ContainsFunc(shapes, func(s string) bool { return alike(s, want) }) {
					t.Errorf("the documentation has\n%s\nof the shape %s, and it printed\n%s", line, want, got)
				}
			}
		})
	}
	for _, name := range []string{"sockets", "shards", "stats", "trace"} {
		if !ran[name] {
			t.Errorf("docs/observability.md has no output of %s", name)
		}
	}
}

func hasKey(all map[string]uint64, key string) bool {
	_, ok := all[key]
	return ok
}

// alike compares shapes cell by cell. Where one has a figure the other may have none,
// or a dash.
func alike(a, b string) bool {
	x, y := strings.Split(a, " | "), strings.Split(b, " | ")
	if len(x) != len(y) {
		return false
	}
	for i := range x {
		open := func(c string) bool { return c == "-" || c == "–" || strings.Contains(c, "N") }
		if x[i] != y[i] && !(open(x[i]) && open(y[i])) && !strings.HasPrefix(x[i], "closed") && !strings.HasPrefix(y[i], "closed") {
			return false
		}
	}
	return true
}

// TestDocumentedDoctor compares what doctor prints here with docs/observability.md: the
// forms of lines, and the names of findings that every machine has.
func TestDocumentedDoctor(t *testing.T) {
	var documented []string
	for _, b := range blocks(pages(t)["docs/observability.md"]) {
		if b.args[0] == "doctor" {
			documented = b.lines
		}
	}
	out, _ := command(t.Context(), "doctor") // fails where only the kernel's TCP works
	printed := strings.Split(strings.TrimRight(out, "\n"), "\n")
	forms := []*regexp.Regexp{
		regexp.MustCompile(`^[✓!✗] (.{20}) \S`), // marks, name, what was found
		regexp.MustCompile(`^    so:   \S`),
		regexp.MustCompile(`^    fix:  \S`),
		regexp.MustCompile(`^Best mode now: \w+\. .*\.$`),
		regexp.MustCompile(`^Use it with: TPA_DEV=`),
		regexp.MustCompile(`^$`),
	}
	names := func(lines []string) (all []string) {
		for _, line := range lines {
			if !slices.ContainsFunc(forms, func(f *regexp.Regexp) bool { return f.MatchString(line) }) {
				t.Errorf("%q has none of the forms", line)
			}
			if m := forms[0].FindStringSubmatch(line); m != nil {
				all = append(all, strings.TrimSpace(m[1]))
			}
		}
		return all
	}
	want, got := names(documented), names(printed)
	var everywhere []string
	for _, name := range want {
		if !strings.Contains(name, "eth0") { // of the interface
			everywhere = append(everywhere, name)
		}
	}
	got = slices.DeleteFunc(got, func(name string) bool { return !slices.Contains(everywhere, name) })
	if len(everywhere) < 9 || !slices.Equal(got, everywhere) {
		t.Errorf("it printed %q, and the documentation has %q", got, everywhere)
	}
}

// TestDocumentedJSON compares the keys of a result with docs/benchmarks.md: a
// documented key exists and has a value of the same kind.
func TestDocumentedJSON(t *testing.T) {
	_, block, ok := strings.Cut(pages(t)["docs/benchmarks.md"], "```json\n")
	block, _, _ = strings.Cut(block, "```")
	var want, got any
	if err := json.Unmarshal([]byte(block), &want); !ok || err != nil {
		t.Fatalf("docs/benchmarks.md has no result in JSON: %v", err)
	}
	needTwoCPUs(t)
	b := start(t, "compare", "--conns", "1", "--duration", "200ms", "--warmup", "50ms", "--rounds", "1", "--transports", "kernel", "-o", "json")
	if status := b.status(t); status != 0 {
		t.Fatalf("exit status %d\n%s", status, b.stderr.String())
	}
	if err := json.Unmarshal(b.stdout.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	sameKeys(t, "", want, got)
}

// sameKeys wants what is documented to be in a result, at the same place and of the
// same kind.
func sameKeys(t *testing.T, at string, want, got any) {
	t.Helper()
	if reflect.TypeOf(want) != reflect.TypeOf(got) {
		t.Errorf("%s is documented as %T, and is %T", at, want, got)
		return
	}
	switch want := want.(type) {
	case map[string]any:
		for key, w := range want {
			sameKeys(t, at+"."+key, w, got.(map[string]any)[key])
		}
	case []any:
		if got := got.([]any); len(want) > 0 && len(got) > 0 {
			sameKeys(t, at+"[0]", want[0], got[0])
		} else if len(want) > 0 {
			t.Errorf("%s is empty", at)
		}
	}
}

// TestQuickStart runs the commands of docs/quickstart.md and README.md for an interface
// that the kernel keeps, word for word but for the names of namespaces and sudo.
func TestQuickStart(t *testing.T) {
	redisCLI := testnet.Requirement{
		Name:  "redis-cli",
		Probe: func() error { _, err := exec.LookPath("redis-cli"); return err },
		Fix:   "apt-get install redis-tools",
	}
	testnet.Need(t, testnet.Root, redisCLI)
	for _, part := range []struct{ page, begin, end, cleanup string }{
		{"docs/quickstart.md", "## 2. An interface that the kernel keeps", "\n## ", "To clean up: `([^`]+)`"},
		{"README.md", "    go build -o bin/ ./examples/redis", "\n## ", "`(sudo ip netns del [^`]+)` removes it all"},
	} {
		t.Run(part.page, func(t *testing.T) {
			page := pages(t)[part.page]
			at := strings.Index(page, part.begin)
			if at < 0 {
				t.Fatalf("%s has no quick start on AF_XDP", part.page)
			}
			section, _, _ := strings.Cut(page[at:], part.end)
			cleanup := regexp.MustCompile(part.cleanup).FindStringSubmatch(section)
			if cleanup == nil {
				t.Fatalf("%s does not say how to clean up", part.page)
			}
			quickStart(t, section, cleanup[1])
		})
	}
}

// quickStart runs the commands of a part of a page.
func quickStart(t *testing.T, section, cleanup string) {
	t.Helper()
	bin := t.TempDir()
	id := os.Getpid()
	names := strings.NewReplacer("tpa-server", fmt.Sprintf("tpaqs%d", id), "tpa-client", fmt.Sprintf("tpaqc%d", id),
		"-o bin/", "-o "+bin+"/", "bin/tpa-bench", os.Args[0], "bin/redis", filepath.Join(bin, "redis"), "sudo ", "")
	socket := filepath.Join(bin, "debug.sock")
	environ := append(os.Environ(), "TPA_TEST_BENCH_MAIN=1", "TPA_SOCKET="+socket)
	shell := func(line string) *exec.Cmd {
		c := exec.CommandContext(context.WithoutCancel(t.Context()), "sh", "-c", line) // the server is to end in peace
		c.Dir, c.Env = "../..", environ
		return c
	}
	t.Cleanup(func() {
		if out, err := exec.Command("sh", "-c", names.Replace(cleanup)).CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", cleanup, err, out)
		}
	})
	answers := map[string]string{ // by a part of the command
		"set greeting": "^OK\n$", "sockets": `(?s)State +Shard.*LISTEN +all +0 +\[::\]:6380`,
	}
	if strings.Contains(section, "ping -c") {
		answers["ping"] = "1 received"
	}
	for line := range strings.SplitSeq(section, "\n") {
		code, ok := strings.CutPrefix(line, "    ")
		if !ok {
			continue
		}
		code, _, _ = strings.Cut(code, " #")
		if strings.Contains(code, "=eth0 ") { // an interface of the reader's
			continue
		}
		run := names.Replace(strings.TrimSuffix(strings.TrimSpace(code), " &"))
		if strings.HasSuffix(run, "redis") && strings.Contains(run, "TPA_DEV") {
			// sh takes variables before the command, as sudo does.
			serveQuickStart(t, shell("exec env "+run))
			continue
		}
		out, err := shell(run).CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", code, err, out)
		}
		for part, want := range answers {
			if strings.Contains(code, part) {
				delete(answers, part)
				if !regexp.MustCompile(want).Match(out) {
					t.Errorf("%s: got\n%swant %s", code, out, want)
				}
			}
		}
	}
	if len(answers) > 0 {
		t.Errorf("commands are missing: %v", answers)
	}
}

// serveQuickStart starts the server and waits for the lines that the page has.
func serveQuickStart(t *testing.T, c *exec.Cmd) {
	t.Helper()
	logs, err := c.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Process.Signal(os.Interrupt)
		if err := c.Wait(); err != nil {
			t.Errorf("the server ended by %v, want in peace after Ctrl-C", err)
		}
	})
	watchdog := time.AfterFunc(30*time.Second, func() { c.Process.Kill() })
	defer watchdog.Stop()
	var seen bytes.Buffer
	r := bufio.NewReader(logs)
	for !strings.Contains(seen.String(), "serving [::]:6380") {
		line, err := r.ReadString('\n')
		seen.WriteString(line)
		if err != nil {
			t.Fatalf("it ended: %v, %s", err, seen.String())
		}
	}
	go io.Copy(io.Discard, r)
	if want := `accelerating device=veth0 driver=veth mode="packet socket"`; !strings.Contains(seen.String(), want) {
		t.Errorf("it logged\n%swant %s", seen.String(), want)
	}
}

// TestQuickStartMemif runs the commands of docs/quickstart.md that need no hardware: the
// server, the client, the tools that look into it, and the comparison, which is made
// shorter.
func TestQuickStartMemif(t *testing.T) {
	if transport.DPDKVersion() == "none" {
		t.Skip("this test was built without DPDK")
	}
	needTwoCPUs(t)
	_, section, _ := strings.Cut(pages(t)["docs/quickstart.md"], "## 1. No hardware")
	section, _, ok := strings.Cut(section, "\n## ")
	if !ok {
		t.Fatal("docs/quickstart.md has no section about memif")
	}
	section = strings.ReplaceAll(section, "/tmp/tpa.sock", filepath.Join(t.TempDir(), "tpa.sock"))
	var server *exec.Cmd
	wants := map[string]string{ // what commands print, in this order
		"shards": `(?s)Shard +CPU +Busy.*\n0 +floats`, "sockets": `(?s)LISTEN +all .*ESTABLISHED .*10\.0\.0\.2:6379 +10\.0\.0\.1:`,
		"stats": `(?s)conns\.read_bytes +\d+.*tcp\.passive_opens +50\n`, "compare": `(?s)requests/s .*p99`,
	}
	for line := range strings.SplitSeq(strings.ReplaceAll(section, "\\\n", " "), "\n") {
		code, ok := strings.CutPrefix(line, "    bin/tpa-bench ")
		if !ok {
			continue
		}
		args := words(code)
		switch name := args[0]; name {
		case "serve":
			server = running(t, "ready: resp on [::]:6379 (accel, net_memif0)", args...)
		case "run": // two minutes, while the tools look into the server
			if server == nil {
				t.Fatal("docs/quickstart.md has the client before the server")
			}
			running(t, "requests/s", args...)
		default:
			if name == "compare" {
				args = append(args, "--duration", "200ms", "--warmup", "50ms")
			}
			for i, a := range args {
				if a == "PID" {
					args[i] = fmt.Sprint(server.Process.Pid)
				}
			}
			if slices.Contains(args, "--watch") {
				running(t, "floats", args...)
				args = slices.DeleteFunc(args, func(a string) bool { return a == "--watch" })
			}
			b := start(t, args...)
			if status := b.status(t); status != 0 || !regexp.MustCompile(wants[name]).MatchString(b.stdout.String()) {
				t.Errorf("%s: exit status %d, and\n%s%swant %s", code, status, b.stdout.String(), b.stderr.String(), wants[name])
			}
			delete(wants, name)
		}
	}
	if len(wants) > 0 {
		t.Errorf("docs/quickstart.md lacks commands: %v", wants)
	}
}

// running starts the program and waits until it has printed something. The program is
// interrupted at the end of the test.
func running(t *testing.T, printed string, args ...string) *exec.Cmd {
	t.Helper()
	c := exec.Command(os.Args[0], args...)
	out := watched{written: make(chan struct{}, 1)}
	c.Env = append(os.Environ(), "TPA_TEST_BENCH_MAIN=1")
	c.Stdout, c.Stderr = &out, &out
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- c.Wait() }()
	t.Cleanup(func() {
		c.Process.Signal(os.Interrupt)
		<-ended
	})
	watchdog := time.AfterFunc(time.Minute, func() { c.Process.Kill() })
	defer watchdog.Stop()
	for !strings.Contains(out.String(), printed) {
		select {
		case <-out.written:
		case err := <-ended:
			ended <- err
			t.Fatalf("%q ended, %v, and had printed %q, want %q", args, err, out.String(), printed)
		}
	}
	return c
}

// TestCurl asks the debug socket by the commands that docs/observability.md has for curl.
func TestCurl(t *testing.T) {
	_, socket := program(t)
	if _, err := exec.LookPath("curl"); err != nil {
		t.Skip("no curl")
	}
	page := pages(t)["docs/observability.md"]
	n := 0
	for _, m := range regexp.MustCompile("`(curl --unix-socket /run/tpa/PID.sock [^`]+)`").FindAllStringSubmatch(page, -1) {
		n++
		out, err := exec.CommandContext(t.Context(), "sh", "-c", strings.Replace(m[1], "/run/tpa/PID.sock", socket, 1)+" -s --fail").Output()
		var s accel.Status
		if err != nil || strings.Contains(m[1], "status.json") && (json.Unmarshal(out, &s) != nil || len(s.Conns) != 2) {
			t.Errorf("%s: %v\n%.200s", m[1], errors.Join(err), out)
		}
	}
	if n != 2 {
		t.Errorf("%d commands of curl, want 2", n)
	}
}
