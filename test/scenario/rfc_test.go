package scenario

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// appendixB has the requirements of RFC 9293: their kinds, and how many there are.
var appendixB = map[string]int{"MUST": 69, "SHLD": 31, "MAY": 18, "REC": 1}

var (
	row  = regexp.MustCompile(`^\| ((?:MUST|SHLD|MAY|REC)-\d+|RFC \d+) \| ([^|]+) \| ([^|]+) \|$`)
	cite = regexp.MustCompile("`([^`]+)`")
	why  = regexp.MustCompile(`^(No|IP layer|By construction): `)
)

// TestStandards checks docs/rfc.md: each requirement of RFC 9293 is there, and has
// tests that exist, or says why not.
func TestStandards(t *testing.T) {
	const root = "../.."
	text, err := os.ReadFile(filepath.Join(root, "docs/rfc.md"))
	if err != nil {
		t.Fatal(err)
	}
	titles := map[string]bool{}
	for _, sc := range scenarios {
		titles[sc.title()] = true
	}
	there := map[string]bool{}
	for line := range strings.Lines(string(text)) {
		m := row.FindStringSubmatch(strings.TrimSpace(line))
		if m == nil {
			continue
		}
		id, shown := m[1], m[3]
		if there[id] {
			t.Errorf("%s is there twice", id)
		}
		there[id] = true
		tests := 0
		for _, c := range cite.FindAllStringSubmatch(shown, -1) {
			name := c[1]
			if pkg, test, ok := strings.Cut(name, " Test"); ok {
				if !declares(t, filepath.Join(root, pkg), "Test"+test) {
					t.Errorf("%s: there is no %s", id, name)
				}
			} else if strings.HasPrefix(name, "RFC ") {
				if !titles[name] {
					t.Errorf("%s: there is no scenario %q", id, name)
				}
			} else {
				continue
			}
			tests++
		}
		if tests == 0 && !why.MatchString(shown) {
			t.Errorf("%s has neither a test nor a reason", id)
		}
	}
	for kind, n := range appendixB {
		for i := range n {
			if id := fmt.Sprintf("%s-%d", kind, i+1); !there[id] {
				t.Errorf("%s is missing", id)
			}
		}
	}
}

// declares tells whether the tests of a package have one of a name.
func declares(t *testing.T, dir, test string) bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(b), "\nfunc "+test+"(t *testing.T)") {
			return true
		}
	}
	return false
}
