package imports

import (
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	link    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading = regexp.MustCompile(`(?m)^#+ (.+)$`)
	code    = regexp.MustCompile("(?s)```.*?```")
	dropped = regexp.MustCompile(`[^\p{L}\p{N}_ -]`)
)

// anchors returns the names that a page's headings have for links.
func anchors(page []byte) map[string]bool {
	all := map[string]bool{}
	for _, m := range heading.FindAllSubmatch(code.ReplaceAll(page, nil), -1) {
		name := dropped.ReplaceAllString(strings.ToLower(string(m[1])), "")
		all[strings.ReplaceAll(name, " ", "-")] = true
	}
	return all
}

// TestLinks checks that links between documents, and from them to the source,
// lead somewhere.
func TestLinks(t *testing.T) {
	dir := root(t)
	files(t, func(name string, content []byte) {
		if path.Ext(name) != ".md" {
			return
		}
		for _, m := range link.FindAllSubmatch(content, -1) {
			target, anchor, _ := strings.Cut(string(m[1]), "#")
			if strings.Contains(target, "://") {
				continue
			}
			to := filepath.Join(dir, path.Dir(name), target)
			if target == "" {
				to = filepath.Join(dir, name)
			}
			if _, err := os.Stat(to); err != nil {
				t.Errorf("%s: %s leads nowhere", name, m[1])
			} else if page, err := os.ReadFile(to); anchor != "" && (err != nil || !anchors(page)[anchor]) {
				t.Errorf("%s: %s: there is no such heading", name, m[1])
			}
		}
	})
}
