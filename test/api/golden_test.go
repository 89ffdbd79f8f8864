package api

import (
	"flag"
	"fmt"
	"go/types"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the API that is into testdata")

// TestGolden compares the exported API with what is written down, one file a
// package.
func TestGolden(t *testing.T) {
	root := "testdata"
	want := map[string]bool{}
	for _, p := range load(t) {
		name := filepath.Join(root, filepath.FromSlash(strings.TrimPrefix(p.Path(), module))+".txt")
		want[name] = true
		got := describe(p)
		if *update {
			if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(name, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		golden, err := os.ReadFile(name)
		if err != nil {
			t.Errorf("%v; go test ./test/api -update writes it", err)
		} else if diff := cmp.Diff(strings.Split(string(golden), "\n"), strings.Split(got, "\n")); diff != "" {
			t.Errorf("the API of %s changed; if that is meant, go test ./test/api -update (-golden +got):\n%s", p.Path(), diff)
		}
	}
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || want[name] {
			return err
		}
		if *update {
			return os.Remove(name)
		}
		t.Errorf("%s is of a package that is gone; go test ./test/api -update removes it", name)
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// describe returns one line for all that a package exports, sorted.
func describe(p *types.Package) string {
	qualify := func(other *types.Package) string {
		if other == p {
			return ""
		}
		if local, ok := strings.CutPrefix(other.Path(), module); ok {
			return "tpa/" + local
		}
		return other.Path()
	}
	var lines []string
	add := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }
	for _, name := range p.Scope().Names() {
		switch o := p.Scope().Lookup(name).(type) {
		case *types.Const:
			if o.Exported() {
				add("const %s %s = %s", name, types.TypeString(o.Type(), qualify), o.Val())
			}
		case *types.Var, *types.Func:
			if o.Exported() {
				add("%s", types.ObjectString(o, qualify))
			}
		case *types.TypeName:
			if !o.Exported() {
				continue
			}
			if o.IsAlias() {
				add("%s", types.ObjectString(o, qualify))
				continue
			}
			kind := types.TypeString(o.Type().Underlying(), qualify)
			switch u := o.Type().Underlying().(type) {
			case *types.Struct:
				kind = "struct"
			case *types.Interface:
				kind = "interface"
				if !u.IsMethodSet() {
					kind = types.TypeString(u, qualify)
				}
			}
			parameters := ""
			if n := o.Type().(*types.Named); n.TypeParams().Len() > 0 {
				parameters = types.TypeString(n, qualify)
				parameters = parameters[strings.IndexByte(parameters, '['):]
			}
			add("type %s%s %s", name, parameters, kind)
			for _, m := range members(o.Type()) {
				switch {
				case m.embedded:
					add("type %s: embeds %s", name, types.TypeString(m.obj.Type(), qualify))
				case m.Selection == nil:
					add("type %s: field %s %s", name, m.obj.Name(), types.TypeString(m.obj.Type(), qualify))
				default:
					receiver := "method "
					if _, ok := o.Type().Underlying().(*types.Interface); !ok {
						receiver = "func (" + name + ") "
						if types.NewMethodSet(o.Type()).Lookup(p, m.obj.Name()) == nil {
							receiver = "func (*" + name + ") "
						}
					}
					signature := strings.TrimPrefix(types.TypeString(m.Type(), qualify), "func")
					add("type %s: %s%s%s", name, receiver, m.obj.Name(), signature)
				}
			}
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n") + "\n"
}
