package imports

import (
	"bytes"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "draw the packages in docs/internals.md anew")

// drawn is the part of docs/internals.md that TestDrawing writes.
var drawn = regexp.MustCompile(`(?s)(<!-- go test ./test/imports -update draws this -->\n).*?(<!-- end -->\n)`)

// TestDrawing compares the drawing of packages in docs/internals.md with what they
// import.
func TestDrawing(t *testing.T) {
	name := filepath.Join(root(t), "docs", "internals.md")
	page, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if !drawn.Match(page) {
		t.Fatalf("%s has no place for the drawing, between the lines that %v matches", name, drawn)
	}
	want := drawn.ReplaceAll(page, []byte("${1}"+draw(production(t))+"${2}"))
	if *update {
		if err := os.WriteFile(name, want, 0o644); err != nil {
			t.Fatal(err)
		}
	} else if !bytes.Equal(page, want) {
		t.Errorf("the drawing in %s is out of date; go test ./test/imports -update (-page +packages):\n%s", name,
			cmp.Diff(drawn.FindString(string(page)), drawn.FindString(string(want))))
	}
}

// public matches the packages from which a drawing starts; it reaches what they
// need, with or without DPDK. cmd, examples and tests are no part of it.
var public = regexp.MustCompile(`^(accel|link|metrics|net)(/|$)`)

var hidden = regexp.MustCompile(`(^|/)internal/|^metrics/dashboards|^link/dpdk/flowtest$`)

// A graph says which packages of this module a package imports.
type graph map[string]map[string]bool

// production returns the graph of the packages that programs are made of.
func production(t *testing.T) graph {
	t.Helper()
	all := graph{}
	for _, tags := range []string{"", "dpdk"} {
		for _, p := range list(t, tags) {
			from := strings.TrimPrefix(p.ImportPath, module+"/")
			if all[from] == nil {
				all[from] = map[string]bool{}
			}
			for _, i := range p.Imports {
				if to, ok := strings.CutPrefix(i, module+"/"); ok {
					all[from][to] = true
				}
			}
		}
	}
	part := graph{}
	var reach func(string)
	reach = func(from string) {
		if part[from] == nil {
			part[from] = all[from]
			for to := range all[from] {
				reach(to)
			}
		}
	}
	for from := range all {
		if public.MatchString(from) && !hidden.MatchString(from) {
			reach(from)
		}
	}
	return part
}

// leads tells whether there is a way between two packages.
func (g graph) leads(from, to string) bool {
	for next := range g[from] {
		if next == to || g.leads(next, to) {
			return true
		}
	}
	return false
}

// reduced returns the graph without the arrows that a longer path says anyway.
func (g graph) reduced() graph {
	r := graph{}
	for from, all := range g {
		r[from] = map[string]bool{}
		for to := range all {
			longer := false
			for other := range all {
				longer = longer || other != to && g.leads(other, to)
			}
			if !longer {
				r[from][to] = true
			}
		}
	}
	return r
}

// draw returns a graph in Mermaid's language, a box for each package. What users
// cannot import has round corners.
func draw(g graph) string {
	var b strings.Builder
	id := func(name string) string { return strings.ReplaceAll(name, "/", "_") }
	fmt.Fprint(&b, "```mermaid\ngraph TD\n")
	names := slices.Sorted(maps.Keys(g))
	for _, name := range names {
		if hidden.MatchString(name) {
			fmt.Fprintf(&b, "  %s(%s)\n", id(name), name)
		} else {
			fmt.Fprintf(&b, "  %s[%s]\n", id(name), name)
		}
	}
	r := g.reduced()
	for _, from := range names {
		var to []string
		for _, name := range slices.Sorted(maps.Keys(r[from])) {
			to = append(to, id(name))
		}
		if len(to) > 0 {
			fmt.Fprintf(&b, "  %s --> %s\n", id(from), strings.Join(to, " & "))
		}
	}
	fmt.Fprint(&b, "```\n")
	return b.String()
}

func TestReduced(t *testing.T) {
	set := func(names ...string) map[string]bool {
		m := map[string]bool{}
		for _, n := range names {
			m[n] = true
		}
		return m
	}
	g := graph{"a": set("b", "c", "d"), "b": set("d"), "c": set(), "d": set("e"), "e": set()}
	want := graph{"a": set("b", "c"), "b": set("d"), "c": set(), "d": set("e"), "e": set()}
	if diff := cmp.Diff(want, g.reduced()); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}
