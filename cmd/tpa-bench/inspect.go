package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/gotpa/tpa/accel"
)

// A target is a running program that the inspecting commands ask.
type target struct {
	pid   int
	addr  string
	watch time.Duration
	json  bool
}

const targetHelp = `The program is found by its debug socket: without flags the one that TPA_SOCKET
names, or the only one that runs; else the one of --pid, or the one at --addr,
which is the path of a socket or the address of a page that accel/debug serves:
http://127.0.0.1:6060/debug/tpa/.`

func (t *target) add(cmd *cobra.Command) {
	f := cmd.Flags()
	f.IntVar(&t.pid, "pid", 0, "ask the process `PID`")
	f.StringVar(&t.addr, "addr", "", "ask the program at `ADDR`, a socket or a URL")
	f.DurationVarP(&t.watch, "watch", "w", 0, "show it anew every `INTERVAL`, with what changed")
	f.BoolVar(&t.json, "json", false, "print JSON")
	f.Lookup("watch").NoOptDefVal = "1s"
	cmd.Args = noArgs
	cmd.Long += "\n\n" + targetHelp
}

// client returns an HTTP client and the URL below which it finds the pages.
func (t *target) client() (*http.Client, string, error) {
	if strings.Contains(t.addr, "://") {
		u, err := url.Parse(t.addr)
		if err != nil {
			return nil, "", usageError{err}
		}
		return &http.Client{Timeout: 10 * time.Second}, strings.TrimSuffix(u.String(), "/") + "/", nil
	}
	path := t.addr
	if path == "" && t.pid == 0 && os.Getenv("TPA_SOCKET") != "off" {
		path = os.Getenv("TPA_SOCKET")
	}
	if path == "" {
		found, err := sockets(t.pid)
		if err != nil {
			return nil, "", err
		}
		path = found
	}
	return &http.Client{
		Timeout: 10 * time.Second,
		Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		}},
	}, "http://tpa/", nil
}

// sockets returns the debug socket of a process, or of the only one there is
// when pid is 0.
func sockets(pid int) (string, error) {
	var found []string
	for _, dir := range socketDirs() {
		entries, err := os.ReadDir(dir)
		if err != nil {
			continue
		}
		for _, e := range entries {
			stem, ok := strings.CutSuffix(e.Name(), ".sock")
			number, _, _ := strings.Cut(stem, "-")
			if !ok || e.Type() != fs.ModeSocket || pid != 0 && number != strconv.Itoa(pid) {
				continue
			}
			path := filepath.Join(dir, e.Name())
			c, err := net.DialTimeout("unix", path, time.Second)
			if err != nil {
				continue // left by a process that died
			}
			c.Close()
			found = append(found, path)
		}
	}
	switch {
	case len(found) == 0 && pid != 0:
		return "", fmt.Errorf("process %d has no debug socket that this user may use: it must use accel, without TPA_SOCKET=off, as the same user (or run this as root)", pid)
	case len(found) == 0:
		return "", errors.New("no running program with a debug socket that this user may use: start one, or name it with --addr")
	case len(found) > 1:
		return "", usageError{fmt.Errorf("several programs run; choose one with --pid or --addr:\n  %s", strings.Join(named(found), "\n  "))}
	}
	return found[0], nil
}

// named puts the names of programs before their sockets, which are called by the
// process.
func named(sockets []string) []string {
	var all []string
	for _, path := range sockets {
		number, _, _ := strings.Cut(strings.TrimSuffix(filepath.Base(path), ".sock"), "-")
		name := "?"
		if b, err := os.ReadFile("/proc/" + number + "/comm"); err == nil {
			name = strings.TrimSpace(string(b))
		}
		all = append(all, fmt.Sprintf("%s (pid %s): %s", name, number, path))
	}
	return all
}

// socketDirs are the places to look in: ours, and as root those of everybody.
func socketDirs() []string {
	dirs := accel.DebugSocketDirs()
	if os.Geteuid() == 0 {
		for _, pattern := range []string{"/run/user/*/tpa", filepath.Join(os.TempDir(), "tpa-*")} {
			more, _ := filepath.Glob(pattern)
			dirs = append(dirs, more...)
		}
	}
	slices.Sort(dirs)
	return slices.Compact(dirs)
}

// get asks for one document.
func get(ctx context.Context, c *http.Client, url string) ([]byte, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	return answerOf(c, r)
}

// answerOf sends a request and returns the answer, or what was wrong with it.
func answerOf(c *http.Client, r *http.Request) ([]byte, error) {
	resp, err := c.Do(r)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = refusal{r.URL.String(), resp.StatusCode, strings.TrimSpace(string(body))}
	}
	return body, err
}

// A refusal is an answer of a program that is not what was asked for.
type refusal struct {
	url    string
	status int
	reason string
}

func (r refusal) Error() string {
	return fmt.Sprintf("%s: %d %s: %s", r.url, r.status, http.StatusText(r.status), r.reason)
}

// show prints what is made of one status after the other. The one before is nil
// for the first.
func (t *target) show(cmd *cobra.Command, print func(w io.Writer, now, before *accel.Status) error) error {
	c, base, err := t.client()
	if err != nil {
		return err
	}
	ctx, out := cmd.Context(), cmd.OutOrStdout()
	var before *accel.Status
	for {
		body, err := get(ctx, c, base+"status.json")
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		if t.json {
			if _, err := out.Write(body); err != nil {
				return err
			}
		} else {
			now := new(accel.Status)
			if err := json.Unmarshal(body, now); err != nil {
				return err
			}
			if err := t.page(out, now, before, print); err != nil {
				return err
			}
			before = now
		}
		if t.watch <= 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(t.watch):
		}
	}
}

func (t *target) page(out io.Writer, now, before *accel.Status, print func(w io.Writer, now, before *accel.Status) error) error {
	if f, ok := out.(*os.File); t.watch > 0 && ok && term.IsTerminal(int(f.Fd())) {
		fmt.Fprint(out, "\x1b[H\x1b[2J") // home and clear
	}
	if t.watch > 0 {
		fmt.Fprintf(out, "%s  %s (pid %d)\n", now.Time.Format("15:04:05"), now.Program.Name, now.Program.PID)
	}
	if !now.Accelerated {
		_, err := fmt.Fprintf(out, "Not accelerated: %s. Connections go through the kernel; see ss.\n", now.Reason)
		return err
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	if err := print(w, now, before); err != nil {
		return err
	}
	return w.Flush()
}

// line writes the cells of a line.
func line(w io.Writer, cells ...any) {
	for i, c := range cells {
		if i > 0 {
			fmt.Fprint(w, "\t")
		}
		fmt.Fprint(w, c)
	}
	fmt.Fprintln(w)
}

// brief writes a number as people read it: 12345 as 12.3k.
func brief(f float64) string {
	for _, unit := range []string{"", "k", "M", "G", "T"} {
		if f < 1000 || unit == "T" {
			if unit == "" {
				return strconv.FormatFloat(f, 'f', 0, 64) + unit
			}
			return strconv.FormatFloat(f, 'f', 1, 64) + unit
		}
		f /= 1000
	}
	return ""
}

// span writes a duration with about three digits.
func span(d time.Duration) string {
	switch {
	case d == 0:
		return "-"
	case d < time.Millisecond:
		return d.Round(100 * time.Nanosecond).String()
	case d < time.Second:
		return d.Round(100 * time.Microsecond).String()
	case d < time.Minute:
		return d.Round(100 * time.Millisecond).String()
	}
	return d.Round(time.Second).String()
}
