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

// settingsTable is the part of docs/user-guide.md that TestGuide writes.
var settingsTable = regexp.MustCompile(`(?s)(<!-- go test ./accel -run TestGuide -update writes this table -->\n).*?(<!-- end -->\n)`)

// TestGuide checks that the table of settings in docs/user-guide.md is that of
// accel.Settings, that the comment of ConfigFromEnv names each variable, and that the
// guide names each field of Config, and no variable that nothing reads.
func TestGuide(t *testing.T) {
	const name = "../docs/user-guide.md"
	guide, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	source, err := os.ReadFile("config.go")
	if err != nil {
		t.Fatal(err)
	}
	read := []string{"TPA_CONFIG"}
	table := "| Key in a file | Variable | Field of Config | Default | Values | What it is |\n|---|---|---|---|---|---|\n"
	code := func(s string) string {
		if s == "" {
			return ""
		}
		return "`" + s + "`"
	}
	for _, s := range accel.Settings() {
		if s.Env != "" {
			read = append(read, s.Env)
		}
		key := code(s.Key)
		if s.Live {
			key += " ⟳"
		}
		about := regexp.MustCompile(`see Limits|see (\w+)\.md`).ReplaceAllStringFunc(s.About, func(m string) string {
			if m == "see Limits" {
				return "see [Limits](#limits)"
			}
			page := strings.TrimPrefix(m, "see ")
			return "see [" + page + "](" + page + ")"
		})
		table += "| " + strings.Join([]string{key, code(s.Env), code(s.Field), s.Default, s.Values, about}, " | ") + " |\n"
	}
	want := settingsTable.ReplaceAll(guide, []byte("${1}"+strings.ReplaceAll(table, "$", "$$")+"${2}"))
	if *update {
		if err := os.WriteFile(name, want, 0o644); err != nil {
			t.Fatal(err)
		}
	} else if !settingsTable.Match(guide) || string(want) != string(guide) {
		t.Error("the table of settings in docs/user-guide.md is out of date; go test ./accel -run TestGuide -update")
	}
	for _, v := range read {
		if !regexp.MustCompile(`(?m)^//\t` + v + ` `).Match(source) {
			t.Errorf("the comment of ConfigFromEnv does not name %s", v)
		}
	}
	for _, v := range regexp.MustCompile(`TPA_[A-Z_]*[A-Z]`).FindAllString(string(want), -1) {
		if !slices.Contains(read, v) {
			t.Errorf("the guide names %s, which nothing reads", v)
		}
	}
	for _, f := range fields(reflect.TypeFor[accel.Config](), "") {
		if !strings.Contains(string(want), "`"+f+"`") {
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
