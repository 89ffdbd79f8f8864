package docs

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/gotpa/tpa/accel"
)

// TestSettings looks for environment variables that the pages name and that no program
// takes: accel refuses a variable that starts with TPA_ and is no setting.
func TestSettings(t *testing.T) {
	known := []string{"TPA_CONFIG"}
	for _, s := range accel.Settings() {
		known = append(known, s.Env)
	}
	pages := []string{"../../README.md"}
	for _, pattern := range []string{"../../docs/*.md", "../../docs/*/*.md"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		pages = append(pages, found...)
	}
	n := 0
	for _, page := range pages {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range regexp.MustCompile(`\bTPA_\w+=`).FindAllString(string(text), -1) {
			n++
			if name = strings.TrimSuffix(name, "="); !slices.Contains(known, name) && !strings.HasPrefix(name, "TPA_TEST_") {
				t.Errorf("%s sets %s, which is no setting", page, name)
			}
		}
	}
	if n < 20 {
		t.Errorf("%d settings found, there were more", n)
	}
}
