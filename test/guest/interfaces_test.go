package guest

import (
	"encoding/json"
	"fmt"
	"regexp"
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

// joined is why AF_XDP refuses what is made of others: the veths below hand on what
// the peer's kernel sends as one segment.
const joined = "below may hand on segments of up to 64 KB"

// arrangements is the table; behind XDP says that packet sockets work, from Linux
// 6.6 on.
func arrangements(behindXDP bool) []arrangement {
	// What a program gets that names the interface only.
	auto, refused := "packet socket", ""
	if !behindXDP {
		refused = "use Linux 6.6 or newer, which hands them over"
	}
	return []arrangement{
		{name: "vlan", setup: makeVLAN, upper: "s0.10", mode: modeAuto, how: auto, refused: refused},
		{name: "vlan", setup: makeVLAN, upper: "s0.10", mode: modeXDP, how: "XDP generic", refused: refused},
		{name: "bond", setup: backup, upper: "sbond", mode: modeAuto, how: auto, refused: refused, then: failOver},
		{name: "bond", setup: backup, upper: "sbond", mode: modeXDP, how: "XDP generic", refused: refused},
		{name: "bond-802.3ad", setup: lacp, upper: "sbond", mode: modeAuto, how: auto, refused: refused, then: failOver},
		{name: "bond-vlan", setup: backup + "$ip link add link sbond name sbond.10 type vlan id 10\n", upper: "sbond.10", mode: modeAuto, how: auto, refused: refused},
		{name: "bridge", setup: makeBridge, upper: "sbr", mode: modeAuto, how: auto, refused: refused},
		{name: "bond-part", setup: backup, upper: "sbond", dev: "s0", mode: modeAuto, refused: "name sbond"},
		{name: "bridge-part", setup: makeBridge, upper: "sbr", dev: "s0", mode: modeXDP, refused: "name sbr"},
	}
}

// A deviceCell is a cell about cards on a bridge: its own, and that of the peer, which is the last.
type deviceCell struct {
	cell
	card string
	run  func(*machine, *result) error
}

// deviceCells are those of a kernel.
func deviceCells(kernel string) (list []deviceCell) {
	list = append(list, deviceCell{cell{kernel: kernel, model: "virtio-vlan", mode: modeXDP}, "virtio", vlanWithoutGRO})
	if kernel != "6.12" {
		return list
	}
	list[0].run = vlanByAFXDP
	list = append(list, deviceCell{cell{kernel: kernel, model: "virtio-vlan", mode: modeAuto}, "virtio", vlanByPacketSocket},
		deviceCell{cell{kernel: kernel, model: "net_failover", mode: modeAuto}, "failover", failover},
		deviceCell{cell{kernel: kernel, model: "virtio", mode: modeUIO, vlan: 10}, "virtio", taggedDPDK})
	for _, model := range []string{"virtio", "e1000e", "vmxnet3", "igb"} {
		list = append(list, deviceCell{cell{kernel: kernel, model: model, mode: modeVFIO, vlan: 10}, model, taggedDPDK})
	}
	return list
}

func TestInterfaces(t *testing.T) {
	b := newBench(t)
	asked := false
	for _, k := range kernels {
		if k.name != "6.1" && k.name != "6.12" {
			continue
		}
		run := func(t *testing.T, m *machine, c cell, f func(*machine, *result) error) {
			r := &result{cell: c, version: b.image(t, k.name).version, known: known(c)}
			began := time.Now()
			if err := f(m, r); err != nil {
				r.failed = append(r.failed, err.Error())
			}
			r.took = time.Since(began)
			fmt.Println(r)
			b.write(t, "interfaces", r)
			if r.failed != nil && r.known == "" {
				t.Errorf("%s: %s", r.cell, strings.Join(r.failed, "\n"))
			}
		}
		// Those made of veths share a guest, and so do cards.
		var list []arrangement
		for _, a := range arrangements(k.name == "6.12") {
			if b.wants(cell{kernel: k.name, model: a.name, mode: a.mode, set: chosen}) {
				list = append(list, a)
			}
		}
		if list != nil {
			asked = true
			t.Run(k.name, func(t *testing.T) {
				m := b.boot(t, b.image(t, k.name), false, nil)
				for _, module := range []string{"veth", "8021q", "bonding", "bridge"} {
					m.load(module)
				}
				for _, a := range list {
					run(t, m, cell{kernel: k.name, model: a.name, mode: a.mode}, a.run)
				}
			})
		}
		var devices []deviceCell
		models := map[bool][]string{} // of guests with and without an IOMMU
		for _, d := range deviceCells(k.name) {
			if d.set = chosen; !b.wants(d.cell) {
				continue
			}
			devices = append(devices, d)
			iommu := d.mode == modeVFIO
			if model := bridged + d.card; !slices.Contains(models[iommu], model) {
				models[iommu] = append(models[iommu], model)
			}
		}
		for _, iommu := range []bool{false, true} {
			if models[iommu] == nil {
				continue
			}
			asked = true
			t.Run(fmt.Sprintf("%s-cards-%t", k.name, iommu), func(t *testing.T) {
				m := b.boot(t, b.image(t, k.name), iommu, append(models[iommu], bridged+"virtio"))
				m.load("8021q")
				m.load("e1000e")
				for _, d := range devices {
					if iommu == (d.mode == modeVFIO) {
						run(t, m, d.cell, d.run)
					}
				}
			})
		}
	}
	if !asked {
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
		r.refused = a.refused
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
	// A bond on a busy host takes its time to notice.
	if _, err := c.inPeer("ping", "-c", "5", "-i", "0.3", "-W", "5", c.nic.guest4); err != nil {
		return err
	}
	if err := c.loadFromPeer(); err != nil {
		return fmt.Errorf("after %q: %w", a.then, err)
	}
	return c.counters()
}

// onBridge returns a cell's card, and gives the last card of the guest to the peer.
// What it returns last undoes that.
func onBridge(m *machine, r *result, model string) (*cellRun, *nic, func()) {
	card := m.nics[slices.IndexFunc(m.nics, func(n *nic) bool { return n.model == bridged+model })]
	peer := m.nics[len(m.nics)-1]
	// Other cards are on the bridge, too, and are not to answer for this one.
	m.sh("sysctl -w net.ipv4.conf.all.arp_ignore=1\n" +
		"$ip netns add peer\n$ip link set " + peer.name + " netns peer\n$ip -n peer link set " + peer.name + " up")
	c := &cellRun{machine: m, result: r, nic: &nic{card: card.card, index: card.index, name: card.name, pci: card.pci, guest4: "10.8.0.2", guest6: "fd08::2"}}
	return c, peer, func() {
		m.sh("for i in $(ls /sys/class/net); do case $i in *.10) $ip link del $i;; esac; done\n" +
			"$ip addr flush dev " + card.name + " || true\n" +
			"$ip -n peer link set " + peer.name + " netns 1\n$ip netns del peer")
	}
}

// taggedPeer gives the peer's card a VLAN.
func taggedPeer(m *machine, peer *nic) {
	m.sh(fmt.Sprintf("ip=\"/usr/sbin/ip -n peer\"\n$ip link add link %[1]s name %[1]s.10 type vlan id 10\n%[2]s", peer.name, addresses(peer.name+".10", 1)))
}

// taggedDPDK has DPDK drive a card in a VLAN (TPA_VLAN), with the kernel's VLAN of
// another card as the peer. A device that cuts segments cuts those with a tag, too.
func taggedDPDK(m *machine, r *result) error {
	c, peer, undo := onBridge(m, r, r.model)
	defer undo()
	taggedPeer(m, peer)
	defer c.prepare()()
	defer c.stop("server", syscall.SIGKILL)
	if err := c.start("server", port, "", "--vlan", fmt.Sprint(r.vlan)); err != nil {
		return err
	}
	if err := c.loadFromPeer(); err != nil {
		return err
	}
	s, err := c.status()
	if err != nil {
		return err
	}
	if err := c.counters(); err != nil {
		return err
	}
	if cuts := slices.ContainsFunc(s.Device.Offloads, func(o string) bool { return strings.HasPrefix(o, "tso-") }); cuts && r.cut > 0 {
		return fmt.Errorf("%d frames were cut in software, and the device's offloads are %v", r.cut, s.Device.Offloads)
	}
	return nil
}

// ethtoolAdvice finds the command that has the interfaces below join nothing.
var ethtoolAdvice = regexp.MustCompile(`; or (ethtool -K .*)`)

// onVLAN returns a cell on a VLAN of a card, and the name of the card.
func onVLAN(m *machine, r *result) (c *cellRun, below string, undo func()) {
	c, peer, undo := onBridge(m, r, "virtio")
	taggedPeer(m, peer)
	below = c.nic.name
	c.nic.name += ".10"
	m.sh(fmt.Sprintf("$ip link add link %s name %s type vlan id 10\n%s", below, c.nic.name, addresses(c.nic.name, 2)))
	return c, below, undo
}

// vlanByAFXDP has generic mode take segments that the card has joined.
func vlanByAFXDP(m *machine, r *result) error {
	c, _, undo := onVLAN(m, r)
	defer undo()
	defer c.stop("server", syscall.SIGKILL)
	if err := c.start("server", port, ""); err != nil {
		return err
	}
	if err := c.loadFromPeer(); err != nil {
		return err
	}
	return c.counters()
}

// vlanByPacketSocket is what a program gets that names a VLAN.
func vlanByPacketSocket(m *machine, r *result) error {
	c, _, undo := onVLAN(m, r)
	defer undo()
	defer c.stop("server", syscall.SIGKILL)
	if err := c.start("server", port, ""); err != nil {
		return err
	}
	return c.carriesAs(r, "packet socket")
}

// carriesAs checks that the server runs in a mode, and that it carries load.
func (c *cellRun) carriesAs(r *result, mode string) error {
	if !strings.Contains(r.how, mode) {
		return fmt.Errorf("it runs as %q, want %s", r.how, mode)
	}
	if err := c.loadFromPeer(); err != nil {
		return err
	}
	return c.counters()
}

// vlanWithoutGRO has AF_XDP refuse a VLAN whose card joins segments, and does what the
// refusal says to do about that.
func vlanWithoutGRO(m *machine, r *result) error {
	c, below, undo := onVLAN(m, r)
	defer undo()
	defer c.stop("server", syscall.SIGKILL)
	err := c.start("server", port, "")
	if err == nil || !strings.Contains(err.Error(), below+" "+joined) {
		return fmt.Errorf("got %v, want a refusal with %q", err, below+" "+joined)
	}
	advice := ethtoolAdvice.FindStringSubmatch(err.Error())
	if advice == nil {
		return fmt.Errorf("got %w, want a command that has %s join nothing", err, below)
	}
	if out, err := m.run("sh", "-ec", advice[1]); err != nil {
		return fmt.Errorf("%q: %w: %s", advice[1], err, out)
	}
	defer m.run("ethtool", "-K", below, "gro", "on", "rx-gro-hw", "on")
	if err := c.start("server", port, ""); err != nil {
		return fmt.Errorf("after %q: %w", advice[1], err)
	}
	return c.carriesAs(r, "XDP generic")
}

// failover serves by the interface that net_failover makes of a card and its standby,
// while the card goes and comes back.
func failover(m *machine, r *result) error {
	c, peer, undo := onBridge(m, r, "failover")
	defer undo()
	c.nic.name = "upper"
	parts := strings.Fields(m.sh(`
		for i in $(seq 100); do
			for d in $(ls /sys/class/net); do
				if ethtool -i $d 2>/dev/null | grep -q 'driver: net_failover'; then
					[ $d = upper ] || $ip link set $d name upper
					` + addresses(c.nic.name, 2) + `
					break 2
				fi
			done
			sleep 0.1
		done
		for i in $(seq 100); do
			[ $(ls -d /sys/class/net/upper/lower_* | wc -l) = 2 ] && break
			sleep 0.1
		done
		cd /sys/class/net/upper
		ls -d lower_* | sed s/lower_//`))
	if len(parts) != 2 {
		return fmt.Errorf("the interface has the parts %q, want two", parts)
	}
	m.sh("ip=\"/usr/sbin/ip -n peer\"\n" + addresses(peer.name, 1))
	for dev, want := range map[string]string{parts[0]: "name " + c.nic.name, parts[1]: "name " + c.nic.name} {
		if err := c.refusal(want, dev); err != nil {
			return err
		}
	}
	defer c.stop("server", syscall.SIGKILL)
	if err := c.start("server", port, ""); err != nil {
		return err
	}
	if !strings.Contains(r.how, "packet socket") {
		return fmt.Errorf("it runs as %q, want a packet socket", r.how)
	}
	if err := c.loadFromPeer(); err != nil {
		return err
	}
	// The card goes and comes back under load.
	c.ask(control.Request{Operation: control.Start, Name: "load", Timeout: time.Millisecond,
		Args: slices.Concat(inPeer, load(c.addrs(port)[0], "rw", "--conns", "4", "--pipeline", "4", "--duration", "25s"))})
	for _, change := range []struct{ command, parts string }{
		{"device_del primary", "1"}, {"device_add " + fmt.Sprintf(primary, c.nic.index), "2"},
	} {
		if err := m.monitor(change.command); err != nil {
			return err
		}
		// To take a card out takes 5 s by itself (pciehp_handle_button_press in Linux), and more on a busy host.
		res := m.ask(control.Request{Operation: control.Run, Timeout: 40 * time.Second, Args: []string{"sh", "-c",
			"until [ $(ls -d /sys/class/net/upper/lower_* | wc -l) = " + change.parts + " ]; do sleep 0.2; done"}})
		if res.Err != "" {
			log, _ := m.run("sh", "-c", "dmesg | tail -20; ls -d /sys/class/net/upper/lower_* /sys/class/net/*")
			return fmt.Errorf("after %q: the interface does not have %s parts: %s: %s", change.command, change.parts, res.Err, log)
		}
	}
	// A signal of 0 only waits.
	if _, err := figuresOf(c.ask(control.Request{Operation: control.Stop, Name: "load", Timeout: startTime}).Output, nil); err != nil {
		return fmt.Errorf("while the card went and came back: %w", err)
	}
	if err := c.loadFromPeer(); err != nil {
		return fmt.Errorf("after the card has come back: %w", err)
	}
	return c.counters()
}

// addresses gives an interface addresses that end in n.
func addresses(dev string, n int) string {
	return fmt.Sprintf("$ip link set %[1]s up\n$ip addr add 10.8.0.%[2]d/24 dev %[1]s\n$ip addr add fd08::%[2]d/64 dev %[1]s nodad\n", dev, n)
}

// inPeer begins commands in the namespace of the peer.
var inPeer = []string{"/usr/sbin/ip", "netns", "exec", "peer"}

// inPeer runs a command there.
func (c *cellRun) inPeer(args ...string) (string, error) {
	res := c.ask(control.Request{Operation: control.Run, Args: slices.Concat(inPeer, args), Timeout: startTime})
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

// figuresOf reads them. Answers were compared with what was sent.
func figuresOf(out string, err error) (f figures, _ error) {
	if err == nil {
		err = json.Unmarshal([]byte(out), &f)
	}
	if err == nil && (f.Errors > 0 || f.Requests == 0) {
		err = fmt.Errorf("%d requests, %v errors: %s", f.Requests, f.Errors, strings.Join(f.Problems, ", "))
	}
	return f, err
}

// load is the command with which the peer's kernel loads a server.
func load(addr, workload string, args ...string) []string {
	return append([]string{"/bin/tpa-bench", "run", "--transport", "kernel", "--addr", addr, "--workload", workload, "-q", "-o", "json"}, args...)
}

// measure has the peer's kernel load a server.
func (c *cellRun) measure(addr, workload string, args ...string) (figures, error) {
	f, err := figuresOf(c.inPeer(load(addr, workload, args...)...))
	if err != nil {
		err = fmt.Errorf("%s to %s: %w", workload, addr, err)
	}
	return f, err
}

// loadFromPeer sends messages both ways at once and connects again and again, by
// each IP version.
func (c *cellRun) loadFromPeer() error {
	for _, workload := range []struct{ name, pipeline string }{{"rw", "4"}, {"crr", "1"}} {
		for _, addr := range c.addrs(port) {
			// No more at once than a busy host answers within the 2 s that it has.
			if _, err := c.measure(addr, workload.name, "--conns", "4", "--pipeline", workload.pipeline, "--duration", "1s"); err != nil {
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
