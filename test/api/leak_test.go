package api

import (
	"fmt"
	"go/types"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
)

// exceptions holds the names that refer to what users cannot import, or should not
// have to, one a line; a name stands for what lies below it, too. The list only
// gets shorter: -update removes what is not needed any more, and adds nothing.
const exceptions = "exceptions.txt"

// TestNoLeaks checks that nothing that is exported refers to a type of an internal
// package or of gVisor: in its signature, or in the exported fields and methods of
// the types that it names.
func TestNoLeaks(t *testing.T) {
	content, err := os.ReadFile(exceptions)
	if err != nil {
		t.Fatal(err)
	}
	needed := map[string]bool{}
	for e := range strings.Lines(string(content)) {
		needed[strings.TrimSpace(e)] = false
	}
	for _, p := range load(t) {
		w := walk{seen: map[types.Type]bool{}, leaks: map[string]string{}}
		for _, name := range p.Scope().Names() {
			if o := p.Scope().Lookup(name); o.Exported() {
				w.object(strings.TrimPrefix(p.Path(), module)+"."+name, o)
			}
		}
		for _, place := range slices.Sorted(maps.Keys(w.leaks)) {
			excused := false
			for e := range needed {
				if place == e || strings.HasPrefix(place, e+".") {
					needed[e], excused = true, true
				}
			}
			if !excused {
				t.Errorf("%s refers to %s", place, w.leaks[place])
			}
		}
	}
	var left strings.Builder
	for _, e := range slices.Sorted(maps.Keys(needed)) {
		if needed[e] {
			fmt.Fprintln(&left, e)
		} else if !*update {
			t.Errorf("%s refers to nothing internal: go test ./test/api -update removes it from %s", e, exceptions)
		}
	}
	if *update {
		if err := os.WriteFile(exceptions, []byte(left.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// A walk goes through all that an exported name leads to.
type walk struct {
	seen  map[types.Type]bool
	leaks map[string]string // by place
}

func (w *walk) object(place string, o types.Object) {
	n, ok := o.(*types.TypeName)
	switch {
	case !ok:
		w.typ(place, o.Type())
	case n.IsAlias():
		w.typ(place, types.Unalias(n.Type()))
	default:
		w.seen[n.Type()] = true
		w.named(place, n.Type())
	}
}

// named looks at a type of ours: how it is made, and what it offers.
func (w *walk) named(place string, t types.Type) {
	switch u := t.Underlying().(type) {
	case *types.Struct, *types.Interface: // their members follow
	default:
		w.typ(place, u)
	}
	for _, m := range members(t) {
		if m.Selection != nil {
			w.typ(place+"."+m.obj.Name(), m.Type())
		} else {
			w.typ(place+"."+m.obj.Name(), m.obj.Type())
		}
	}
}

// typ looks at a type that is mentioned.
func (w *walk) typ(place string, t types.Type) {
	if a, ok := t.(*types.Alias); ok {
		t = types.Unalias(a)
	}
	switch t := t.(type) {
	case *types.Named:
		for a := range t.TypeArgs().Types() {
			w.typ(place, a)
		}
		p := t.Obj().Pkg()
		if p == nil {
			return // error
		}
		local, ours := strings.CutPrefix(p.Path(), module)
		switch {
		case ours && notPublic.MatchString(local), p.Path() == "gvisor.dev" || strings.HasPrefix(p.Path(), "gvisor.dev/"):
			w.leaks[place] = p.Path() + "." + t.Obj().Name()
		case ours && !t.Obj().Exported() && !w.seen[t]:
			w.seen[t] = true
			w.named(place, t) // has no name to find it by, but what it offers can be used
		}
	case *types.Pointer:
		w.typ(place, t.Elem())
	case *types.Slice:
		w.typ(place, t.Elem())
	case *types.Array:
		w.typ(place, t.Elem())
	case *types.Chan:
		w.typ(place, t.Elem())
	case *types.Map:
		w.typ(place, t.Key())
		w.typ(place, t.Elem())
	case *types.Signature:
		for p := range t.TypeParams().TypeParams() {
			w.typ(place, p.Constraint())
		}
		for v := range t.Params().Variables() {
			w.typ(place, v.Type())
		}
		for v := range t.Results().Variables() {
			w.typ(place, v.Type())
		}
	case *types.Struct:
		for _, m := range fields(t, map[*types.Struct]bool{}) {
			w.typ(place+"."+m.obj.Name(), m.obj.Type())
		}
	case *types.Interface:
		for m := range t.Methods() {
			w.typ(place+"."+m.Name(), m.Type())
		}
		for e := range t.EmbeddedTypes() {
			w.typ(place, e)
		}
	case *types.Union:
		for term := range t.Terms() {
			w.typ(place, term.Type())
		}
	}
}
