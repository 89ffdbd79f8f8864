package guest

import (
	"fmt"
	"strings"
	"syscall"
	"testing"

	"github.com/gotpa/tpa/test/guest/control"
)

// paths are what a router does to packets of each direction, as tc spells it.
var paths = []string{
	"delay 5ms",
	"delay 20ms",
	"delay 10ms 3ms 25%", // which reorders, too
	"delay 5ms loss 1%",
	"delay 20ms loss 0.5%",
	"delay 5ms duplicate 2%",
	"delay 5ms reorder 5% 50%",
	"delay 10ms rate 50mbit limit 100",
	"delay 10ms rate 50mbit limit 100" + withFQ,
}

// withFQ ends paths on which the server's interface has the queueing discipline fq,
// which sends at the pace that the kernel's TCP asks for.
const withFQ = ", fq"

// TestNetem has Linux read and write over a router that delays, loses, reorders and
// duplicates (netem), from a server of ours and one of the kernel's on the same
// path. It prints both figures, and fails where one does not get through. The
// network is three namespaces of a guest.
func TestNetem(t *testing.T) {
	b := newBench(t)
	c := cell{kernel: "6.12", model: "netem", mode: modeXDP, set: chosen}
	if !b.wants(c) {
		t.Skip("not asked for")
	}
	m := b.boot(t, b.image(t, c.kernel), false, nil)
	m.load("veth")
	m.load("sch_netem")
	m.load("sch_fq")
	m.sh(`
		$ip netns add router
		$ip netns add peer
		$ip link add s0 type veth peer name r0 netns router
		$ip -n router link add r1 type veth peer name p0 netns peer
		$ip addr add 10.8.0.2/24 dev s0
		$ip -n router addr add 10.8.0.1/24 dev r0
		$ip -n router addr add 10.9.0.1/24 dev r1
		$ip -n peer addr add 10.9.0.2/24 dev p0
		$ip link set s0 up
		for i in r0 r1; do $ip -n router link set $i up; done
		$ip -n peer link set p0 up
		$ip route add 10.9.0.0/24 via 10.8.0.1
		$ip -n peer route add 10.8.0.0/24 via 10.9.0.1
		$ip netns exec router sysctl -w net.ipv4.ip_forward=1`)
	run := &cellRun{machine: m, result: &result{cell: c}, nic: &nic{name: "s0", guest4: "10.8.0.2"}}
	servers := []struct{ name, protocol, port string }{
		{"tpa", "resp", "7001"}, {"tpa", "echo", "7002"}, {"kernel", "resp", "8001"}, {"kernel", "echo", "8002"},
	}
	for _, s := range servers {
		args := []string{"/bin/tpa-bench", "serve", "--protocol", s.protocol, "--listen", ":" + s.port, "--transport", "kernel"}
		if s.name == "tpa" {
			// The second of ours has a packet socket.
			args = append(args[:len(args)-1], "accel", "--dev", "s0")
		}
		res := m.ask(control.Request{Operation: control.Start, Name: s.port, Args: args, Until: "ready:", Timeout: testTimeout, Env: []string{"TPA_SOCKET=off"}})
		if !strings.Contains(res.Output, "ready:") {
			t.Fatalf("%s does not start: %s", strings.Join(args, " "), res.Output)
		}
		defer run.stop(s.port, syscall.SIGKILL)
	}
	fmt.Printf("      %-34s %21s %21s %23s\n", "path, each way", "from tpa | kernel MB/s", "both ways | kernel", "rr p50 | kernel µs")
	for _, path := range paths {
		netem, fq := strings.CutSuffix(path, withFQ)
		m.sh("for i in r0 r1; do /usr/sbin/ip netns exec router tc qdisc replace dev $i root netem " + netem + "; done")
		if fq {
			m.sh("/usr/sbin/tc qdisc replace dev s0 root fq")
		}
		var line strings.Builder
		fmt.Fprintf(&line, "      %-34s", path)
		for _, w := range []struct {
			workload, port string
			args           []string
		}{
			{"read", "001", []string{"--conns", "4"}},
			{"rw", "002", []string{"--conns", "4"}},
			{"rr", "002", []string{"--conns", "10"}},
		} {
			var of [2]figures
			for i, first := range []string{"7", "8"} {
				var err error
				if of[i], err = run.measure("10.8.0.2:"+first+w.port, w.workload, append(w.args, "--duration", "2s")...); err != nil {
					t.Errorf("%s: %s: %v", path, [...]string{"tpa", "kernel"}[i], err)
				}
			}
			if w.workload == "rr" {
				fmt.Fprintf(&line, " %11.0f | %8.0f", of[0].P50, of[1].P50)
			} else {
				fmt.Fprintf(&line, " %10.2f | %8.2f", of[0].Bytes/1e6, of[1].Bytes/1e6)
			}
		}
		fmt.Println(line.String())
	}
}
