package conformance

import (
	"os"
	"strings"
	"testing"
)

// TestDocs checks that users are told of every difference, and of no other.
func TestDocs(t *testing.T) {
	b, err := os.ReadFile("../../docs/compat.md")
	if err != nil {
		t.Fatal(err)
	}
	docs := string(b)
	known := map[string]bool{}
	for _, p := range Probes() {
		if known[p.Name] {
			t.Errorf("there are two probes named %s", p.Name)
		}
		known[p.Name] = true
		if p.Differs != "" && !(strings.Contains(docs, "| `"+p.Name+"` |") && strings.Contains(docs, p.Differs)) {
			t.Errorf("docs/compat.md does not say that %s differs: %s", p.Name, p.Differs)
		}
	}
	for line := range strings.Lines(docs) {
		name, ok := strings.CutPrefix(line, "| `")
		name, _, _ = strings.Cut(name, "`")
		if ok && strings.Contains(name, "/") && !known[name] {
			t.Errorf("docs/compat.md tells of %s, which is no probe", name)
		}
	}
	if len(known) < 120 {
		t.Errorf("%d probes, want at least 120", len(known))
	}
}
