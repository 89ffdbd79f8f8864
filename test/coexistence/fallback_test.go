package coexistence

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/gotpa/tpa/internal/testnet"
	"github.com/gotpa/tpa/link/xdp"
)

// device asks the server what it serves through.
func device(t *testing.T, c net.Conn) string {
	t.Helper()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	fmt.Fprint(c, "DEVICE x\r\n")
	line, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(line)[1:]
}

// TestFallback: what keeps a server from being accelerated is named, with the way
// out; it then serves through the kernel and counts that, or ends if it must not.
func TestFallback(t *testing.T) {
	testnet.Need(t, testnet.Tool("setpriv"))
	s := newSite(t, testnet.Wire{})
	addr4, _ := at(s.si, port)
	for _, tt := range []struct {
		name string
		env  []string
		drop string // capabilities
		want []string
	}{
		{"no device", []string{"TPA_DEV="}, "", []string{"no device is configured", "set TPA_DEV"}},
		{"no such interface", []string{"TPA_DEV=nowhere"}, "", []string{"nowhere", "no such interface", "ip link"}},
		{"not Ethernet", []string{"TPA_DEV=lo"}, "", []string{"not an Ethernet interface"}},
		{"no capabilities", nil, "-all", []string{"CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN", "setcap"}},
		{"no CAP_NET_RAW", nil, "-net_raw", []string{"CAP_NET_RAW", "setcap"}},
		{"too many queues", []string{"TPA_QUEUES=2"}, "", []string{"2 queues", "has 1", "ethtool -L"}},
		{"MTU too great", []string{"TPA_MTU=9000"}, "", []string{"Config.MTU is 9000", "1500"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := &site{T: t, client: s.client, server: s.server, ci: s.ci, si: s.si}
			for _, policy := range []string{"never", "auto"} {
				p := s.launchWithout(tt.drop, append(tt.env, "TPA_FALLBACK="+policy)...)
				line := p.line()
				for _, w := range tt.want {
					if !strings.Contains(line, w) {
						t.Errorf("fallback %s: the server says %q, not %q", policy, line, w)
					}
				}
				if policy == "never" {
					if !strings.HasPrefix(line, "error:") {
						t.Errorf("the server says %q, want an error", line)
					}
					p.Wait()
					continue
				}
				c, err := dial(s.client, addr4)
				if err != nil {
					t.Fatal(err)
				}
				if got := device(t, c); got != "kernel, 1 listeners fell back" {
					t.Errorf("the server serves through %s", got)
				}
				c.Close()
				p.kill()
			}
		})
	}
}

// TestRights: the capabilities that the error of a server without any asks for are
// enough.
func TestRights(t *testing.T) {
	testnet.Need(t, testnet.Tool("setpriv"))
	_, list, _ := strings.Cut(xdp.Capabilities, "setcap cap_")
	list, _, _ = strings.Cut(list, "+ep")
	rights := "-all,+" + strings.ReplaceAll(list, ",cap_", ",+")
	for _, dev := range ways() {
		t.Run(dev, func(t *testing.T) {
			s := newSite(t, testnet.Wire{})
			p := s.launchWithout(rights, "TPA_DEV="+dev+s.si.Name)
			if line := p.line(); line != "serving: accelerated true (<nil>)" {
				t.Fatalf("with %s the server says %q", rights, line)
			}
			addr, _ := at(s.si, port)
			if err := s.served(addr); err != nil {
				t.Error(err)
			}
			if log := p.log.String(); strings.Contains(log, "WARN") {
				t.Errorf("with %s the server warns: %s", rights, log)
			}
		})
	}
}

// launchWithout starts a server without some capabilities, as setpriv names them.
func (s *site) launchWithout(capabilities string, env ...string) *process {
	if capabilities == "" {
		return s.launch(port, env...)
	}
	return s.run(s.server.Command("setpriv", "--bounding-set", capabilities, "--inh-caps", capabilities, os.Args[0]), port, env...)
}
