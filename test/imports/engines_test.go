package imports

import (
	"path"
	"regexp"
	"strings"
	"testing"
)

// namesEngine finds a word that says which TCP a shard has.
var namesEngine = regexp.MustCompile(`(?i)gvisor`)

// TestShardNamesNoEngine checks that internal/shard serves whatever engine it is given:
// gVisor stands in its imports, and where the engine is chosen.
func TestShardNamesNoEngine(t *testing.T) {
	const chosen = "gvisortcp.NewEngine(gvisortcp.Config{"
	choices := 0
	files(t, func(name string, content []byte) {
		if path.Dir(name) != "internal/shard" || path.Ext(name) != ".go" || strings.HasSuffix(name, "_test.go") {
			return
		}
		for i, line := range strings.Split(string(content), "\n") {
			switch text := strings.TrimSpace(line); {
			case !namesEngine.MatchString(text), strings.HasSuffix(text, `"`), text == `case "gvisor":`:
			case strings.Contains(text, chosen):
				choices++
			default:
				t.Errorf("%s:%d names an engine: %s", name, i+1, text)
			}
		}
	})
	if choices != 1 {
		t.Errorf("an engine is chosen by name %d times, want 1", choices)
	}
}
