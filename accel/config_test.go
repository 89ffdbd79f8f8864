package accel

import (
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/gotpa/tpa/link/dpdk"
)

// TestConfigFromEnv checks what the table in docs/user-guide.md says. A bad value
// is an error, never the default.
func TestConfigFromEnv(t *testing.T) {
	for _, tc := range []struct {
		env     string // variables, separated by ;
		want    Config
		wantErr string // a part of the message, "" for none
	}{
		{},
		{env: "PATH=/bin;TPA_TEST_STRICT=1;TPA_MTU="},
		{
			env: "TPA_DEV=net_memif0;TPA_ADDR=10.0.0.2/24, fd00::2/64;TPA_ZONE=tpa0;TPA_GATEWAY=10.0.0.1,fd00::1;" +
				"TPA_MTU=9000;TPA_VLAN=12;TPA_QUEUES=4;TPA_CPUS=2,3,4,5;TPA_SPIN=20us;TPA_MAX_SLEEP=2ms;TPA_KERNEL=true;TPA_TCP=gvisor;" +
				"TPA_FALLBACK=never;TPA_STEERING=rules;TPA_RECORD=10;TPA_SOCKET=/x.sock;TPA_MAX_CONNS=100;TPA_MAX_MEMORY_MB=16;" +
				"TPA_HUGEPAGES=always;TPA_MEMORY_MB=128",
			want: Config{
				Device:   "net_memif0",
				Addrs:    []netip.Prefix{netip.MustParsePrefix("10.0.0.2/24"), netip.MustParsePrefix("fd00::2/64")},
				Gateways: []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::1")},
				Zone:     "tpa0",
				MTU:      9000, VLAN: 12, Queues: 4, CPUs: []int{2, 3, 4, 5},
				Polling: Polling{Spin: 20 * time.Microsecond, MaxSleep: 2 * time.Millisecond},
				Kernel:  true, TCP: TCP{Engine: EngineGVisor}, Fallback: FallbackNever, Steering: SteerRules,
				Record: 10, DebugSocket: "/x.sock", Limits: Limits{Connections: 100, Memory: 16 << 20},
				DPDK: DPDK{HugePages: dpdk.HugePagesAlways, MemoryMB: 128},
			},
		},
		{env: "TPA_FALLBACK=never", want: Config{Fallback: FallbackNever}},
		{env: "TPA_FALLBACK=auto"},
		{env: "TPA_FIREWALL=respect", want: Config{Firewall: FirewallRespect}},
		{env: "TPA_FIREWALL=yes", wantErr: "ignore or respect"},
		{env: "TPA_ALLOW_FROM=10.0.0.0/8, fd00::/8", want: Config{AllowFrom: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")}}},
		{env: "TPA_ALLOW_FROM=10.0.0.1/8", wantErr: "such as 10.0.0.0/8"},
		{env: "TPA_ALLOW_FROM=10.0.0.1", wantErr: "prefixes"},
		{env: "TPA_ADDR=10.0.0.0/24", wantErr: "the address of a network"},
		{env: "TPA_ADDR=10.0.0.255/24", wantErr: "the address of a network"},
		{env: "TPA_ADDR=fd00::/64", wantErr: "the address of a network"},
		{env: "TPA_ADDR=10.0.0.2/32;TPA_GATEWAY=10.1.0.1", want: Config{Addrs: []netip.Prefix{netip.MustParsePrefix("10.0.0.2/32")}, Gateways: []netip.Addr{netip.MustParseAddr("10.1.0.1")}}},
		{env: "TPA_ADDR=fd00::2/64;TPA_GATEWAY=fe80::1", want: Config{Addrs: []netip.Prefix{netip.MustParsePrefix("fd00::2/64")}, Gateways: []netip.Addr{netip.MustParseAddr("fe80::1")}}},
		{env: "TPA_ADDR=10.0.0.2/24;TPA_GATEWAY=10.0.1.1", wantErr: "no prefix of Config.Addrs"},
		{env: "TPA_FALLBACK=NEVER", wantErr: `TPA_FALLBACK="NEVER": want auto or never`},
		{env: "TPA_FALLBACK=maybe", wantErr: "auto or never"},
		{env: "TPA_STEERING=whole", want: Config{Steering: SteerWhole}},
		{env: "TPA_STEERING=left", wantErr: "auto, rules or whole"},
		{env: "TPA_TCP=tpa"},
		{env: "TPA_TCP=linux", wantErr: "tpa or gvisor"},
		{env: "TPA_HUGEPAGES=never", want: Config{DPDK: DPDK{HugePages: dpdk.HugePagesNever}}},
		{env: "TPA_HUGEPAGES=some", wantErr: "auto, always or never"},
		{env: "TPA_KERNEL=false"},
		{env: "TPA_KERNEL=yes", wantErr: "true or false"},
		{env: "TPA_SPIN=0", want: Config{Polling: Polling{Spin: time.Microsecond}}},
		{env: "TPA_SPIN=-1s", want: Config{Polling: Polling{Spin: -time.Second}}},
		{env: "TPA_SPIN=1ns", wantErr: "Polling.Spin is 1ns: want 1µs to 1s"},
		{env: "TPA_SPIN=2s", wantErr: "1s"},
		{env: "TPA_SPIN=50", wantErr: "a duration"},
		{env: "TPA_MAX_SLEEP=0", wantErr: "10µs"},
		{env: "TPA_MAX_SLEEP=1us", wantErr: "10µs"},
		{env: "TPA_RECORD=off", want: Config{Record: -1}},
		{env: "TPA_RECORD=0", wantErr: "or off"},
		{env: "TPA_RECORD=-1", wantErr: "or off"},
		{env: "TPA_RECORD=65537", wantErr: "1 to 65536"},
		{env: "TPA_QUEUES=0", wantErr: "1 to 256"},
		{env: "TPA_QUEUES=1000", wantErr: "1 to 256"},
		{env: "TPA_QUEUES=two", wantErr: "TPA_QUEUES"},
		{env: "TPA_QUEUE=2", wantErr: "TPA_QUEUE is no setting"},
		{env: "TPA_MTU=0", wantErr: "1280"},
		{env: "TPA_MTU=500", wantErr: "1280"},
		{env: "TPA_CHECKSUM=no", want: Config{NoChecksum: true}},
		{env: "TPA_CHECKSUM=yes"},
		{env: "TPA_CHECKSUM=off", wantErr: "yes or no"},
		{env: "TPA_VLAN=0", wantErr: "1 to 4094"},
		{env: "TPA_VLAN=4095", wantErr: "1 to 4094"},
		{env: "TPA_CPUS=-1", wantErr: "CPU"},
		{env: "TPA_CPUS=2;TPA_CPU=3", wantErr: "TPA_CPU is no setting"},
		{env: "TPA_MAX_CONNS=0", wantErr: "16777216"},
		{env: "TPA_MAX_MEMORY_MB=8", wantErr: "16 to 1048576"},
		{env: "TPA_MAX_MEMORY_MB=549755813887", wantErr: "16 to 1048576"},
		{env: "TPA_MEMORY_MB=0", wantErr: "16 to 65536"},
		{env: "TPA_ADDR=10.0.0.2", wantErr: "TPA_ADDR"},
		{env: "TPA_ADDR=224.0.0.1/4", wantErr: "unicast"},
		{env: "TPA_GATEWAY=10.0.0.1,10.0.0.2", wantErr: "at most one"},
	} {
		t.Run(tc.env, func(t *testing.T) {
			got, err := configFrom(strings.Split(tc.env, ";"))
			if tc.wantErr != "" {
				if err == nil || !strings.Contains(err.Error(), tc.wantErr) {
					t.Fatalf("got error %v, want one with %q", err, tc.wantErr)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, got, cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

// TestBadSettings checks that a wrong setting ends Listen and New, though the
// policy is to fall back.
func TestBadSettings(t *testing.T) {
	for _, env := range []string{"TPA_FALLBACK=NEVER", "TPA_QUEUE=2", "TPA_RECORD=0"} {
		t.Run(env, func(t *testing.T) {
			name, value, _ := strings.Cut(env, "=")
			t.Setenv(name, value)
			ln, err := Listen("tcp", "127.0.0.1:0")
			if err == nil {
				ln.Close()
			}
			if _, ok := errors.AsType[*net.OpError](err); !ok || !strings.Contains(err.Error(), name) {
				t.Errorf("got %v, want a *net.OpError that names %s", err, name)
			}
		})
	}
	for _, c := range []Config{
		{Queues: -1}, {MTU: 1}, {TCP: TCP{Engine: 7}}, {TCP: TCP{Congestion: -1}}, {TCP: TCP{SendBuffer: 1}},
		{Polling: Polling{Spin: 1}}, {Limits: Limits{HalfOpen: -1}}, {Fallback: 2}, {Steering: 9},
	} {
		rt, err := New(c)
		if err == nil {
			rt.Close()
			t.Errorf("%+v: got no error", c)
		}
	}
}

// TestTexts checks that enums print what they parse, and nothing else.
func TestTexts(t *testing.T) {
	testTexts(t, "tpa", "gvisor", EngineTPA, EngineGVisor)
	testTexts(t, "auto", "cubic", CongestionAuto, CongestionCubic)
	testTexts(t, "reno", "cubic", CongestionReno, CongestionCubic)
	testTexts(t, "auto", "never", FallbackAuto, FallbackNever)
	testTexts(t, "rules", "whole", SteerRules, SteerWhole)
	testTexts(t, "always", "never", dpdk.HugePagesAlways, dpdk.HugePagesNever)
}

func testTexts[T interface {
	comparable
	fmt.Stringer
	encoding.TextMarshaler
}](t *testing.T, textA, textB string, a, b T) {
	for _, tt := range []struct {
		text string
		want T
	}{{textA, a}, {textB, b}} {
		got := a
		if err := json.Unmarshal([]byte(strconv.Quote(tt.text)), &got); err != nil || got != tt.want || got.String() != tt.text {
			t.Errorf("%s: got %v, %v", tt.text, got, err)
		}
		if text, err := got.MarshalText(); err != nil || string(text) != tt.text {
			t.Errorf("%s: marshals as %q, %v", tt.text, text, err)
		}
	}
	got := b
	for _, text := range []string{"", strings.ToUpper(textA), textA + " "} {
		if err := json.Unmarshal([]byte(strconv.Quote(text)), &got); err == nil || got != b {
			t.Errorf("%q: got %v, %v; want an error and the value as it was", text, got, err)
		}
	}
}
