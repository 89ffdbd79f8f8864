package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"go/importer"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
)

const module = "github.com/gotpa/tpa/"

// notPublic matches the packages of this module that users do not import.
// link/dpdk/flowtest is the C half of tests.
var notPublic = regexp.MustCompile(`(^|/)internal(/|$)|^(cmd|examples|test|tools)/|^link/dpdk/flowtest$`)

// load returns the public packages as the compiler sees them.
func load(t *testing.T) []*types.Package {
	t.Helper()
	cmd := exec.Command("go", "list", "-export", "-deps", "-json=ImportPath,Name,Export", "./...")
	cmd.Dir = "../.."
	cmd.Env = append(os.Environ(), "GOOS=linux")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %v\n%s", cmd, err, &stderr)
	}
	exports := map[string]string{}
	var public []string
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p struct{ ImportPath, Name, Export string }
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		exports[p.ImportPath] = p.Export
		if local, ok := strings.CutPrefix(p.ImportPath, module); ok && p.Name != "main" && !notPublic.MatchString(local) {
			public = append(public, p.ImportPath)
		}
	}
	imp := importer.ForCompiler(token.NewFileSet(), "gc", func(path string) (io.ReadCloser, error) {
		if exports[path] == "" {
			return nil, fmt.Errorf("go list knows no export data of %s", path)
		}
		return os.Open(exports[path])
	})
	var all []*types.Package
	for _, path := range public {
		p, err := imp.Import(path)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	if len(all) == 0 {
		t.Fatal("no public packages")
	}
	return all
}

// A member is an exported field or method of a type, or what a struct embeds.
type member struct {
	*types.Selection
	obj      types.Object
	embedded bool
}

// members returns what users of a type can name: its exported fields and
// methods, those too that an embedded type without an exported name brings in.
func members(t types.Type) (all []member) {
	if s, ok := t.Underlying().(*types.Struct); ok {
		all = fields(s, map[*types.Struct]bool{})
	}
	methods := types.NewMethodSet(t)
	if _, ok := t.Underlying().(*types.Interface); !ok {
		methods = types.NewMethodSet(types.NewPointer(t))
	}
	for m := range methods.Methods() {
		if m.Obj().Exported() && !byExportedField(t, m) {
			all = append(all, member{Selection: m, obj: m.Obj()})
		}
	}
	return all
}

func fields(s *types.Struct, seen map[*types.Struct]bool) (all []member) {
	if seen[s] {
		return nil
	}
	seen[s] = true
	for f := range s.Fields() {
		if f.Exported() {
			all = append(all, member{obj: f, embedded: f.Embedded()})
		} else if f.Embedded() {
			t := f.Type()
			if p, ok := t.Underlying().(*types.Pointer); ok {
				t = p.Elem()
			}
			if inner, ok := t.Underlying().(*types.Struct); ok {
				all = append(all, fields(inner, seen)...)
			}
		}
	}
	return all
}

// byExportedField tells whether a method is that of an embedded field with an
// exported name: the field says it all.
func byExportedField(t types.Type, m *types.Selection) bool {
	s, ok := t.Underlying().(*types.Struct)
	return ok && len(m.Index()) > 1 && s.Field(m.Index()[0]).Exported()
}
