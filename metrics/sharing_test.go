package metrics

import (
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/gotpa/tpa/accel"
	"github.com/gotpa/tpa/link"
	"github.com/gotpa/tpa/link/dpdk"
)

// TestSharing checks the metrics of devices that need root, drivers or huge pages,
// without them.
func TestSharing(t *testing.T) {
	stats := accel.Stats{
		Accelerated: true, Info: link.Info{Name: "eth0"}, Device: accel.DeviceStats{LinkSpeed: 10e9},
		Memory: []dpdk.Memory{{NUMANode: 0, InUse: 100, Free: 28, HugePages: true}, {NUMANode: 1, InUse: 5}},
		Sharing: &accel.SharingStats{Backend: "xdp", Steering: accel.SteeringStats{
			Claims: 1, Ports: 2, Frames: []accel.FrameCount{
				{Name: "redirected", Frames: 70, Taker: "accel"}, {Name: "not TCP", Frames: 30, Taker: "kernel"},
				{Name: "SYN answered", Frames: 20, Taker: "filter"},
			},
			Operations: accel.SteeringOperations{Claims: accel.OperationCounts{Done: 2, Failed: 1}},
		}},
	}
	c := newCollector(func() accel.Stats { return stats }, Options{})
	reg := prometheus.NewPedanticRegistry()
	reg.MustRegister(c)
	if problems, err := testutil.GatherAndLint(reg); err != nil || len(problems) > 0 {
		t.Errorf("promlint: %v, %v", err, problems)
	}
	want := `
# HELP tpa_flow_packets_total Frames that the filter saw on the whole device: those that came here (accel), those left to the kernel, by why, and SYNs that the filter answered or dropped itself.
# TYPE tpa_flow_packets_total counter
tpa_flow_packets_total{port="eth0",reason="not_tcp",taker="kernel"} 30
tpa_flow_packets_total{port="eth0",reason="redirected",taker="accel"} 70
tpa_flow_packets_total{port="eth0",reason="syn_answered",taker="filter"} 20
# HELP tpa_flow_rule_operations_total Changes of the rules: ports claimed and released, and exceptions for single flows.
# TYPE tpa_flow_rule_operations_total counter
tpa_flow_rule_operations_total{backend="xdp",operation="claim",port="eth0",result="failed"} 1
tpa_flow_rule_operations_total{backend="xdp",operation="claim",port="eth0",result="ok"} 2
tpa_flow_rule_operations_total{backend="xdp",operation="except",port="eth0",result="failed"} 0
tpa_flow_rule_operations_total{backend="xdp",operation="except",port="eth0",result="ok"} 0
tpa_flow_rule_operations_total{backend="xdp",operation="release",port="eth0",result="failed"} 0
tpa_flow_rule_operations_total{backend="xdp",operation="release",port="eth0",result="ok"} 0
# HELP tpa_flow_rules Rules that make flows ours: with rte_flow those on the device, with xdp one per claimed port and address.
# TYPE tpa_flow_rules gauge
tpa_flow_rules{backend="xdp",port="eth0"} 2
# HELP tpa_hugepage_memory_bytes Memory in huge pages that DPDK has taken for the process. None with ordinary pages.
# TYPE tpa_hugepage_memory_bytes gauge
tpa_hugepage_memory_bytes{numa_node="0",port="eth0",state="free"} 28
tpa_hugepage_memory_bytes{numa_node="0",port="eth0",state="in_use"} 100
# HELP tpa_port_link_speed_bytes_per_second What the device says that its link carries, 0 when it has none or does not know.
# TYPE tpa_port_link_speed_bytes_per_second gauge
tpa_port_link_speed_bytes_per_second{port="eth0"} 1.25e+09
`
	if err := testutil.GatherAndCompare(reg, strings.NewReader(want), "tpa_flow_packets_total", "tpa_flow_rule_operations_total",
		"tpa_flow_rules", "tpa_hugepage_memory_bytes", "tpa_port_link_speed_bytes_per_second"); err != nil {
		t.Error(err)
	}
}
