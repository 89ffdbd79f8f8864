package guest

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/gotpa/tpa/test/guest/control"
)

// A report is what tpa-bench doctor prints.
type report struct {
	Findings []struct{ Name, State, Found, Consequence, Fix string }
	Best     struct{ Mode, Use string }
}

// diagnose runs a program's doctor as a user.
func (m *machine) diagnose(user int, env []string, program string, args ...string) (*report, error) {
	m.t.Helper()
	res := m.ask(control.Request{Operation: control.Run, User: user, Env: env, Args: append([]string{program, "doctor", "--json"}, args...)})
	// Where no mode works, it says so after the report.
	var r report
	if err := json.NewDecoder(strings.NewReader(res.Output)).Decode(&r); err != nil {
		return nil, fmt.Errorf("doctor: %w: %s %s", err, res.Err, tail(res.Output, 300))
	}
	return &r, nil
}

// of returns what a finding says, or an empty fix.
func (r *report) of(name string) (state, fix string) {
	for _, f := range r.Findings {
		if f.Name == name {
			return f.State, f.Fix
		}
	}
	return "", ""
}

// tools begin what can be run of a fix; the rest of it is for people.
var tools = []string{"ip", "ethtool", "sysctl", "modprobe", "setcap"}

// commandIn finds the command in a fix such as "boot with this; without: modprobe it".
func commandIn(fix string) string {
	for part := range strings.SplitSeq(strings.ReplaceAll(fix, ": ", "; "), "; ") {
		first, _, _ := strings.Cut(part, " ")
		if slices.Contains(tools, first) {
			return part
		}
	}
	return ""
}

// TestDoctor spoils what programs need, has doctor say how to put it right, runs that
// as it stands, and looks whether it helped.
func TestDoctor(t *testing.T) {
	b := newBench(t)
	for _, c := range []struct {
		kernel string
		iommu  bool
		model  string
	}{
		{"6.12", true, "virtio-rss"},
		{"6.1", false, "virtio-mq"},
	} {
		if !b.wants(cell{kernel: c.kernel, model: "doctor", mode: modeAuto, set: chosen}) {
			continue
		}
		t.Run(c.kernel, func(t *testing.T) {
			m := b.boot(t, b.image(t, c.kernel), c.iommu, []string{c.model})
			n := m.nics[0]
			if err := doctorOfInterface(m, n); err != nil {
				t.Errorf("%s: %v", c.model, err)
			}
			if err := doctorOfUser(m, n); err != nil {
				t.Errorf("a user: %v", err)
			}
			if b.hasDPDK {
				if err := doctorOfDevice(m, n); err != nil {
					t.Errorf("DPDK: %v", err)
				}
			}
		})
	}
}

// doctorOfInterface follows all advice about an interface.
func doctorOfInterface(m *machine, n *nic) error {
	m.sh(fmt.Sprintf(`
		ethtool -L %[1]s combined 4
		ethtool -X %[1]s weight 1 0 0 0 || true
		ethtool -L %[1]s combined 1
		ip link set %[1]s down
		ip link set %[1]s mtu 9000`, n.name))
	var done []string
	for {
		// One poller more than the guest has is too many; GOMAXPROCS is of the environment.
		r, err := m.diagnose(0, []string{"TPA_QUEUES=2", "GOMAXPROCS=4"}, "/bin/tpa-bench", "--dev", n.name)
		if err != nil {
			return err
		}
		name, command := "", ""
		for _, f := range r.Findings {
			if c := commandIn(f.Fix); strings.Contains(f.Name, n.name) && c != "" {
				name, command = f.Name, c
				break
			}
		}
		if command == "" {
			m.t.Logf("of %s, doctor fixed: %s", n.model, strings.Join(done, "; "))
			if len(done) < 2 || r.Best.Mode != "af_xdp" {
				return fmt.Errorf("after %q the best mode is %+v, want advice and AF_XDP", done, r.Best)
			}
			return nil
		}
		if slices.Contains(done, command) {
			return fmt.Errorf("%s: %q was run and did not help", name, command)
		}
		done = append(done, command)
		if out, err := m.run("sh", "-ec", command); err != nil {
			return fmt.Errorf("%s: %q: %w: %s", name, command, err, out)
		}
	}
}

// nobody is a user without rights.
const nobody = 65534

// doctorOfUser gives a user's program the rights that doctor names.
func doctorOfUser(m *machine, n *nic) error {
	m.sh("cp /bin/tpa-bench /tmp/program")
	const finding = "capabilities"
	r, err := m.diagnose(nobody, nil, "/tmp/program", "--dev", n.name)
	if err != nil {
		return err
	}
	state, fix := r.of(finding)
	if state != "missing" {
		return fmt.Errorf("%s are %s, want them missing", finding, state)
	}
	command, _, _ := strings.Cut(strings.ReplaceAll(fix, "PROGRAM", "/tmp/program"), ", or ")
	if out, err := m.run("sh", "-ec", command); err != nil {
		return fmt.Errorf("%q: %w: %s", command, err, out)
	}
	if r, err = m.diagnose(nobody, nil, "/tmp/program", "--dev", n.name); err != nil {
		return err
	}
	if state, _ := r.of(finding); state != "ok" || r.Best.Mode != "af_xdp" {
		return fmt.Errorf("after %q, %s are %s, and the best mode is %+v", command, finding, state, r.Best)
	}
	return nil
}

// doctorOfDevice binds a card to a driver for DPDK and reserves huge pages as doctor
// says, and starts a server with the settings that it then recommends.
func doctorOfDevice(m *machine, n *nic) error {
	defer m.bind(n, "")
	const program = "/bin/tpa-bench-dpdk"
	for _, finding := range []string{"VFIO", "huge pages"} {
		r, err := m.diagnose(0, nil, program)
		if err != nil {
			return err
		}
		_, fix := r.of(finding)
		command := strings.ReplaceAll(commandIn(fix), "ADDRESS", n.pci)
		if command == "" {
			return fmt.Errorf("%s: no command in %q", finding, fix)
		}
		if out, err := m.run("sh", "-ec", command); err != nil {
			return fmt.Errorf("%s: %q: %w: %s", finding, command, err, out)
		}
		if r, err = m.diagnose(0, nil, program); err != nil {
			return err
		}
		if state, again := r.of(finding); state == "missing" || again != "" && commandIn(again) == commandIn(fix) {
			return fmt.Errorf("%s: %q was run, and it is %s: %s", finding, command, state, again)
		}
	}
	r, err := m.diagnose(0, nil, program)
	if err != nil {
		return err
	}
	use, ok := strings.CutPrefix(r.Best.Use, "TPA_DEV=")
	if !ok || use != n.pci {
		return fmt.Errorf("the best mode is %+v, want %s", r.Best, n.pci)
	}
	c := &cellRun{machine: m, result: &result{cell: cell{mode: modeVFIO}}, nic: n}
	if err := c.start("server", port, use); err != nil {
		return err
	}
	defer c.reserve(0)
	return errors.Join(c.connections(), stopped(c.stop("server", syscall.SIGTERM)))
}

// stopped is about a command that was told to end.
func stopped(res control.Response) error {
	if res.Err != "" {
		return fmt.Errorf("it does not end: %s", res.Err)
	}
	return nil
}
