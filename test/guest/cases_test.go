package guest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/gotpa/tpa/accel"
	"github.com/gotpa/tpa/test/guest/control"
)

// Ports of the servers in a guest.
const (
	port       = "7000" // of the accelerated echo server
	secondPort = "7001" // of another process with one
	kernelPort = "8080" // HTTP over the kernel's TCP
)

// testTimeout bounds each step of a client.
const testTimeout = 30 * time.Second

// startTime bounds the start of a server, which takes 6 s on two cores of its own:
// the guest's kernel verifies the filter.
const startTime = 90 * time.Second

// A run is a cell under way.
type cellRun struct {
	*machine
	*result
	nic *nic
}

// runCell starts a server as the cell says, has it pass all cases, and leaves the
// card with the kernel.
func runCell(m *machine, r *result) {
	c := &cellRun{machine: m, result: r}
	for _, n := range m.nics {
		if n.model == r.model {
			c.nic = n
		}
	}
	// Wrong settings take a dozen starts, and are the same with most cards.
	wrong := r.dpdk() && r.queues == 0 && (r.model == "virtio" || r.kernel == "6.12" && r.mode == modeVFIO)
	if wrong {
		if err := c.kernelsDriver(); err != nil {
			c.fail("bound to the kernel's driver", err)
		}
	}
	undo := c.prepare()
	defer undo()
	err := c.start("server", port, "")
	if r.refused != "" {
		if err == nil || !strings.Contains(err.Error(), r.refused) {
			c.fail("start", fmt.Errorf("got %v, want a refusal with %q", err, r.refused))
		}
		r.how = "refused: " + r.refused
		c.stop("server", syscall.SIGKILL)
		return
	}
	if err != nil {
		c.fail("start", err)
		return
	}
	cases := []struct {
		name    string
		run     func() error
		applies bool
	}{
		{"connections", c.connections, true},
		{"bulk", c.segments, true},
		{"crr", c.crr, true},
		{"many", c.many, true},
		{"kernel", c.kernelTraffic, !r.dpdk()},
		{"queues", c.queuesLoaded, r.queues > 1 && !c.nic.lumps},
		{"second", c.second, !r.dpdk()},
		{"second", c.secondOfDevice, r.dpdk()},
		{"mtu", c.mtuChange, !r.dpdk() && r.mtu == 0},
		{"link", c.linkDown, true},
		{"counters", c.counters, true},
		{"kill", c.kill, true},
		{"refusals", c.refusals, wrong},
		{"huge pages", c.hugePages, wrong},
		{"doctor", c.doctor, true},
		{"restart", c.restart, true},
		{"dialed", c.dialed, r.model == "virtio-rss" && r.mode == modeXDP && r.queues > 1},
	}
	for _, cs := range cases {
		if !cs.applies {
			continue
		}
		began := time.Now()
		err := cs.run()
		if err != nil {
			c.fail(cs.name, err)
		}
		took := time.Since(began)
		again := ""
		if r.queues > 1 {
			again = c.sentAgain()
		}
		m.t.Logf("%s: %s took %.1fs%s: %v", r.cell, cs.name, took.Seconds(), again, err)
		// Where little works, the rest would only be slow.
		if len(c.failed) == 2 {
			if err := c.counters(); err != nil {
				c.fail("counters", err)
			}
			break
		}
	}
	c.stop("server", syscall.SIGTERM)
}

// sentAgain says how many segments the server has sent again, where it runs.
func (c *cellRun) sentAgain() string {
	s, err := c.status()
	if err != nil {
		return ""
	}
	n := uint64(0)
	for _, sh := range s.Shards {
		n += sh.TCP.Retransmits
	}
	return fmt.Sprintf(", %d segments sent again so far", n)
}

func (c *cellRun) fail(name string, err error) {
	c.failed = append(c.failed, name+": "+err.Error())
}

// prepare gives the card to the driver, and the interface its MTU. What it returns
// takes that back.
func (c *cellRun) prepare() func() {
	if c.result.dpdk() {
		driver := map[string]string{modeVFIO: "vfio_pci", modeUIO: "uio_pci_generic"}[c.mode]
		c.load(driver)
		if c.mode == modeVFIO {
			c.load("vfio_iommu_type1") // modprobe loads it, too: it is a soft dependency
		}
		c.reserve(hugePages)
		c.bind(c.nic, strings.ReplaceAll(driver, "vfio_pci", "vfio-pci"))
		return func() {
			c.bind(c.nic, "")
			c.reserve(0)
		}
	}
	if c.result.mtu != 0 {
		c.setMTU(c.result.mtu)
	}
	return func() { c.setMTU(1500) }
}

// setMTU sets both ends. The guest's kernel may refuse.
func (c *cellRun) setMTU(mtu int) error {
	_, err := c.machine.run("ip", "link", "set", c.nic.name, "mtu", fmt.Sprint(mtu))
	if err == nil {
		c.host("ip", "link", "set", c.nic.tap, "mtu", fmt.Sprint(mtu))
	}
	return err
}

// device is the value of --dev.
func (c *cellRun) device() string {
	if c.result.dpdk() {
		return c.nic.pci
	}
	if c.mode == modeAuto {
		return c.nic.name
	}
	return c.mode + ":" + c.nic.name
}

// hugePages is how many pages of 2 MB a guest reserves for DPDK.
const hugePages = 128

// reserve reserves huge pages.
func (c *cellRun) reserve(n int) { c.sh(fmt.Sprintf("echo %d >/proc/sys/vm/nr_hugepages", n)) }

// start starts an echo server; dev is "" for the cell's device, and args are more
// arguments.
func (c *cellRun) start(name, port, dev string, more ...string) error {
	program := "tpa-bench"
	if dev == "" {
		dev = c.device()
	}
	args := []string{"serve", "--transport", "accel", "--protocol", "echo", "--listen", ":" + port, "--dev", dev}
	if c.result.dpdk() {
		program = "tpa-bench-dpdk"
		args = append(args, "--ip", c.nic.guest4+"/24,"+c.nic.guest6+"/64")
	}
	if c.queues > 0 && dev != c.nic.name { // a packet socket has one
		args = append(args, "--queues", fmt.Sprint(c.queues))
	}
	args = append(args, more...)
	res := c.ask(control.Request{Operation: control.Start, Name: name, Args: append([]string{"/bin/" + program}, args...),
		Env: []string{"GOMAXPROCS=4", "TPA_SOCKET=" + socket(name)}, Until: "ready:", Timeout: startTime})
	if !strings.Contains(res.Output, "ready:") {
		if res.Err != "" { // it hangs: where?
			res.Output = c.stop(name, syscall.SIGQUIT).Output
			log, _ := c.machine.run("dmesg")
			c.t.Logf("%s: %s\nkernel: %s", name, res.Output, tail(log, 3000))
		}
		return fmt.Errorf("the server does not start (exit status %d, -1 for a signal): %s%s", res.Code, res.Err, tail(res.Output, 900))
	}
	if name == "server" {
		status, err := c.status()
		if err != nil {
			return err
		}
		c.how = status.Device.Driver
		if mode := status.Device.Mode; mode != "" {
			c.how += ", " + mode
		}
	}
	return nil
}

func (c *cellRun) stop(name string, signal syscall.Signal) control.Response {
	return c.ask(control.Request{Operation: control.Stop, Name: name, Signal: int(signal), Timeout: 15 * time.Second})
}

// status is what the server tells about itself.
func (c *cellRun) status() (*accel.Status, error) {
	out, err := c.machine.run("/bin/tpa-bench", "stats", "--json", "--addr", socket("server"))
	if err != nil {
		return nil, err
	}
	var s accel.Status
	return &s, json.Unmarshal([]byte(out), &s)
}

// socket is the debug socket of a server.
func socket(name string) string { return "/run/" + name + ".sock" }

// addrs are the server's, IPv4 and IPv6.
func (c *cellRun) addrs(port string) []string {
	return []string{net.JoinHostPort(c.nic.guest4, port), net.JoinHostPort(c.nic.guest6, port)}
}

// dial connects from the peer.
func (c *cellRun) dial(addr string) (conn net.Conn, err error) {
	c.peer.Do(func() { conn, err = net.DialTimeout("tcp", addr, testTimeout) })
	if err == nil {
		conn.SetDeadline(time.Now().Add(testTimeout))
	}
	return conn, err
}

// each runs n clients at once and returns the first error, with how many had one.
func each(n int, f func(i int) error) error {
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { errs[i] = f(i) })
	}
	wg.Wait()
	count := 0
	var first error
	for _, err := range errs {
		if err != nil {
			count++
			if first == nil {
				first = err
			}
		}
	}
	if first != nil {
		return fmt.Errorf("%d of %d: %w", count, n, first)
	}
	return nil
}

func random(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rand.Uint32())
	}
	return b
}

// echo sends messages and compares what comes back.
func echo(conn net.Conn, messages, size int) error {
	for range messages {
		msg := random(1 + rand.IntN(size))
		if _, err := conn.Write(msg); err != nil {
			return err
		}
		got := make([]byte, len(msg))
		if _, err := io.ReadFull(conn, got); err != nil {
			return err
		}
		if !bytes.Equal(got, msg) {
			return errors.New("what came back is not what was sent")
		}
	}
	return nil
}

func (c *cellRun) echoAt(addr string, messages, size int) error {
	conn, err := c.dial(addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	return echo(conn, messages, size)
}

// connections has 50 clients at once by each IP version.
func (c *cellRun) connections() error {
	var errs []error
	for _, addr := range c.addrs(port) {
		if err := each(50, func(int) error { return c.echoAt(addr, 10, 4000) }); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// bulkSize is how much a connection carries each way, in bytes.
const bulkSize = 4 << 20

// bulk sends and receives 4 MB at once by each IP version.
func (c *cellRun) bulk() error {
	data := random(bulkSize)
	for _, addr := range c.addrs(port) {
		conn, err := c.dial(addr)
		if err != nil {
			return err
		}
		conn.SetDeadline(time.Now().Add(2 * testTimeout))
		sent := make(chan error, 1)
		go func() {
			_, err := conn.Write(data)
			if err == nil {
				err = conn.(*net.TCPConn).CloseWrite()
			}
			sent <- err
		}()
		got, err := io.ReadAll(conn)
		err = errors.Join(err, <-sent)
		conn.Close()
		if err != nil {
			return fmt.Errorf("%s: after %d bytes: %w", addr, len(got), err)
		}
		if !bytes.Equal(got, data) {
			return fmt.Errorf("%s: %d bytes came back and differ from the %d sent", addr, len(got), len(data))
		}
	}
	return nil
}

// crr connects, asks and closes, 200 times.
func (c *cellRun) crr() error {
	return each(4, func(i int) error {
		for range 50 {
			if err := c.echoAt(c.addrs(port)[i%2], 1, 64); err != nil {
				return err
			}
		}
		return nil
	})
}

// many has 300 connections at once.
func (c *cellRun) many() error {
	conns := make([]net.Conn, 300)
	defer func() {
		for _, conn := range conns {
			if conn != nil {
				conn.Close()
			}
		}
	}()
	err := each(len(conns), func(i int) (err error) {
		conns[i], err = c.dial(c.addrs(port)[i%2])
		return err
	})
	if err != nil {
		return err
	}
	return each(len(conns), func(i int) error { return echo(conns[i], 2, 1000) })
}

// kernelTraffic is what the kernel serves beside: pings, and HTTP on another port.
func (c *cellRun) kernelTraffic() error {
	res := c.ask(control.Request{Operation: control.Start, Name: "http", Args: []string{"/bin/tpa-bench", "serve", "--transport", "kernel", "--protocol", "http",
		"--listen", ":" + kernelPort}, Until: "ready:", Timeout: testTimeout})
	if !strings.Contains(res.Output, "ready:") {
		return fmt.Errorf("the kernel's server does not start: %s", res.Output)
	}
	defer c.stop("http", syscall.SIGTERM)
	for _, ip := range []string{c.nic.guest4, c.nic.guest6} {
		if out, err := c.peer.Command("ping", "-c", "3", "-i", "0.2", "-W", "5", ip).CombinedOutput(); err != nil {
			return fmt.Errorf("ping %s: %w: %s", ip, err, tail(string(out), 200))
		}
	}
	busy := make(chan error, 1)
	go func() { busy <- c.bulk() }()
	client := http.Client{Timeout: testTimeout, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext:       func(_ context.Context, _, addr string) (net.Conn, error) { return c.dial(addr) },
	}}
	var err error
	for i := range 40 {
		var page *http.Response
		if page, err = client.Get("http://" + c.addrs(kernelPort)[i%2] + "/"); err != nil {
			break
		}
		_, err = io.Copy(io.Discard, page.Body)
		page.Body.Close()
	}
	if err != nil {
		err = fmt.Errorf("HTTP over the kernel: %w", err)
	}
	return errors.Join(err, <-busy)
}

// queuesLoaded tells whether all queues had frames.
func (c *cellRun) queuesLoaded() error {
	s, err := c.status()
	if err != nil {
		return err
	}
	if len(s.Shards) != c.queues {
		return fmt.Errorf("%d shards, want %d", len(s.Shards), c.queues)
	}
	for i, sh := range s.Shards {
		if sh.Queue.RxFrames < 100 {
			return fmt.Errorf("queue %d received %d frames", i, sh.Queue.RxFrames)
		}
	}
	return nil
}

// second starts another server on the same interface, which takes a packet socket.
func (c *cellRun) second() error {
	if err := c.start("second", secondPort, c.nic.name); err != nil {
		if c.kernel == "5.10" || c.kernel == "6.1" {
			if strings.Contains(err.Error(), "use Linux 6.6 or newer") {
				return nil // refused, with the reason
			}
		}
		return err
	}
	defer c.stop("second", syscall.SIGTERM)
	var errs []error
	for _, p := range []string{port, secondPort} {
		for _, addr := range c.addrs(p) {
			if err := each(10, func(int) error { return c.echoAt(addr, 5, 4000) }); err != nil {
				errs = append(errs, fmt.Errorf("port %s: %w", p, err))
			}
		}
	}
	return errors.Join(errs...)
}

// secondOfDevice starts another server on the same device, which is refused, and
// does no harm to the first.
func (c *cellRun) secondOfDevice() error {
	err := c.start("second", secondPort, "")
	if err == nil {
		c.stop("second", syscall.SIGKILL)
		return errors.New("a second server starts on the same device")
	}
	if !strings.Contains(err.Error(), "another process has it") {
		return fmt.Errorf("got %w, want that another process has the device", err)
	}
	return c.echoAt(c.addrs(port)[0], 5, 4000)
}

// refusal has a server not start, with a reason and what to do about it.
func (c *cellRun) refusal(want, dev string, more ...string) error {
	err := c.start("refused", secondPort, dev, more...)
	if err == nil {
		c.stop("refused", syscall.SIGKILL)
		return fmt.Errorf("%s %s: the server starts, want %q", dev, more, want)
	}
	if !strings.Contains(err.Error(), want) {
		return fmt.Errorf("%s %s: got %w, want %q", dev, more, err, want)
	}
	return nil
}

// bindAdvice finds the command to bind a card with.
var bindAdvice = regexp.MustCompile(`"(modprobe \S+ && dpdk-devbind.py --bind=\S+ \S+)"`)

// kernelsDriver asks for a card that is bound to the kernel's driver, and for one
// that is bound to none. What the refusal says to do about that is done.
func (c *cellRun) kernelsDriver() error {
	bound := c.nic.driver
	if c.nic.virtio {
		bound = "virtio-pci"
	}
	if err := c.refusal("bound to "+bound, ""); err != nil {
		return err
	}
	c.sh(fmt.Sprintf("echo %[1]s >/sys/bus/pci/devices/%[1]s/driver/unbind", c.nic.pci))
	err := c.start("refused", secondPort, "")
	if err == nil {
		c.stop("refused", syscall.SIGKILL)
		return errors.New("the server starts on a card without a driver")
	}
	advice := bindAdvice.FindStringSubmatch(err.Error())
	if advice == nil || !strings.Contains(err.Error(), "bound to no driver") {
		return fmt.Errorf("without a driver: got %w, want a command that binds the card", err)
	}
	if _, err := c.machine.run("sh", "-ec", advice[1]); err != nil {
		return fmt.Errorf("%q: %w", advice[1], err)
	}
	c.reserve(hugePages)
	if err := c.start("bound", secondPort, ""); err != nil {
		return fmt.Errorf("after %q: %w", advice[1], err)
	}
	c.stop("bound", syscall.SIGTERM)
	return nil
}

// refusals are wrong settings, while no server runs.
func (c *cellRun) refusals() error {
	short := strings.TrimPrefix(c.nic.pci, "0000:")
	err := c.start("short", secondPort, short)
	c.stop("short", syscall.SIGTERM)
	if err != nil {
		err = fmt.Errorf("PCI address %s, as lspci prints it: %w", short, err)
	}
	return errors.Join(err,
		c.refusal("there is no such PCI device", "0000:77:00.0"),
		c.refusal("99", "", "--queues", "99")) // more than the device has, or than there is memory for
}

// nrHugepages finds the advice.
var nrHugepages = regexp.MustCompile(`sysctl (?:-w )?vm\.nr_hugepages=(\d+)`)

// hugePages starts a server with no huge pages, and with too few. One that can do
// without does; the others say how many there have to be, and start with as many.
func (c *cellRun) hugePages() error {
	defer c.reserve(hugePages)
	for _, n := range []int{0, 8} {
		c.reserve(n)
		err := c.start("few", secondPort, "")
		if err == nil {
			err = c.echoAt(c.addrs(secondPort)[0], 5, 4000)
			c.stop("few", syscall.SIGTERM)
			if err != nil {
				return fmt.Errorf("with %d huge pages: %w", n, err)
			}
			continue
		}
		advice := nrHugepages.FindStringSubmatch(err.Error())
		if advice == nil {
			return fmt.Errorf("with %d huge pages: got %w, want how many to reserve", n, err)
		}
		c.sh("echo " + advice[1] + " >/proc/sys/vm/nr_hugepages")
		err = c.start("few", secondPort, "")
		c.stop("few", syscall.SIGTERM)
		if err != nil {
			return fmt.Errorf("with as many huge pages as were asked for (%s): %w", advice[1], err)
		}
	}
	return nil
}

// doctor has tpa-bench look at the guest: the best mode that it names is the one
// that works here.
func (c *cellRun) doctor() error {
	program, args := "/bin/tpa-bench", []string(nil)
	if c.result.dpdk() {
		program += "-dpdk"
	} else {
		args = append(args, "--dev", c.nic.name)
	}
	report, err := c.diagnose(0, nil, program, args...)
	if err != nil {
		return err
	}
	if c.result.dpdk() {
		if want := "TPA_DEV=" + c.nic.pci; report.Best.Use != want {
			return fmt.Errorf("the best mode is %+v, want %s", report.Best, want)
		}
		return nil
	}
	for _, f := range report.Findings {
		mode := strings.TrimPrefix(f.Found, "will be ")
		if _, is, ok := strings.Cut(c.how, "XDP "); ok && f.Name == c.nic.name+" XDP" && !strings.HasPrefix(mode, is) {
			return fmt.Errorf("it says %q of an interface on which the server says %q", f.Found, c.how)
		}
	}
	return nil
}

// mtuChange changes the MTU under the running server. A kernel may refuse; if it
// does not, traffic goes on.
func (c *cellRun) mtuChange() error {
	for _, mtu := range []int{4000, 9000, 1500} {
		if err := c.setMTU(mtu); err != nil {
			continue
		}
		if err := c.bulk(); err != nil {
			return fmt.Errorf("MTU %d: %w", mtu, err)
		}
	}
	return nil
}

// linkDown pulls the cable of the guest for a second. A connection outlives that.
func (c *cellRun) linkDown() error {
	conn, err := c.dial(c.addrs(port)[0])
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := echo(conn, 1, 100); err != nil {
		return err
	}
	if err := c.monitor("set_link " + c.nic.tap + " off"); err != nil {
		return err
	}
	var down error
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(200 * time.Millisecond) {
		s, err := c.status()
		if err == nil && !s.Device.LinkUp {
			break
		}
		if time.Now().After(deadline) {
			down = errors.New("the server does not notice that the link is down")
			break
		}
	}
	if err := c.monitor("set_link " + c.nic.tap + " on"); err != nil {
		return err
	}
	if err := echo(conn, 3, 4000); err != nil {
		return fmt.Errorf("after the link came back: %w", err)
	}
	return errors.Join(down, c.echoAt(c.addrs(port)[1], 1, 100))
}

// counters looks for what must not be there.
func (c *cellRun) counters() error {
	s, err := c.status()
	if err != nil {
		return err
	}
	var bad []string
	for i, sh := range s.Shards {
		for _, never := range []struct {
			name string
			n    uint64
		}{
			{"malformed frames of the queue", sh.Queue.RxMalformed},
			{"malformed frames", sh.Link.RxMalformed},
			{"wrong checksums on the fast path", sh.Link.RxBadChecksum},
			{"wrong checksums", sh.TCP.ChecksumErrors},
		} {
			if never.n > 0 {
				bad = append(bad, fmt.Sprintf("shard %d: %s %d", i, never.name, never.n))
			}
		}
		c.retrans += sh.TCP.Retransmits
		c.cut += sh.Link.TxSegmented
	}
	if bad != nil {
		return errors.New(strings.Join(bad, ", "))
	}
	return nil
}

// kill ends the server by SIGKILL: nothing of it is left, and the kernel has its
// interface.
func (c *cellRun) kill() error {
	c.stop("server", syscall.SIGKILL)
	if c.result.dpdk() {
		return nil
	}
	if out, err := c.machine.run("ip", "-d", "link", "show", c.nic.name); err != nil {
		return err
	} else if strings.Contains(out, "xdp") {
		return fmt.Errorf("a program is left: %s", out)
	}
	if out, err := c.peer.Command("ping", "-c", "2", "-i", "0.2", "-W", "5", c.nic.guest4).CombinedOutput(); err != nil {
		return fmt.Errorf("ping: %w: %s", err, out)
	}
	for _, addr := range c.addrs(port) {
		conn, err := c.dial(addr)
		if err == nil {
			conn.Close()
		}
		if !errors.Is(err, syscall.ECONNREFUSED) {
			return fmt.Errorf("connecting to a killed server: %v; want the kernel to refuse", err)
		}
	}
	return nil
}

// restart starts the server anew.
func (c *cellRun) restart() error {
	if err := c.start("server", port, ""); err != nil {
		return err
	}
	return each(10, func(i int) error { return c.echoAt(c.addrs(port)[i%2], 5, 4000) })
}
