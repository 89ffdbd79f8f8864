package guest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/gotpa/tpa/internal/testnet"
	"github.com/gotpa/tpa/test/guest/control"
)

// A card is a network card as QEMU plays it.
type card struct {
	device string // QEMU's name and properties
	driver string // the kernel's module
	queues int    // of the tap; 0 for a tap with one, which has no multiqueue
	virtio bool
	lumps  bool // QEMU puts all frames on the first queue, however many there are
}

var cards = map[string]card{
	"virtio":      {device: "virtio-net-pci", driver: "virtio_net", virtio: true},
	"virtio-mq":   {device: "virtio-net-pci,mq=on,vectors=10", driver: "virtio_net", queues: 4, virtio: true},
	"virtio-rss":  {device: "virtio-net-pci,mq=on,vectors=10,rss=on,hash=on", driver: "virtio_net", queues: 4, virtio: true},
	"virtio-dma":  {device: "virtio-net-pci,mq=on,vectors=6,disable-legacy=on,iommu_platform=on", driver: "virtio_net", queues: 2, virtio: true}, // as zero-copy mode wants it
	"virtio-noxc": {device: "virtio-net-pci,ctrl_guest_offloads=off", driver: "virtio_net", virtio: true},                                        // native XDP refuses it
	"e1000e":      {device: "e1000e", driver: "e1000e"},
	"vmxnet3":     {device: "vmxnet3", driver: "vmxnet3", lumps: true}, // RXQ_IDX in its hw/net/vmxnet3.c
	"igb":         {device: "igb", driver: "igb"},
	"failover":    {device: "virtio-net-pci,failover=on,id=standby", driver: "virtio_net", virtio: true},
}

// bridged begins the model of a card whose tap is a port of a bridge, as are all of
// these in a guest: each has the others as its peers, with the offloads of both.
const bridged = "bridged-"

// Failover is the model of a bridged card with a standby: two cards with one address,
// of which the guest makes one interface (net_failover). The first can be taken out
// and put back.
const failoverModel = bridged + "failover"

// An nic is a card in a guest, and the tap at its other end.
type nic struct {
	card
	model string
	index int    // of the card in its guest
	name  string // of the interface in the guest
	tap   string
	pci   string
	// Addresses, the same whether the kernel or DPDK has them.
	guest4, guest6 string
}

// A machine is a running guest. One goroutine uses it.
type machine struct {
	t       *testing.T
	peer    *testnet.Host
	dir     string
	nics    []*nic
	bridge  bool // there is one, of taps
	modules map[string][]string
	control net.Conn
	in      *json.Decoder
	out     *json.Encoder
	ended   chan struct{} // closed when QEMU has ended
}

// An emulator is QEMU.
type emulator struct {
	program, firmware, modules string
}

// openEmulator fetches the QEMU of backports: that of Debian 12 has no igb. The
// libraries are those of the installed one.
func openEmulator(ctx context.Context) (*emulator, error) {
	dir, err := backports.unpacked(ctx, "qemu", []string{"qemu-system-x86", "qemu-system-data", "qemu-system-common"}, func(string) bool { return false })
	if err != nil {
		return nil, err
	}
	e := &emulator{filepath.Join(dir, "usr/bin/qemu-system-x86_64"), filepath.Join(dir, "usr/share/qemu"), filepath.Join(dir, "usr/lib/x86_64-linux-gnu/qemu")}
	cmd := exec.CommandContext(ctx, e.program, "--version")
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%w: %s", err, tail(string(out), 400))
	}
	return e, nil
}

// A bench is what all guests of a test share.
type bench struct {
	t        *testing.T
	dir      string
	qemu     *emulator
	programs *programs
	base     string // the RAM disk
	// What was asked for.
	set     int
	only    *regexp.Regexp
	hasDPDK bool
}

// boot starts a guest with cards, each behind a tap in a namespace of its own.
func (b *bench) boot(t *testing.T, img *image, iommu bool, models []string) *machine {
	t.Helper()
	m := &machine{t: t, dir: t.TempDir(), ended: make(chan struct{}), peer: testnet.New(t).Host("peer")}
	initrd := filepath.Join(m.dir, "initrd")
	var err error
	if m.modules, err = img.initrd(t.Context(), initrd, b.base); err != nil {
		t.Fatal(err)
	}
	args := []string{
		"-L", b.qemu.firmware, "-L", "/usr/share/seabios", "-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "2048",
		"-nodefaults", "-no-reboot", "-display", "none", "-serial", "file:" + m.file("serial"),
		"-monitor", "unix:" + m.file("monitor") + ",server=on,wait=off",
		"-device", "virtio-serial-pci,addr=1d.0", "-chardev", "socket,id=control,path=" + m.file("control") + ",server=on,wait=off",
		"-device", "virtserialport,chardev=control,name=tpa",
	}
	// The check of the timer fails where the host is busy.
	kernelArgs := "console=ttyS0 quiet panic=-1 mitigations=off no_timer_check"
	if iommu {
		args = append(args, "-device", "intel-iommu,device-iotlb=on")
		kernelArgs += " intel_iommu=on iommu=pt"
	}
	args = append(args, "-kernel", img.boot, "-initrd", initrd, "-append", kernelArgs)
	for i, model := range models {
		n := m.addNIC(i, model)
		device, queues := n.device, ""
		if n.virtio && iommu && !strings.Contains(device, "iommu_platform") {
			device += ",disable-legacy=on,iommu_platform=on"
		}
		if n.queues > 0 {
			queues = fmt.Sprintf(",queues=%d", n.queues)
		}
		netdev := fmt.Sprintf("tap,id=%s,ifname=%s,script=no,downscript=no%s", n.tap, n.tap, queues)
		if model == failoverModel {
			m.addTap(primaryTap, 0, true)
			args = append(args, "-device", "pcie-root-port,id=root1,chassis=1,addr=1c.0", "-netdev", "tap,id="+primaryTap+",ifname="+primaryTap+",script=no,downscript=no",
				"-device", fmt.Sprintf(primary, i))
		}
		args = append(args, "-netdev", netdev, "-device", fmt.Sprintf("%s,netdev=%s,mac=52:54:00:77:00:%02x,addr=%02x.0,romfile=", device, n.tap, i, 4+i))
	}
	cmd := m.peer.Command(b.qemu.program, args...)
	cmd.Env = append(os.Environ(), "QEMU_MODULE_DIR="+b.qemu.modules)
	log, err := os.Create(m.file("qemu"))
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		cmd.Wait()
		log.Close()
		close(m.ended)
	}()
	t.Cleanup(m.off)
	m.connect()
	m.configure()
	return m
}

func (m *machine) file(name string) string { return filepath.Join(m.dir, name) }

// addNIC makes the tap.
func (m *machine) addNIC(i int, model string) *nic {
	m.t.Helper()
	name, onBridge := strings.CutPrefix(model, bridged)
	c, ok := cards[name]
	if !ok {
		m.t.Fatalf("no card %q", model)
	}
	n := &nic{card: c, model: model, index: i, name: fmt.Sprintf("nic%d", i), tap: fmt.Sprintf("tap%d", i), pci: fmt.Sprintf("0000:00:%02x.0", 4+i),
		guest4: fmt.Sprintf("10.77.%d.2", i+1), guest6: fmt.Sprintf("fd77:%d::2", i+1)}
	m.nics = append(m.nics, n)
	m.addTap(n.tap, c.queues, onBridge)
	if !onBridge {
		m.host("ip", "addr", "add", fmt.Sprintf("10.77.%d.1/24", i+1), "dev", n.tap)
		m.host("ip", "addr", "add", fmt.Sprintf("fd77:%d::1/64", i+1), "dev", n.tap, "nodad")
	}
	return n
}

// primaryTap is the tap of the card that failoverModel adds, and primary that card,
// for the number of the other.
const (
	primaryTap = "primary"
	primary    = "e1000e,id=primary,failover_pair_id=standby,netdev=" + primaryTap + ",bus=root1,mac=52:54:00:77:00:%02x,romfile="
)

// addTap makes a tap, a port of the bridge if it is to be one.
func (m *machine) addTap(name string, queues int, onBridge bool) {
	m.t.Helper()
	args := []string{"tuntap", "add", "dev", name, "mode", "tap", "vnet_hdr"}
	if queues > 0 {
		args = append(args, "multi_queue")
	}
	m.host("ip", args...)
	if onBridge {
		if !m.bridge {
			m.host("ip", "link", "add", "bridge", "type", "bridge", "mcast_snooping", "0")
			m.host("ip", "link", "set", "bridge", "up")
			m.bridge = true
		}
		m.host("ip", "link", "set", name, "master", "bridge")
	}
	m.host("ip", "link", "set", name, "up")
}

// host runs a command in the namespace of the clients.
func (m *machine) host(name string, args ...string) {
	m.t.Helper()
	if out, err := m.peer.Command(name, args...).CombinedOutput(); err != nil {
		m.t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
}

// bootTime is how long a guest may take to boot. It takes 3 to 6 s on two cores of
// its own, and ten times as long where others want those, too. A guest that cannot
// boot mostly ends QEMU, which is noticed at once.
const bootTime = 3 * time.Minute

// connect waits for the agent.
func (m *machine) connect() {
	m.t.Helper()
	deadline := time.Now().Add(bootTime)
	var err error
	for m.control == nil {
		select {
		case <-m.ended:
			m.fatalBoot(errors.New("QEMU ended"))
		case <-time.After(20 * time.Millisecond):
		}
		if m.control, err = net.Dial("unix", m.file("control")); err != nil {
			m.control = nil
			if time.Now().After(deadline) {
				m.fatalBoot(err)
			}
		}
	}
	m.control.SetDeadline(deadline)
	m.in, m.out = json.NewDecoder(m.control), json.NewEncoder(m.control)
	var up control.Response
	if err := m.in.Decode(&up); err != nil {
		m.fatalBoot(err)
	}
}

func (m *machine) fatalBoot(err error) {
	m.t.Helper()
	serial, _ := os.ReadFile(m.file("serial"))
	qemu, _ := os.ReadFile(m.file("qemu"))
	m.t.Fatalf("the guest does not boot: %v\n%s\n%s", err, tail(string(serial), 1500), tail(string(qemu), 500))
}

// ask sends a request and returns the answer. A guest that does not answer is the
// end of the test.
func (m *machine) ask(req control.Request) control.Response {
	m.t.Helper()
	if req.Timeout == 0 {
		req.Timeout = 60 * time.Second // a busy host makes guests slow
	}
	m.control.SetDeadline(time.Now().Add(req.Timeout + 20*time.Second))
	var res control.Response
	err := m.out.Encode(&req)
	if err == nil {
		err = m.in.Decode(&res)
	}
	if err != nil {
		serial, _ := os.ReadFile(m.file("serial"))
		m.t.Fatalf("the guest does not answer to %s %s: %v\n%s", req.Operation, strings.Join(req.Args, " "), err, tail(string(serial), 1500))
	}
	return res
}

// run runs a command in the guest and returns what it printed, and an error if it
// failed.
func (m *machine) run(args ...string) (string, error) {
	m.t.Helper()
	res := m.ask(control.Request{Operation: control.Run, Args: args})
	switch {
	case res.Err != "":
		return res.Output, fmt.Errorf("%s: %s", args[0], res.Err)
	case res.Code != 0:
		return res.Output, fmt.Errorf("%s: exit status %d: %s", strings.Join(args, " "), res.Code, tail(res.Output, 500))
	}
	return res.Output, nil
}

// must is run for what has to work.
func (m *machine) must(args ...string) string {
	m.t.Helper()
	out, err := m.run(args...)
	if err != nil {
		m.t.Fatal("guest: ", err)
	}
	return out
}

// sh runs a script that stops at the first failure. busybox's own ip, which it
// prefers, knows too little: $ip is the real one.
func (m *machine) sh(script string) string {
	m.t.Helper()
	return m.must("sh", "-ec", "ip=/usr/sbin/ip\n"+script)
}

func (m *machine) load(module string) {
	m.t.Helper()
	if res := m.ask(control.Request{Operation: control.Load, Args: m.modules[module]}); res.Err != "" {
		m.t.Fatal("guest: ", res.Err)
	}
}

// configure gives interfaces their names and addresses.
func (m *machine) configure() {
	m.t.Helper()
	for _, module := range []string{"af_packet", "unix", "ipv6"} {
		m.load(module)
	}
	m.must("ip", "link", "set", "lo", "up")
	for _, n := range m.nics {
		m.load(n.driver)
		if n.model != failoverModel {
			m.attachKernel(n)
		}
	}
}

// attachKernel waits for the kernel's interface of a card, and sets it up.
func (m *machine) attachKernel(n *nic) {
	m.t.Helper()
	m.sh(fmt.Sprintf(`
		for i in $(seq 100); do
			dev=$(ls -d /sys/bus/pci/devices/%[1]s/net/* /sys/bus/pci/devices/%[1]s/virtio*/net/* 2>/dev/null | head -1)
			[ -n "$dev" ] && break
			sleep 0.1
		done
		dev=${dev##*/}
		[ "$dev" = %[2]s ] || $ip link set $dev name %[2]s
		$ip addr add %[3]s/24 dev %[2]s
		$ip -6 addr add %[4]s/64 dev %[2]s nodad
		$ip link set %[2]s up`, n.pci, n.name, n.guest4, n.guest6))
}

// bind gives a card to a driver, "" for the kernel's own.
func (m *machine) bind(n *nic, driver string) {
	m.t.Helper()
	m.sh(fmt.Sprintf(`
		d=/sys/bus/pci/devices/%s
		[ ! -e $d/driver ] || echo %[1]s >$d/driver/unbind
		echo %[2]s >$d/driver_override
		echo %[1]s >/sys/bus/pci/drivers_probe
		[ -e $d/driver ]`, n.pci, driver))
	if driver == "" {
		m.attachKernel(n)
	}
}

// monitor gives QEMU a command, such as "set_link tap0 off".
func (m *machine) monitor(command string) error {
	c, err := net.Dial("unix", m.file("monitor"))
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := io.WriteString(c, command+"\n"); err != nil {
		return err
	}
	// The prompt comes when the monitor is ready, and again when it is done.
	var got strings.Builder
	b := make([]byte, 4096)
	for strings.Count(got.String(), "(qemu)") < 2 {
		n, err := c.Read(b)
		if err != nil {
			return err
		}
		got.Write(b[:n])
	}
	return nil
}

// off ends the guest.
func (m *machine) off() {
	if m.control != nil {
		m.out.Encode(control.Request{Operation: control.Off})
		m.control.Close()
	}
	select {
	case <-m.ended:
	case <-time.After(10 * time.Second): // the namespace's command ends with the test
	}
}
