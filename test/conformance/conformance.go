// Package conformance holds one table of probes, each a small program over
// connections and listeners that notes what it sees: values, errors and
// addresses in full, and who waits for whom. Every probe runs over two
// transports, the kernel's TCP and another, and what it notes must be equal: the
// kernel is the reference, nothing else is written down.
//
// A probe that cannot be equal says why in Differs. It then must differ, so that
// the list does not grow old, and docs/compat.md tells users.
//
// The probes of one file cover one topic. They run one after the other in a
// goroutine of their own, and may start more.
package conformance

import (
	"context"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// A Transport is TCP between two hosts, which may be the same one.
type Transport struct {
	Name string
	// Listen listens on the server host, Dial connects from the client host.
	Listen func(ctx context.Context, lc net.ListenConfig, network, address string) (net.Listener, error)
	Dial   func(ctx context.Context, d net.Dialer, network, address string) (net.Conn, error)
	// Addresses of the two hosts, without ports.
	Server4, Server6, Client4, Client6 string
	// Blackhole is an address that swallows what is sent to it, Unrouted one to
	// which the client host has no route, Silent one on the client's own network
	// that belongs to nobody. "" where the transport has none; the probes that
	// need it are then skipped.
	Blackhole, Unrouted, Silent string
}

// A Probe is one row of the table.
type Probe struct {
	// Name is TOPIC/WHAT.
	Name string
	// Differs says why the outcomes cannot be equal; docs/compat.md has the same
	// reason for users.
	Differs string
	// Lacks tells what the transport lacks for this probe, "" when nothing.
	Lacks func(Transport) string
	// Run does the probe and notes what it sees.
	Run func(*Env)
}

// Probes returns the table.
func Probes() []Probe {
	return slices.Concat(readProbes, writeProbes, closeProbes, deadlineProbes,
		dialProbes, listenProbes, optionProbes, addressProbes, streamProbes)
}

// Compare runs every probe over reference and other, as subtests, and fails
// those whose outcomes are not as the table says. skip is called where a
// transport lacks something.
func Compare(t *testing.T, reference, other Transport, skip func(t testing.TB, why string)) {
	for _, p := range Probes() {
		t.Run(p.Name, func(t *testing.T) {
			for _, tr := range []Transport{reference, other} {
				if p.Lacks == nil {
					continue
				}
				if what := p.Lacks(tr); what != "" {
					skip(t, tr.Name+" lacks "+what)
				}
			}
			want, got := p.outcome(t, reference), p.outcome(t, other)
			diff := cmp.Diff(want, got)
			switch {
			case p.Differs == "" && diff != "":
				t.Errorf("outcomes differ (-%s +%s):\n%s", reference.Name, other.Name, diff)
			case p.Differs != "" && diff == "":
				t.Errorf("outcomes are equal now; remove Differs here and the row in docs/compat.md:\n%s", strings.Join(got, "\n"))
			}
			if testing.Verbose() {
				t.Logf("%s:\n\t%s", other.Name, strings.Join(got, "\n\t"))
			}
		})
	}
}

// patience is how long a probe waits for what should come. It is long: a loaded
// machine must not change an outcome.
const patience = 20 * time.Second

// outcome runs the probe and returns what it noted.
func (p Probe) outcome(t *testing.T, tr Transport) []string {
	t.Helper()
	e := &Env{T: tr, ports: map[string]string{}}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer e.cleanup()
		p.Run(e)
	}()
	select {
	case <-done:
	case <-time.After(2 * patience):
		e.mu.Lock()
		defer e.mu.Unlock()
		t.Fatalf("%s: the probe hangs after it noted\n\t%s", tr.Name, strings.Join(e.notes, "\n\t"))
	}
	return e.notes
}
