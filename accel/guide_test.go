package accel_test

import (
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/gotpa/tpa/accel"
)

// TestGuide checks that docs/user-guide.md names each field of Config and each
// variable of ConfigFromEnv, and no others.
func TestGuide(t *testing.T) {
	guide, err := os.ReadFile("../docs/user-guide.md")
	if err != nil {
		t.Fatal(err)
	}
	source, err := os.ReadFile("config.go")
	if err != nil {
		t.Fatal(err)
	}
	var read []string
	for _, m := range regexp.MustCompile(`env\("(TPA_\w+)"`).FindAllSubmatch(source, -1) {
		read = append(read, string(m[1]))
	}
	told := regexp.MustCompile(`TPA_[A-Z_]*[A-Z]`).FindAllString(string(guide), -1)
	for _, v := range read {
		if !slices.Contains(told, v) {
			t.Errorf("the guide does not name %s", v)
		}
	}
	for _, v := range told {
		if !slices.Contains(read, v) {
			t.Errorf("the guide names %s, which nothing reads", v)
		}
	}
	for _, f := range fields(reflect.TypeFor[accel.Config](), "") {
		if !strings.Contains(string(guide), "`"+f+"`") && !strings.Contains(string(guide), "`"+strings.TrimPrefix(f, "Limits.")+"`") {
			t.Errorf("the guide does not name Config.%s", f)
		}
	}
}

// fields returns the names of a struct's fields, those of structs within it as
// "TCP.Engine".
func fields(s reflect.Type, within string) (names []string) {
	for f := range s.NumField() {
		f := s.Field(f)
		switch {
		case !f.IsExported():
		case f.Type.Kind() == reflect.Struct:
			names = append(names, fields(f.Type, within+f.Name+".")...)
		default:
			names = append(names, within+f.Name)
		}
	}
	return names
}
