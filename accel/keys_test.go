package accel_test

import (
	"flag"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/gotpa/tpa/accel"
)

var update = flag.Bool("update", false, "write the keys of status.json that are into testdata")

// TestKeys compares the keys of status.json with those written down, which tools
// read: a new name for one is no slip of the pen.
func TestKeys(t *testing.T) {
	const file = "testdata/status.json.keys"
	var got []string
	var walk func(name string, of reflect.Type)
	walk = func(name string, of reflect.Type) {
		switch of.Kind() {
		case reflect.Pointer:
			walk(name, of.Elem())
			return
		case reflect.Slice, reflect.Array:
			walk(name+"[]", of.Elem())
			return
		}
		if of.Kind() != reflect.Struct || of == reflect.TypeFor[time.Time]() || of.PkgPath() != reflect.TypeFor[accel.Status]().PkgPath() {
			got = append(got, name+" "+of.String())
			return
		}
		for i := range of.NumField() {
			f := of.Field(i)
			key, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			if key == "" || key != strings.ToLower(key) {
				t.Errorf("%v.%s has the key %q, want one in snake case", of, f.Name, key)
			}
			if f.Type == reflect.TypeFor[time.Duration]() && !strings.HasSuffix(key, "_ns") {
				t.Errorf("%v.%s has the key %q, want one that ends in _ns", of, f.Name, key)
			}
			walk(strings.TrimPrefix(name+"."+key, "."), f.Type)
		}
	}
	walk("", reflect.TypeFor[accel.Status]())
	if *update {
		if err := os.WriteFile(file, []byte(strings.Join(got, "\n")+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(strings.Split(strings.TrimSpace(string(want)), "\n"), got); diff != "" {
		t.Errorf("keys changed; if that is meant, go test ./accel -run TestKeys -update, and say so in CHANGELOG.md (-golden +got):\n%s", diff)
	}
}
