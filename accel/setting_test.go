package accel

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// textless are the fields of Config without a text form: a program sets them.
var textless = []string{"Link", "Random", "Logger", "DPDK.Logger"}

// examples has a value other than the default for each setting, in TOML.
var examples = map[string]string{
	"device": `"net_memif0,socket=/run/m.sock"`, "steering": `"rules"`, "addrs": `["10.0.0.2/24", "fd00::2/64"]`, "zone": `"tpa0"`,
	"gateways": `["10.0.0.1"]`, "allow_from": `["10.0.0.0/8"]`, "firewall": `"respect"`, "mtu": "9000", "vlan": "12", "checksum": `"no"`, "queues": "2", "cpus": "[2]",
	"polling.spin": `"50us"`, "polling.max_sleep": `"2ms"`, "polling.long_handler": `"20ms"`,
	"tcp.engine": `"gvisor"`, "tcp.receive_buffer": "65536", "tcp.send_buffer": "65536", "tcp.time_wait": `"1m"`, "tcp.no_sack": "true",
	"tcp.no_coalescing": "true", "tcp.congestion": `"cubic"`,
	"limits.connections": "10", "limits.half_open": "11", "limits.closing": "12", "limits.time_wait": "13", "limits.memory": "16777216", "limits.resets": "14",
	"dpdk.huge_pages": `"never"`, "dpdk.memory_mb": "64", "dpdk.file_prefix": `"a"`, "dpdk.cpus": "[1]", "dpdk.extra_args": `["--log-level=lib.eal,8", "--legacy-mem"]`,
	"xdp.pin": "true", "xdp.busy_poll": `"50us"`,
	"kernel": "true", "handover": "true", "fallback": `"never"`, "record": `"off"`, "debug_socket": `"/run/a.sock"`, "log_level": `"debug"`,
}

// exampleFile writes a file of some settings.
func exampleFile(keys []string) string {
	var top, tables string
	for _, key := range keys {
		if table, name, ok := strings.Cut(key, "."); ok {
			tables += fmt.Sprintf("[%s]\n%s = %s\n", table, name, examples[key])
		} else {
			top += fmt.Sprintf("%s = %s\n", key, examples[key])
		}
	}
	return top + tables
}

func writeFile(t testing.TB, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "tpa.toml")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// TestSettings checks that each field of Config is a setting or set by programs only,
// that a file can set it, and that what a setting shows is what it takes.
func TestSettings(t *testing.T) {
	var fields []string
	var walk func(s reflect.Type, within string)
	walk = func(s reflect.Type, within string) {
		for f := range s.NumField() {
			if f := s.Field(f); f.Type.Kind() == reflect.Struct {
				walk(f.Type, within+f.Name+".")
			} else {
				fields = append(fields, within+f.Name)
			}
		}
	}
	walk(reflect.TypeFor[Config](), "")
	var told []string
	for _, s := range Settings() {
		told = append(told, s.Field)
		if s.Values == "" || s.Default == "" || s.About == "" {
			t.Errorf("%s has no words: %+v", s.Key, s)
		}
		c, err := ConfigFromFile(writeFile(t, exampleFile([]string{s.Key})))
		if err != nil {
			t.Errorf("%s: %v", s.Key, err)
			continue
		}
		changed := differences(reflect.ValueOf(c), reflect.ValueOf(Config{}), "")
		if !slices.Equal(changed, []string{s.Field}) {
			t.Errorf("%s sets %q, want %s", s.Key, changed, s.Field)
		}
		shown := s.Value(&c)
		if shown == "" || s.Value(&Config{}) != "" {
			t.Errorf("%s shows %q, and %q for the default", s.Key, shown, s.Value(&Config{}))
		}
		if s.Key == "dpdk.extra_args" { // whose elements may have commas
			continue
		}
		var again Config
		if err := s.read(&again, s.Key, strings.Split(shown, ",")); err != nil || s.Value(&again) != shown {
			t.Errorf("%s takes %q as %q, %v", s.Key, shown, s.Value(&again), err)
		}
	}
	slices.Sort(fields)
	told = append(told, textless...)
	slices.Sort(told)
	if diff := cmp.Diff(fields, told); diff != "" {
		t.Errorf("fields of Config and of settings (-Config +settings):\n%s", diff)
	}
}

// differences returns the fields in which two structs differ.
func differences(a, b reflect.Value, within string) (names []string) {
	for i := range a.NumField() {
		name := within + a.Type().Field(i).Name
		if a.Field(i).Kind() == reflect.Struct {
			names = append(names, differences(a.Field(i), b.Field(i), name+".")...)
		} else if !reflect.DeepEqual(a.Field(i).Interface(), b.Field(i).Interface()) {
			names = append(names, name)
		}
	}
	return names
}

func TestConfigFromFile(t *testing.T) {
	for _, tt := range []struct {
		file, env string
		want      Config
		wantErr   []string // parts of the message
	}{
		{},
		{file: "mtu = 9000", env: "TPA_MTU=1500;TPA_QUEUES=2", want: Config{MTU: 1500, Queues: 2}},
		{file: "mtu = \"9000\"", want: Config{MTU: 9000}},
		{file: "[polling]\nspin = \"0s\"", want: Config{Polling: Polling{Spin: minSpin}}},
		{file: "[polling]\nspin = \"never\"", want: Config{Polling: Polling{Spin: -1}}},
		{file: "polling.spin = \"1s\"", want: Config{Polling: Polling{Spin: maxSpin}}},
		{file: "addrs = [\"10.0.0.2/24\"]", want: Config{Addrs: []netip.Prefix{netip.MustParsePrefix("10.0.0.2/24")}}},
		{file: "queues = 1000\nmtus = 1\n[tcp]\nengin = \"tpa\"\nno_sack = 1", wantErr: []string{
			`queues="1000": want 1 to 256`, "mtus is no setting", "tcp.engin is no setting", `tcp.no_sack="1": want true or false`,
		}},
		{file: "tcp = 1", wantErr: []string{"tcp is no setting"}},
		{file: "mtu = [1500]", want: Config{MTU: 1500}},
		{file: "mtu = [1500, 1500]", wantErr: []string{"1280 to 65535"}},
		{file: "[mtu]\nbytes = 1500", wantErr: []string{"mtu.bytes is no setting"}},
		{file: "cpus = [2, 3]", wantErr: []string{"2 CPUs for 1 queues"}},
		{file: "cpus = [2, 3]", env: "TPA_QUEUES=2", want: Config{Queues: 2, CPUs: []int{2, 3}}},
		{file: "cpus = [[1], 2]", wantErr: []string{"CPU numbers"}},
		{file: "mtu 1500", wantErr: []string{"tpa.toml", "line 1"}},
		{file: "mtu = 1500\nmtu = 1500", wantErr: []string{"mtu"}},
		{file: "mtu = 1", env: "TPA_QUEUE=1", wantErr: []string{"TPA_CONFIG", "1280", "TPA_QUEUE is no setting"}},
		{file: "[limits]\nmemory = 1", wantErr: []string{"16 MB to 1 TB"}},
		{file: "addrs = [\"224.0.0.1/4\"]", wantErr: []string{"unicast"}},
	} {
		t.Run(tt.file+";"+tt.env, func(t *testing.T) {
			got, err := configFrom(append(strings.Split(tt.env, ";"), "TPA_CONFIG="+writeFile(t, tt.file)))
			for _, want := range tt.wantErr {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("got error %v, want one with %q", err, want)
				}
			}
			if tt.wantErr != nil {
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got, cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
	if _, err := configFrom([]string{"TPA_CONFIG=/nonexistent/tpa.toml"}); err == nil || !strings.Contains(err.Error(), "/nonexistent/tpa.toml") {
		t.Errorf("no file: got %v", err)
	}
}

// TestLogLevel has the level decide, whatever the logger takes, from the start.
func TestLogLevel(t *testing.T) {
	for level, want := range map[slog.Leveler]int{nil: 1, slog.LevelDebug: 3, slog.LevelError: 0} {
		var out bytes.Buffer
		rt := newRuntime(Config{Logger: slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelWarn})), LogLevel: level})
		rt.log.Debug("a")
		rt.log.Info("b")
		rt.log.Warn("c")
		if got := strings.Count(out.String(), "\n"); got != want {
			t.Errorf("level %v: %d lines, want %d:\n%s", level, got, want, out.String())
		}
	}
}

// FuzzConfigFile reads any file: it is refused, or what it sets can be shown.
func FuzzConfigFile(f *testing.F) {
	var all []string
	for _, s := range Settings() {
		all = append(all, s.Key)
		f.Add(exampleFile([]string{s.Key}))
	}
	f.Add(exampleFile(all[:3]))
	f.Add("queues = 1000\n[limits]\nmemory = 1")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := ConfigFromFile(writeFile(t, text))
		if err != nil {
			return
		}
		if err := c.check(); err != nil {
			t.Errorf("it was taken, but %v", err)
		}
		for _, s := range settings {
			s.Value(&c)
		}
	})
}
