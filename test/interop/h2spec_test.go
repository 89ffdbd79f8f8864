package interop

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/gotpa/tpa/internal/testnet"
)

// TestH2Spec compares what the HTTP/2 conformance suite says of net/http over
// our TCP with what it says of it over the kernel's. The suite only dials through
// the kernel, so it reaches both through the same proxy.
func TestH2Spec(t *testing.T) {
	path, err := exec.Command("go", "tool", "-modfile=../../tools/go.mod", "-n", "h2spec").Output()
	testnet.Need(t, testnet.Requirement{
		Name: "h2spec", Probe: func() error { return err },
		Mend: "go tool -modfile=tools/go.mod h2spec --version",
	})
	h2spec := strings.TrimSpace(string(path))
	results := map[string]map[string]string{}
	overTransports(t, func(t *testing.T, tr transport) {
		results[tr.name] = runH2Spec(t, h2spec, tr)
	})
	want := results["kernel"]
	if len(want) < 140 {
		t.Fatalf("the suite ran %d cases, want 140 or more", len(want))
	}
	for name, got := range results {
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("kernel (-) and %s (+) differ:\n%s", name, diff)
		}
	}
}

// runH2Spec returns the outcome of each case.
func runH2Spec(t *testing.T, h2spec string, tr transport) map[string]string {
	t.Helper()
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
	addr := proxy(t, kernel(t), tr, serveHTTP(t, tr, srv))
	host, port, err := net.SplitHostPort(addr.String())
	if err != nil {
		t.Fatal(err)
	}
	report := filepath.Join(t.TempDir(), "report.xml")
	// The exit status tells whether a case failed; some do on the kernel, too.
	out, err := exec.CommandContext(t.Context(), h2spec, "-h", host, "-p", port, "-j", report).CombinedOutput()
	b, readErr := os.ReadFile(report)
	if readErr != nil {
		t.Fatalf("%v, %v\n%s", err, readErr, out)
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
		t.Fatal(err)
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
	return outcomes
}
