// Package packaging checks the files in this folder, as far as a machine can
// without a registry or a cluster. Its module is its own, so that what checks them
// is no dependency of tpa's users.
package packaging

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/cli"
	"golang.org/x/mod/module"
	"golang.org/x/mod/sumdb/dirhash"
	"golang.org/x/mod/zip"
	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/yaml"
	strict "sigs.k8s.io/yaml"
)

// What AF_XDP needs, without CAP_ and sorted. locked is added where the limit of
// locked memory cannot be set.
var (
	sharing = []string{"BPF", "NET_ADMIN", "NET_RAW", "PERFMON"}
	locked  = []string{"BPF", "IPC_LOCK", "NET_ADMIN", "NET_RAW", "PERFMON"}
)

func read(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// want checks a set of capabilities, in any order.
func want(t *testing.T, where string, got, want []string) {
	t.Helper()
	got = slices.Sorted(slices.Values(got))
	for i := range got {
		got[i] = strings.TrimPrefix(strings.ToUpper(got[i]), "CAP_")
	}
	if !slices.Equal(got, want) {
		t.Errorf("%s: capabilities %v, want %v", where, got, want)
	}
}

// TestKubernetes decodes each manifest into the API's types, where an unknown
// field is an error, and checks what its containers may do.
func TestKubernetes(t *testing.T) {
	for name, capabilities := range map[string][]string{"hostnetwork": locked, "multus": locked, "dpdk": {"IPC_LOCK"}} {
		t.Run(name, func(t *testing.T) {
			d := yaml.NewYAMLReader(bufio.NewReader(strings.NewReader(read(t, filepath.Join("kubernetes", name+".yaml")))))
			pods := 0
			for {
				doc, err := d.Read()
				if err == io.EOF {
					break
				}
				if err != nil {
					t.Fatal(err)
				}
				if spec := decode(t, doc); spec != nil {
					pods++
					checkPod(t, spec, capabilities)
				}
			}
			if pods != 1 {
				t.Errorf("%d pods, want 1", pods)
			}
		})
	}
}

// attachment is Multus's NetworkAttachmentDefinition.
type attachment struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Metadata   struct {
		Name string `json:"name"`
	} `json:"metadata"`
	Spec struct {
		Config string `json:"config"`
	} `json:"spec"`
}

// decode returns the pod of a document, nil where there is none.
func decode(t *testing.T, doc []byte) *core.PodSpec {
	t.Helper()
	var head struct {
		APIVersion string `json:"apiVersion"`
		Kind       string `json:"kind"`
	}
	into := func(v any) {
		t.Helper()
		if err := strict.UnmarshalStrict(doc, v); err != nil {
			t.Fatal(err)
		}
	}
	if err := strict.Unmarshal(doc, &head); err != nil {
		t.Fatal(err)
	}
	switch head.APIVersion + " " + head.Kind {
	case "v1 Pod":
		var p core.Pod
		into(&p)
		return &p.Spec
	case "apps/v1 DaemonSet":
		var s apps.DaemonSet
		into(&s)
		for k, v := range s.Spec.Selector.MatchLabels {
			if s.Spec.Template.Labels[k] != v {
				t.Errorf("the selector wants %s=%s, which the template does not have", k, v)
			}
		}
		return &s.Spec.Template.Spec
	case "k8s.cni.cncf.io/v1 NetworkAttachmentDefinition":
		var a attachment
		into(&a)
		var config struct{ CNIVersion, Name, Type string }
		if err := json.Unmarshal([]byte(a.Spec.Config), &config); err != nil || config.CNIVersion == "" || config.Type == "" {
			t.Errorf("config of %s is %+v, %v", a.Metadata.Name, config, err)
		}
		return nil
	}
	t.Fatalf("%s %s: a kind that this test does not know", head.APIVersion, head.Kind)
	return nil
}

func checkPod(t *testing.T, spec *core.PodSpec, capabilities []string) {
	t.Helper()
	for _, c := range spec.Containers {
		s := c.SecurityContext
		if s == nil || s.Capabilities == nil || !slices.Equal(s.Capabilities.Drop, []core.Capability{"ALL"}) {
			t.Fatalf("container %s does not drop all capabilities", c.Name)
		}
		var add []string
		for _, a := range s.Capabilities.Add {
			add = append(add, string(a))
		}
		want(t, c.Name, add, capabilities)
		if s.Privileged != nil || s.AllowPrivilegeEscalation == nil || *s.AllowPrivilegeEscalation || s.ReadOnlyRootFilesystem == nil || !*s.ReadOnlyRootFilesystem {
			t.Errorf("container %s: want no privileges, no escalation and a read-only root", c.Name)
		}
		// The kubelet gives processors to itself only to a pod of class Guaranteed with
		// whole ones.
		for name, request := range c.Resources.Requests {
			if limit := c.Resources.Limits[name]; limit.Cmp(request) != 0 {
				t.Errorf("container %s: %s has the request %v and the limit %v", c.Name, name, &request, &limit)
			}
		}
		if cpu := c.Resources.Limits.Cpu(); cpu.Cmp(*resource.NewQuantity(cpu.Value(), resource.DecimalSI)) != 0 || cpu.IsZero() {
			t.Errorf("container %s: %v processors, want a whole number", c.Name, cpu)
		}
		for _, m := range c.VolumeMounts {
			if !slices.ContainsFunc(spec.Volumes, func(v core.Volume) bool { return v.Name == m.Name }) {
				t.Errorf("container %s mounts %s, which is no volume", c.Name, m.Name)
			}
		}
	}
}

// TestCompose loads the file by compose's own library, with its schema.
func TestCompose(t *testing.T) {
	o, err := cli.NewProjectOptions([]string{"container/compose.yaml"}, cli.WithName("tpa"), cli.WithEnv([]string{"TPA_DEV=eth7"}))
	if err != nil {
		t.Fatal(err)
	}
	p, err := o.LoadProject(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	s, err := p.GetService("redis")
	if err != nil {
		t.Fatal(err)
	}
	want(t, "compose", s.CapAdd, sharing)
	if !slices.Equal(s.CapDrop, []string{"ALL"}) || s.Privileged || !s.ReadOnly {
		t.Errorf("cap_drop %v, privileged %v, read_only %v", s.CapDrop, s.Privileged, s.ReadOnly)
	}
	if dev := s.Environment["TPA_DEV"]; dev == nil || *dev != "eth7" {
		t.Errorf("TPA_DEV is %v, want what the caller says", dev)
	}
	if _, err := os.Stat(filepath.Join(s.Build.Context, s.Build.Dockerfile)); err != nil {
		t.Error(err)
	}
	if u := s.Ulimits["memlock"]; u == nil || u.Single != -1 {
		t.Errorf("ulimits %v, want no limit of locked memory", s.Ulimits)
	}
}

// TestUnit has systemd read the unit, with a program that exists, and rates it.
func TestUnit(t *testing.T) {
	unit := read(t, "systemd/tpa-redis.service")
	for _, setting := range []string{"AmbientCapabilities", "CapabilityBoundingSet"} {
		m := regexp.MustCompile(`(?m)^` + setting + `=(.*)$`).FindStringSubmatch(unit)
		if m == nil {
			t.Fatalf("the unit does not set %s", setting)
		}
		want(t, setting, strings.Fields(m[1]), sharing)
	}
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		t.Skip("no systemd-analyze: the package systemd has it")
	}
	copied := filepath.Join(t.TempDir(), "tpa-redis.service")
	if err := os.WriteFile(copied, []byte(strings.ReplaceAll(unit, "/usr/local/bin/tpa-redis", "/bin/true")), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("systemd-analyze", "verify", copied).CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
	// The scale is 0 to 10, here in tenths. What is left is the network and the
	// capabilities.
	if out, err := exec.Command("systemd-analyze", "security", "--offline=yes", "--threshold=30", copied).CombinedOutput(); err != nil {
		t.Errorf("systemd-analyze security: %v\n%s", err, out)
	}
}

// TestGuide checks that the user guide names the same capabilities.
func TestGuide(t *testing.T) {
	m := regexp.MustCompile(`setcap (cap_[a-z_,]+)\+ep`).FindStringSubmatch(read(t, "../docs/user-guide.md"))
	if m == nil {
		t.Fatal("the user guide has no setcap")
	}
	want(t, "user guide", strings.Split(m[1], ","), locked)
}

// TestInstall installs tpa-bench as users do, by its path and @latest, from a proxy of
// its own in files that has one version of this source: as a module, so without what
// other modules below it hold, and without version control.
func TestInstall(t *testing.T) {
	source := t.TempDir()
	files := exec.Command("sh", "-c", `git ls-files -z --cached --others --exclude-standard | tar --null -T - -c | tar -x -C "$0"`, source)
	files.Dir = ".."
	if out, err := files.CombinedOutput(); err != nil || len(out) > 0 {
		t.Skipf("no list of the files that are the source: %v\n%s", err, out)
	}
	hash, err := dirhash.HashDir(source, "", dirhash.Hash1)
	if err != nil {
		t.Fatal(err)
	}
	// The go command takes it that a version never changes.
	const path = "github.com/gotpa/tpa"
	version := fmt.Sprintf("v0.0.1-check.h%x", hash[3:11])
	proxy := t.TempDir()
	dir := filepath.Join(proxy, filepath.FromSlash(path), "@v")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	var archive bytes.Buffer
	if err := zip.CreateFromDir(&archive, module.Version{Path: path, Version: version}, source); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string][]byte{
		"list": []byte(version + "\n"), version + ".info": []byte(`{"Version": "` + version + `"}`),
		version + ".mod": []byte(read(t, "../go.mod")), version + ".zip": archive.Bytes(),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	bin := t.TempDir()
	run := func(name string, args ...string) string {
		t.Helper()
		cmd := exec.Command(name, args...)
		cmd.Dir = t.TempDir() // in no module
		cmd.Env = append(os.Environ(), "GOBIN="+bin, "GOFLAGS=-modcacherw -pgo=off", "CGO_ENABLED=0", "GONOSUMDB="+path, "GOWORK=off")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %v\n%s", cmd.Args, err, out)
		}
		return string(out)
	}
	upstream, cache := strings.TrimSpace(run("go", "env", "GOPROXY")), strings.TrimSpace(run("go", "env", "GOMODCACHE"))
	t.Setenv("GOPROXY", "file://"+proxy+","+upstream)
	t.Cleanup(func() { // the cache belongs to the user
		os.RemoveAll(filepath.Join(cache, filepath.FromSlash(path)+"@"+version))
		left, _ := filepath.Glob(filepath.Join(cache, "cache/download", filepath.FromSlash(path), "@v", version+".*"))
		for _, name := range left {
			os.Remove(name)
		}
	})
	run("go", "install", path+"/cmd/tpa-bench@latest")
	if got := run(filepath.Join(bin, "tpa-bench"), "version"); !strings.Contains(got, version) {
		t.Errorf("tpa-bench version says %q, want %s", got, version)
	}
}

// TestPackages builds the packages as `make packages` does and looks into them.
func TestPackages(t *testing.T) {
	out := t.TempDir()
	cmd := exec.Command("make", "--no-print-directory", "packages", "OUT="+out, "VERSION=v0.1.0")
	cmd.Dir = ".."
	if b, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", cmd.Args, err, b)
	}
	files := []string{"/usr/bin/tpa-bench", "/usr/share/man/man1/tpa-bench.1.gz", "/usr/share/man/man1/tpa-bench-doctor.1.gz",
		"/usr/share/bash-completion/completions/tpa-bench", "_tpa-bench", "/usr/share/doc/tpa-bench/copyright"}
	for _, p := range []struct{ ext, tool, list, version string }{
		{"deb", "dpkg-deb", "--contents", "--info"},
		{"rpm", "rpm", "-qlp", "-qip"},
	} {
		t.Run(p.ext, func(t *testing.T) {
			found, _ := filepath.Glob(filepath.Join(out, "*."+p.ext))
			if len(found) != 1 {
				t.Fatalf("found %v, want one package", found)
			}
			if _, err := exec.LookPath(p.tool); err != nil {
				t.Skip("no " + p.tool)
			}
			list, err := exec.Command(p.tool, p.list, found[0]).CombinedOutput()
			if err != nil {
				t.Fatalf("%v\n%s", err, list)
			}
			for _, f := range files {
				if !bytes.Contains(list, []byte(f)) {
					t.Errorf("no %s in\n%s", f, list)
				}
			}
			info, err := exec.Command(p.tool, p.version, found[0]).CombinedOutput()
			if err != nil || !regexp.MustCompile(`Version *: 0\.1\.0`).Match(info) {
				t.Errorf("want version 0.1.0: %v\n%s", err, info)
			}
		})
	}
	t.Run("pages", func(t *testing.T) {
		if _, err := exec.LookPath("man"); err != nil {
			t.Skip("no man: the package man-db has it")
		}
		pages, _ := filepath.Glob(filepath.Join(out, "package/man/*.1.gz"))
		if len(pages) == 0 {
			t.Fatal("no pages")
		}
		for _, page := range pages {
			cmd := exec.Command("man", "--warnings", "-l", "-E", "UTF-8", page)
			cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "MANPAGER=cat", "MANWIDTH=100")
			var stderr bytes.Buffer
			cmd.Stderr = &stderr
			if text, err := cmd.Output(); err != nil || stderr.Len() > 0 || !bytes.Contains(text, []byte("SYNOPSIS")) {
				t.Errorf("man %s: %v\n%s", filepath.Base(page), err, &stderr)
			}
		}
	})
	t.Run("completion", func(t *testing.T) {
		for _, shell := range []string{"bash", "zsh", "fish"} {
			script, _ := filepath.Glob(filepath.Join(out, "package/completion/*"))
			if _, err := exec.LookPath(shell); err != nil || len(script) != 3 {
				continue
			}
			name := map[string]string{"bash": "tpa-bench.bash", "zsh": "_tpa-bench", "fish": "tpa-bench.fish"}[shell]
			if b, err := exec.Command(shell, "-n", filepath.Join(out, "package/completion", name)).CombinedOutput(); err != nil {
				t.Errorf("%s -n: %v\n%s", shell, err, b)
			}
		}
	})
}
