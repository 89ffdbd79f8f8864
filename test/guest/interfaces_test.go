package guest

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gotpa/tpa/test/guest/control"
)

// An arrangement is an interface that is made of others, in a guest whose peer is a
// network namespace of the same guest. Two veth pairs, s0 and p0, s1 and p1, are the
// cables between the two.
type arrangement struct {
	name string
	// setup makes interfaces by a script, here and, with p for s, at the peer.
	setup string
	// upper has the address here, and with p for s at the peer.
	upper string
	// dev is what the server is given, upper where it is empty.
	dev  string
	mode string
	// how is a part of how the server says that it runs, refused of why it does not.
	how, refused string
	// then changes something while the server runs. Traffic goes on.
	then string
}

const (
	makeVLAN = "$ip link add link s0 name s0.10 type vlan id 10\n"
	makeBond = "$ip link add sbond type bond mode %s miimon 50\n$ip link set s0 down\n$ip link set s1 down\n" +
		"$ip link set s0 master sbond\n$ip link set s1 master sbond\n$ip link set s0 up\n$ip link set s1 up\n$ip link set sbond up\n"
	makeBridge = "$ip link add sbr type bridge\n$ip link set s0 master sbr\n$ip link set sbr up\n"
)

var (
	backup   = fmt.Sprintf(makeBond, "active-backup")
	lacp     = fmt.Sprintf(makeBond, "802.3ad lacp_rate fast")
	failOver = "$ip link set s0 down\nsleep 0.3\n"
)

// arrangements is the table; behind XDP says that packet sockets work, from Linux
// 6.6 on.
func arrangements(behindXDP bool) []arrangement {
	// What a program gets that names the interface only.
	auto := "packet socket"
	if !behindXDP {
		auto = "XDP generic"
	}
	return []arrangement{
		{name: "vlan", setup: makeVLAN, upper: "s0.10", mode: modeAuto, how: auto},
		{name: "vlan", setup: makeVLAN, upper: "s0.10", mode: modeXDP, how: "XDP generic"},
		{name: "bond", setup: backup, upper: "sbond", mode: modeAuto, how: auto, then: failOver},
		{name: "bond", setup: backup, upper: "sbond", mode: modeXDP, how: "XDP generic", then: failOver},
		{name: "bond-802.3ad", setup: lacp, upper: "sbond", mode: modeAuto, how: auto, then: failOver},
		{name: "bond-vlan", setup: backup + "$ip link add link sbond name sbond.10 type vlan id 10\n", upper: "sbond.10", mode: modeAuto, how: auto},
		{name: "bridge", setup: makeBridge, upper: "sbr", mode: modeAuto, how: auto},
		{name: "bond-part", setup: backup, upper: "sbond", dev: "s0", mode: modeAuto, refused: "name sbond"},
		{name: "bridge-part", setup: makeBridge, upper: "sbr", dev: "s0", mode: modeXDP, refused: "name sbr"},
	}
}

func TestInterfaces(t *testing.T) {
	b := newBench(t)
	var results []*result
	for _, k := range kernels {
		if k.name != "6.1" && k.name != "6.12" {
			continue
		}
		behindXDP := k.name == "6.12"
		var list []arrangement
		for _, a := range arrangements(behindXDP) {
			if b.wants(cell{kernel: k.name, model: a.name, mode: a.mode, set: chosen}) {
				list = append(list, a)
			}
		}
		tagged := cell{kernel: k.name, model: "virtio-hub", mode: modeUIO, set: chosen}
		if list == nil && !b.wants(tagged) {
			continue
		}
		t.Run(k.name, func(t *testing.T) {
			img := b.image(t, k.name)
			m := b.boot(t, img, false, []string{"virtio-hub", "virtio-hub"})
			for _, module := range []string{"veth", "8021q", "bonding", "bridge"} {
				m.load(module)
			}
			run := func(c cell, f func(*machine, *result) error) {
				r := &result{cell: c, version: img.version, known: known(c)}
				began := time.Now()
				if err := f(m, r); err != nil {
					r.failed = append(r.failed, err.Error())
				}
				r.took = time.Since(began)
				results = append(results, r)
				fmt.Println(r)
				b.write(t, "interfaces", results)
				if r.failed != nil && r.known == "" {
					t.Errorf("%s: %s", r.cell, strings.Join(r.failed, "\n"))
				}
			}
			for _, a := range list {
				run(cell{kernel: k.name, model: a.name, mode: a.mode}, a.run)
			}
			if b.wants(tagged) {
				run(tagged, taggedDPDK)
			}
		})
	}
	if results == nil {
		t.Skip("no arrangement was asked for")
	}
}

// run makes the interfaces, starts a server on the upper one, and has the peer's
// kernel talk to it.
func (a *arrangement) run(m *machine, r *result) error {
	dev := a.dev
	if dev == "" {
		dev = a.upper
	}
	c := &cellRun{machine: m, result: r, nic: &nic{name: dev, guest4: "10.8.0.2", guest6: "fd08::2"}}
	m.sh("$ip netns add peer\nfor i in 0 1; do $ip link add s$i type veth peer name p$i netns peer; $ip link set s$i up; done\n" +
		a.setup + addresses(a.upper, 2))
	there := strings.NewReplacer(" s0", " p0", " s1", " p1", " sb", " pb").Replace
	m.sh("ip=\"/usr/sbin/ip -n peer\"\n$ip link set lo up\nfor i in 0 1; do $ip link set p$i up; done\n" + there(a.setup+addresses(a.upper, 1)))
	defer m.sh("$ip netns del peer\nfor i in sbond.10 sbond sbr s0.10 s0 s1; do $ip link del $i 2>/dev/null || true; done")
	// What is at the other end answers first.
	if _, err := c.inPeer("ping", "-c", "1", "-W", "5", c.nic.guest4); err != nil {
		return err
	}
	defer c.stop("server", syscall.SIGKILL)
	err := c.start("server", port, "")
	switch {
	case a.refused != "":
		r.how = "refused: " + a.refused
		if err == nil || !strings.Contains(err.Error(), a.refused) {
			return fmt.Errorf("got %v, want a refusal with %q", err, a.refused)
		}
		return nil
	case err != nil:
		return err
	case !strings.Contains(r.how, a.how):
		return fmt.Errorf("it runs as %q, want %q", r.how, a.how)
	}
	if err := c.loadFromPeer(); err != nil {
		return err
	}
	if a.then == "" {
		return c.counters()
	}
	m.sh(a.then)
	if err := c.loadFromPeer(); err != nil {
		return fmt.Errorf("after %q: %w", a.then, err)
	}
	return c.counters()
}

// taggedDPDK has DPDK drive one of two cards on a hub in a VLAN of which the kernel
// is, by the other.
func taggedDPDK(m *machine, r *result) error {
	card, other := m.nics[0], m.nics[1]
	c := &cellRun{machine: m, result: r, nic: &nic{card: card.card, name: card.name, pci: card.pci, guest4: "10.8.0.2", guest6: "fd08::2"}}
	defer c.prepare()()
	m.sh("$ip netns add peer\n$ip link set " + other.name + " netns peer")
	defer m.sh("$ip -n peer link del tagged\n$ip -n peer link set " + other.name + " netns 1\n$ip netns del peer")
	m.sh("ip=\"/usr/sbin/ip -n peer\"\n$ip link set " + other.name + " up\n$ip link add link " + other.name + " name tagged type vlan id 1234\n" + addresses("tagged", 1))
	defer c.stop("server", syscall.SIGKILL)
	if err := c.start("server", port, "", "--vlan", "1234"); err != nil {
		return err
	}
	if err := c.loadFromPeer(); err != nil {
		return err
	}
	return c.counters()
}

// addresses gives an interface addresses that end in n.
func addresses(dev string, n int) string {
	return fmt.Sprintf("$ip link set %[1]s up\n$ip addr add 10.8.0.%[2]d/24 dev %[1]s\n$ip addr add fd08::%[2]d/64 dev %[1]s nodad\n", dev, n)
}

// inPeer runs a command in the namespace of the peer.
func (c *cellRun) inPeer(args ...string) (string, error) {
	res := c.ask(control.Request{Operation: control.Run, Args: append([]string{"/usr/sbin/ip", "netns", "exec", "peer"}, args...), Timeout: startTime})
	if res.Code != 0 || res.Err != "" {
		return res.Output, fmt.Errorf("%s at the peer: exit status %d %s: %s", args[0], res.Code, res.Err, tail(res.Output, 500))
	}
	return res.Output, nil
}

// Figures are what tpa-bench run says of a load.
type figures struct {
	Requests uint64   `json:"requests"`
	Bytes    float64  `json:"payload_bytes_per_s"`
	P50      float64  `json:"p50_us"`
	P99      float64  `json:"p99_us"`
	Errors   float64  `json:"errors"`
	Problems []string `json:"problems"`
}

// measure has the peer's kernel load a server. Answers are compared with what was sent.
func (c *cellRun) measure(addr, workload string, args ...string) (f figures, err error) {
	out, err := c.inPeer(append([]string{"/bin/tpa-bench", "run", "--transport", "kernel", "--addr", addr, "--workload", workload, "-q", "-o", "json"}, args...)...)
	if err == nil {
		err = json.Unmarshal([]byte(out), &f)
	}
	if err == nil && (f.Errors > 0 || f.Requests == 0) {
		err = fmt.Errorf("%d requests, %v errors: %s", f.Requests, f.Errors, strings.Join(f.Problems, ", "))
	}
	if err != nil {
		err = fmt.Errorf("%s to %s: %w", workload, addr, err)
	}
	return f, err
}

// loadFromPeer sends messages both ways at once and connects again and again, by
// each IP version.
func (c *cellRun) loadFromPeer() error {
	for _, workload := range []string{"rw", "crr"} {
		for _, addr := range c.addrs(port) {
			if _, err := c.measure(addr, workload, "--conns", "8", "--duration", "1s"); err != nil {
				return err
			}
		}
	}
	return nil
}

// kernelNamed returns one of the table.
func kernelNamed(name string) kernel {
	return kernels[slices.IndexFunc(kernels, func(k kernel) bool { return k.name == name })]
}
