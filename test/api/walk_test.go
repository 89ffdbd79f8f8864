package api

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"maps"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// fakes are the packages that the source of TestWalk imports.
type fakes map[string]*types.Package

func (f fakes) Import(path string) (*types.Package, error) {
	if p := f[path]; p != nil {
		return p, nil
	}
	return nil, fmt.Errorf("no package %s", path)
}

func check(t *testing.T, imports fakes, path, source string) *types.Package {
	t.Helper()
	files := token.NewFileSet()
	f, err := parser.ParseFile(files, "source.go", source, 0)
	if err != nil {
		t.Fatal(err)
	}
	p, err := (&types.Config{Importer: imports}).Check(path, files, []*ast.File{f}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestWalk makes sure that leaks are found wherever they are.
func TestWalk(t *testing.T) {
	imports := fakes{}
	for _, path := range []string{"gvisor.dev/gvisor/g", module + "internal/g", module + "link", "errors"} {
		imports[path] = check(t, nil, path, "package g; type T struct{ F int }")
	}
	for _, tt := range []struct {
		name, source string
		want         []string
	}{
		{"clean", `var v g.T; type u struct{ G g.T }; type A struct{ g g.T; E error; P *A }; func F(A) error { return nil }`, nil},
		{"variable", `var V map[string][]*g.T`, []string{"V"}},
		{"constant", `const C = 1`, nil},
		{"parameter", `func F(...func(chan g.T)) {}`, []string{"F"}},
		{"result", `func F() g.T { panic(0) }`, []string{"F"}},
		{"field", `type A struct{ G g.T }`, []string{"A.G"}},
		{"field of a field", `type A struct{ B struct{ G g.T } }`, []string{"A.B.G"}},
		{"embedded", `type A struct{ g.T }`, []string{"A.T"}},
		{"by what is embedded", `type b struct{ G g.T }; type A struct{ *b }`, []string{"A.G"}},
		{"method", `type A int; func (*A) M() g.T { panic(0) }`, []string{"A.M"}},
		{"method of what is embedded", `type b int; func (b) M(g.T) {}; type A struct{ b }`, []string{"A.M"}},
		{"interface", `type A interface{ M(g.T) }`, []string{"A.M"}},
		{"alias", `type A = g.T`, []string{"A"}},
		{"underlying", `type A []g.T`, []string{"A"}},
		{"type argument", `type L[E any] []E; func F(L[g.T]) {}`, []string{"F"}},
		{"constraint", `func F[E interface{ ~int; M(g.T) }](E) {}`, []string{"F.M"}},
		{"result without an exported name", `type a struct{}; func (a) M() g.T { panic(0) }; func F() *a { return nil }`, []string{"F.M"}},
	} {
		for path := range imports {
			w := walk{seen: map[types.Type]bool{}, leaks: map[string]string{}}
			p := check(t, imports, module+"accel", "package accel; import g \""+path+"\"; var _ g.T; "+tt.source)
			for _, name := range p.Scope().Names() {
				if o := p.Scope().Lookup(name); o.Exported() {
					w.object(name, o)
				}
			}
			want := tt.want
			if path == "errors" || path == module+"link" {
				want = nil // everybody may import these
			}
			if diff := cmp.Diff(want, slices.Sorted(maps.Keys(w.leaks))); diff != "" {
				t.Errorf("%s, %s: leaks (-want +got):\n%s", tt.name, path, diff)
			}
		}
	}
}
