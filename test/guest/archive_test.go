package guest

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// A suite is a part of Debian's archives.
type suite struct {
	name, source string // source is what follows the host in sources.list
}

// archive is the host that sources name.
const archive = "http://deb.debian.org/"

var (
	bullseye  = suite{"bullseye", archive + "debian-security bullseye-security main"}
	bookworm  = suite{"bookworm", archive + "debian-security bookworm-security main"}
	backports = suite{"backports", archive + "debian bookworm-backports main"}
	sid       = suite{"sid", archive + "debian sid main"}
)

// fresh is how long lists and packages of the cache are taken as they are.
const fresh = 30 * 24 * time.Hour

// cacheDir is where packages are kept, unpacked.
func cacheDir() (string, error) {
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, "tpa-guest"), nil
}

// unpacked returns the folder that holds the contents of packages of a suite, and
// fetches them if it is not there or old. depends tells which of the packages that
// these depend on are wanted, too.
func (s suite) unpacked(ctx context.Context, name string, packages []string, depends func(string) bool) (string, error) {
	cache, err := cacheDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, name)
	st, err := os.Stat(dir)
	if err == nil && time.Since(st.ModTime()) < fresh {
		return dir, nil
	}
	if fetchErr := s.fetch(ctx, cache, dir, packages, depends); fetchErr != nil && err != nil {
		return "", fmt.Errorf("fetch %s from Debian's %s: %w", strings.Join(packages, ", "), s.name, fetchErr)
	}
	return dir, nil // the old one will do
}

func (s suite) fetch(ctx context.Context, cache, dir string, packages []string, depends func(string) bool) error {
	apt, err := s.configure(ctx, cache)
	if err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(cache, "fetch")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	wanted := map[string]bool{}
	for queue := packages; len(queue) > 0; queue = queue[1:] {
		p := queue[0]
		if wanted[p] {
			continue
		}
		wanted[p] = true
		if _, err := run(ctx, tmp, "apt-get", append(apt, "download", p)...); err != nil {
			return err
		}
		out, err := run(ctx, tmp, "apt-cache", append(apt, "depends", p)...)
		if err != nil {
			return err
		}
		for line := range strings.Lines(out) {
			if d, ok := strings.CutPrefix(strings.TrimSpace(line), "Depends: "); ok && depends(d) {
				queue = append(queue, d)
			}
		}
	}
	debs, err := filepath.Glob(filepath.Join(tmp, "*.deb"))
	if err != nil {
		return err
	}
	for _, deb := range debs {
		if _, err := run(ctx, tmp, "dpkg-deb", "-x", deb, "root"); err != nil {
			return err
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	now := time.Now()
	if err := os.Chtimes(filepath.Join(tmp, "root"), now, now); err != nil {
		return err
	}
	return os.Rename(filepath.Join(tmp, "root"), dir)
}

// configure makes apt's files for this suite alone, and reads the archive's list.
// It returns apt's arguments.
func (s suite) configure(ctx context.Context, cache string) ([]string, error) {
	dir := filepath.Join(cache, "apt", s.name)
	for _, sub := range []string{"lists/partial", "archives/partial"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return nil, err
		}
	}
	sources := filepath.Join(dir, "sources.list")
	line := "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] " + s.source + "\n"
	if err := os.WriteFile(sources, []byte(line), 0o644); err != nil {
		return nil, err
	}
	args := []string{
		"-qq", "-o", "Dir::Etc::sourcelist=" + sources, "-o", "Dir::Etc::sourceparts=/dev/null", "-o", "Dir::State::lists=" + dir + "/lists",
		"-o", "Dir::Cache=" + dir, "-o", "APT::Sandbox::User=root", "-o", "Acquire::Languages=none", "-o", "Acquire::Retries=2",
		"-o", "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false",
	}
	_, err := run(ctx, dir, "apt-get", append(args, "update")...)
	return args, err
}

// run returns what a command printed. Its errors hold the last of it.
func run(ctx context.Context, dir, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s: %w: %s", name, err, tail(stderr.String(), 400))
	}
	return string(out), nil
}

// tail returns the end of a text, n bytes at most.
func tail(s string, n int) string {
	s = strings.TrimSpace(s)
	return s[max(0, len(s)-n):]
}
