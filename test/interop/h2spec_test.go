package interop

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/gotpa/tpa/accel"
	"github.com/gotpa/tpa/internal/leak"
	"github.com/gotpa/tpa/internal/testnet"
	"github.com/gotpa/tpa/link/dpdk"
)

// TestH2Spec compares what the HTTP/2 conformance suite says of net/http over
// our TCP with what it says of it over the kernel's. The suite dials through the
// kernel: on another host, across a wire, or through a proxy to what no wire
// leads to.
func TestH2Spec(t *testing.T) {
	path, err := exec.Command("go", "tool", "-modfile=../../tools/go.mod", "-n", "h2spec").Output()
	testnet.Need(t, testnet.Netns, testnet.DPDK, testnet.Requirement{
		Name: "h2spec", Probe: func() error { return err },
		Fix: "go tool -modfile=tools/go.mod h2spec --version",
	})
	h2spec := strings.TrimSpace(string(path))
	results := map[string]map[string]string{}
	var mu sync.Mutex
	var running sync.WaitGroup
	for name, open := range map[string]func(*testing.T) (net.Addr, command){
		"kernel across a wire":    func(t *testing.T) (net.Addr, command) { return h2Wire(t, "") },
		"xdp across a wire":       func(t *testing.T) (net.Addr, command) { return h2Wire(t, "xdp:eth0") },
		"af_packet across a wire": func(t *testing.T) (net.Addr, command) { return h2Wire(t, "net_af_packet7,iface=eth0") },
		"kernel behind a proxy":   func(t *testing.T) (net.Addr, command) { return h2Proxy(t, kernel(t)) },
		"memory behind a proxy":   func(t *testing.T) (net.Addr, command) { return h2Proxy(t, accelerated(t)) },
	} {
		addr, command := open(t)
		report := filepath.Join(t.TempDir(), "report.xml")
		// All at once: a run waits for most of its 10 s.
		running.Go(func() {
			result, err := runH2Spec(command, h2spec, addr, report)
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
			mu.Lock()
			defer mu.Unlock()
			results[name] = result
		})
	}
	running.Wait()
	for name, got := range results {
		_, way, _ := strings.Cut(name, " ")
		want := results["kernel "+way]
		if len(want) < 140 {
			t.Fatalf("the suite ran %d cases over the kernel %s, want 140 or more", len(want), way)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("kernel (-) and %s (+) differ:\n%s", name, diff)
		}
	}
}

// command makes a command that can reach a server.
type command func(name string, args ...string) *exec.Cmd

// h2Wire serves on a host, by a device or by the kernel, for commands on another.
func h2Wire(t *testing.T, device string) (net.Addr, command) {
	leak.Check(t)
	n := testnet.New(t)
	server, client := n.Host("server"), n.Host("client")
	si, _ := n.Connect(server, client, testnet.Wire{})
	tr := transport{listen: func(tb testing.TB) (ln net.Listener) {
		server.Do(func() {
			address := net.JoinHostPort(si.IPv4.Addr().String(), "80")
			if device == "" {
				ln = closeAtEnd(tb)(net.Listen("tcp", address))
				return
			}
			if !strings.HasPrefix(device, "xdp:") {
				si.Release()
			}
			rt, err := accel.New(accel.Config{
				Device: device, Addrs: []netip.Prefix{si.IPv4},
				DPDK:     accel.DPDK{HugePages: dpdk.HugePagesNever, MemoryMB: 128},
				Fallback: accel.FallbackNever, Logger: slog.New(slog.DiscardHandler), DebugSocket: "off",
			})
			if err != nil {
				tb.Fatal(err)
			}
			tb.Cleanup(func() { rt.Close() })
			ln = closeAtEnd(tb)((&accel.ListenConfig{Runtime: rt}).Listen(t.Context(), "tcp", address))
		})
		return ln
	}}
	return serveHTTP(t, tr, h2Server()), client.Command
}

// h2Proxy serves on a transport, for commands on this host.
func h2Proxy(t *testing.T, tr transport) (net.Addr, command) {
	return proxy(t, kernel(t), tr, serveHTTP(t, tr, h2Server())), func(name string, args ...string) *exec.Cmd {
		return exec.CommandContext(t.Context(), name, args...)
	}
}

func h2Server() *http.Server {
	srv := &http.Server{
		Protocols: new(http.Protocols),
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			io.WriteString(w, "hello")
		}),
		ErrorLog: log.New(io.Discard, "", 0), // every violation is one
	}
	srv.Protocols.SetHTTP1(true)
	srv.Protocols.SetUnencryptedHTTP2(true)
	return srv
}

// runH2Spec returns the outcome of each case.
func runH2Spec(command command, h2spec string, addr net.Addr, report string) (map[string]string, error) {
	host, port, err := net.SplitHostPort(addr.String())
	if err != nil {
		return nil, err
	}
	// The exit status tells whether a case failed; some do on the kernel, too.
	out, err := command(h2spec, "-h", host, "-p", port, "-j", report).CombinedOutput()
	b, readErr := os.ReadFile(report)
	if readErr != nil {
		return nil, fmt.Errorf("%v, %v\n%s", err, readErr, out)
	}
	var suites struct {
		Suites []struct {
			Name  string `xml:"name,attr"`
			Cases []struct {
				Name    string    `xml:"classname,attr"`
				Failure *struct{} `xml:"failure"`
				Error   *struct{} `xml:"error"`
				Skipped *struct{} `xml:"skipped"`
			} `xml:"testcase"`
		} `xml:"testsuite"`
	}
	if err := xml.NewDecoder(bytes.NewReader(b)).Decode(&suites); err != nil {
		return nil, err
	}
	outcomes := map[string]string{}
	for i, s := range suites.Suites {
		for _, c := range s.Cases {
			outcome := "passed"
			switch {
			case c.Failure != nil:
				outcome = "failed"
			case c.Error != nil:
				outcome = "error"
			case c.Skipped != nil:
				outcome = "skipped"
			}
			outcomes[fmt.Sprintf("%d. %s: %s", i, s.Name, c.Name)] = outcome
		}
	}
	return outcomes, nil
}
