package accel

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/gotpa/tpa/link/dpdk"
)

func TestConfigFromEnv(t *testing.T) {
	for _, tc := range []struct {
		name    string
		env     map[string]string
		want    Config
		wantErr string // a part of the message, "" for none
	}{
		{name: "empty"},
		{
			name: "everything",
			env: map[string]string{
				"TPA_DEV": "net_memif0", "TPA_ADDR": "10.0.0.2/24, fd00::2/64", "TPA_ZONE": "tpa0", "TPA_GATEWAY": "10.0.0.1,fd00::1",
				"TPA_MTU": "9000", "TPA_QUEUES": "4", "TPA_CPUS": "2,3,4,5", "TPA_SPIN": "20us", "TPA_MAX_SLEEP": "2ms",
				"TPA_FALLBACK": "never", "TPA_STEERING": "rules", "TPA_HUGEPAGES": "always", "TPA_MEMORY_MB": "128",
			},
			want: Config{
				Device:   "net_memif0",
				Addrs:    []netip.Prefix{netip.MustParsePrefix("10.0.0.2/24"), netip.MustParsePrefix("fd00::2/64")},
				Gateways: []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::1")},
				Zone:     "tpa0",
				MTU:      9000, Queues: 4, CPUs: []int{2, 3, 4, 5},
				Polling:  Polling{Spin: 20 * time.Microsecond, MaxSleep: 2 * time.Millisecond},
				Fallback: Never, Steering: SteerRules, DPDK: DPDK{HugePages: dpdk.Always, MemoryMB: 128},
			},
		},
		{name: "address without prefix", env: map[string]string{"TPA_ADDR": "10.0.0.2"}, wantErr: "TPA_ADDR"},
		{name: "multicast address", env: map[string]string{"TPA_ADDR": "224.0.0.1/4"}, wantErr: "unicast"},
		{name: "two gateways of a version", env: map[string]string{"TPA_GATEWAY": "10.0.0.1,10.0.0.2"}, wantErr: "at most one"},
		{name: "too many queues", env: map[string]string{"TPA_QUEUES": "1000"}, wantErr: "1 to 256"},
		{name: "queues in words", env: map[string]string{"TPA_QUEUES": "two"}, wantErr: "TPA_QUEUES"},
		{name: "tiny MTU", env: map[string]string{"TPA_MTU": "500"}, wantErr: "1280"},
		{name: "negative CPU", env: map[string]string{"TPA_CPUS": "-1"}, wantErr: "CPU"},
		{name: "long spin", env: map[string]string{"TPA_SPIN": "2s"}, wantErr: "1s"},
		{name: "short sleep", env: map[string]string{"TPA_MAX_SLEEP": "1us"}, wantErr: "10µs"},
		{name: "unknown policy", env: map[string]string{"TPA_FALLBACK": "maybe"}, wantErr: "auto or never"},
		{name: "unknown steering", env: map[string]string{"TPA_STEERING": "left"}, wantErr: "auto, rules or whole"},
		{name: "unknown page policy", env: map[string]string{"TPA_HUGEPAGES": "some"}, wantErr: "auto, always or never"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := configFrom(func(name string) string { return tc.env[name] })
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
