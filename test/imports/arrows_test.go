package imports

import (
	"bytes"
	"encoding/json"
	"errors"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestArrows checks that the files of internal/shard stand in an order: none uses what
// is declared in a file that uses it, directly or through others.
func TestArrows(t *testing.T) {
	const dir = "internal/shard"
	arrows := fileArrows(t, "./"+dir)
	if len(arrows["shard.go"]) == 0 {
		t.Fatalf("shard.go uses no other file: %v", arrows)
	}
	// Whoever is below itself is in a circle.
	for from := range arrows {
		below := map[string]string{} // to who uses it
		todo := []string{from}
		for len(todo) > 0 {
			at := todo[0]
			todo = todo[1:]
			for to := range arrows[at] {
				if _, seen := below[to]; !seen {
					below[to] = at
					todo = append(todo, to)
				}
			}
		}
		if last, circle := below[from]; circle {
			chain := []string{last, from}
			for at := last; at != from; {
				at = below[at]
				chain = append([]string{at}, chain...)
			}
			t.Errorf("%s: files in a circle: %s (%s)", dir, strings.Join(chain, " → "), arrows[last][from])
		}
	}
}

// fileArrows returns, for each file of a package, the files that it uses something of,
// and one thing that it uses.
func fileArrows(t *testing.T, pkg string) map[string]map[string]string {
	t.Helper()
	cmd := exec.Command("go", "list", "-export", "-deps", "-json=ImportPath,Dir,GoFiles,Export", pkg)
	cmd.Dir = root(t)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	exports := map[string]string{}
	type listed struct {
		ImportPath, Dir, Export string
		GoFiles                 []string
	}
	var last listed // -deps puts the package itself last
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var l listed
		if err := dec.Decode(&l); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		exports[l.ImportPath], last = l.Export, l
	}
	fset := token.NewFileSet()
	var files []*ast.File
	for _, name := range last.GoFiles {
		f, err := parser.ParseFile(fset, filepath.Join(last.Dir, name), nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	info := &types.Info{Uses: map[*ast.Ident]types.Object{}}
	conf := types.Config{Importer: importer.ForCompiler(fset, "gc", func(path string) (io.ReadCloser, error) {
		return os.Open(exports[path])
	})}
	self, err := conf.Check(last.ImportPath, fset, files, info)
	if err != nil {
		t.Fatal(err)
	}
	arrows := map[string]map[string]string{}
	for _, name := range last.GoFiles {
		arrows[name] = map[string]string{}
	}
	file := func(p token.Pos) string { return filepath.Base(fset.Position(p).Filename) }
	for id, o := range info.Uses {
		if o.Pkg() != self {
			continue
		}
		if from, to := file(id.Pos()), file(o.Pos()); from != to && slices.Contains(last.GoFiles, to) {
			arrows[from][to] = id.Name
		}
	}
	return arrows
}
