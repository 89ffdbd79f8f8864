package docs

import (
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// TestSharingTable checks that the table of docs/sharing.md has each of its rules, and that
// the tests that it names are there.
func TestSharingTable(t *testing.T) {
	page, err := os.ReadFile("../../docs/sharing.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, found := strings.Cut(string(page), "## What the kernel does on this host, and what we do\n")
	table, _, ends := strings.Cut(table, "\n## ")
	if !found || !ends {
		t.Fatal("docs/sharing.md has no such table")
	}
	name := regexp.MustCompile("`(Test\\w+)`(?: in `([\\w/]+)`)?")
	rule := 0
	for line := range strings.Lines(table) {
		cells := strings.Split(line, "|")
		if len(cells) != 7 || strings.HasPrefix(line, "|---") || strings.TrimSpace(cells[5]) == "Test" {
			continue
		}
		if n := strings.TrimSpace(cells[1]); n != "" {
			rule++
			if n != strconv.Itoa(rule) {
				t.Errorf("rule %s, want %d", n, rule)
			}
		}
		tests := name.FindAllStringSubmatch(cells[5], -1)
		if len(tests) == 0 {
			t.Errorf("no test: %s", line)
		}
		for _, m := range tests {
			in := m[2]
			if in == "" {
				in = "test/coexistence"
			}
			if !hasTest(t, in, m[1]) {
				t.Errorf("%s has no %s", in, m[1])
			}
		}
	}
	if rule != 11 {
		t.Errorf("%d rules, want 11", rule)
	}
}

// hasTest tells whether a package of the repository has a test.
func hasTest(t *testing.T, in, name string) bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("../..", in, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(text), "\nfunc "+name+"(") {
			return true
		}
	}
	return false
}
