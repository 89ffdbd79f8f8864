package imports

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path"
	"regexp"
	"strings"
	"testing"
)

// needsLock finds a comment that says that a lock is held where the function is
// called, fileNeedsLock a file that says so of its methods.
var (
	needsLock     = regexp.MustCompile(`\b(mu|[a-z]+Mu)\b is held`)
	fileNeedsLock = regexp.MustCompile(`^The methods of this file\b[^.]*\bneed\b`)
)

// TestLockedNames checks that a function which needs a lock held shows it: its name
// ends in Locked, or the file says so of all its methods.
func TestLockedNames(t *testing.T) {
	found := 0
	files(t, func(name string, content []byte) {
		if path.Ext(name) != ".go" || strings.HasSuffix(name, "_test.go") {
			return
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, content, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			return
		}
		for _, c := range f.Comments {
			if fileNeedsLock.MatchString(c.Text()) {
				return
			}
		}
		for _, d := range f.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok || !needsLock.MatchString(fn.Doc.Text()) {
				continue
			}
			found++
			if !strings.HasSuffix(fn.Name.Name, "Locked") {
				t.Errorf("%s: %s needs a lock held: its name ends in Locked", name, fn.Name.Name)
			}
		}
	})
	if found < 10 {
		t.Errorf("found %d functions that need a lock held: the pattern fits no more", found)
	}
}
