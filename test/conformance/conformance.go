// Package conformance holds one table of probes, each a small program over
// connections and listeners that notes what it sees: values, errors and
// addresses in full, and who waits for whom. Every probe runs over the kernel's
// TCP and over others, and what it notes must be equal: the kernel is the
// reference, nothing else is written down.
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
	"sync"
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
	// ListenKernel listens on the server host by its kernel, which has the same
	// addresses. nil where the server's addresses are not the kernel's.
	ListenKernel func(ctx context.Context, lc net.ListenConfig, network, address string) (net.Listener, error)
	// DialSelf connects from the server host, to itself. nil where addresses that
	// every host has, such as 127.0.0.1, would lead to the machine of the test.
	DialSelf func(ctx context.Context, d net.Dialer, network, address string) (net.Conn, error)
	// ListenBacklog listens on the server host with room for n connections that
	// wait for Accept. nil where nobody can say how many.
	ListenBacklog func(ctx context.Context, n int, network, address string) (net.Listener, error)
	// Mortal returns an address of the server host, and how to make it vanish: from
	// then on nothing answers there. reborn undoes all. nil where that cannot be.
	Mortal func() (address string, vanish, reborn func())
	// Serial says that dials may not try two addresses at once: the goroutines for
	// that would be on another host.
	Serial bool
	// Addresses of the two hosts, without ports.
	Server4, Server6, Client4, Client6 string
	// ServerLocal and ClientLocal are link-local addresses, without zones,
	// ServerZone and ClientZone what each host calls the zone between them. "" where
	// the transport has none.
	ServerLocal, ClientLocal, ServerZone, ClientZone string
	// Blackhole is an address that swallows what is sent to it, Unrouted one to
	// which the client host has no route, Silent and Silent6 are ones on the client's
	// own network that belong to nobody. "" where the transport has none; the probes
	// that need it are then skipped.
	Blackhole, Unrouted, Silent, Silent6 string
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
		dialProbes, listenProbes, optionProbes, addressProbes, zoneProbes, nameProbes, lossProbes, streamProbes)
}

// Compare runs every probe over the first of the references that has what the
// probe needs, and over all others at once. It fails those whose outcomes are not
// as the table says. skip is called where a transport lacks something.
func Compare(t *testing.T, references, others []Transport, skip func(t testing.TB, why string)) {
	for _, p := range Probes() {
		t.Run(p.Name, func(t *testing.T) {
			reference := references[0]
			for _, r := range references[1:] {
				if p.lacking(reference) != "" {
					reference = r
				}
			}
			if what := p.lacking(reference); what != "" {
				skip(t, reference.Name+" lacks "+what)
			}
			outcomes := make([]outcome, 1+len(others))
			var running sync.WaitGroup
			for i, tr := range append([]Transport{reference}, others...) {
				if p.lacking(tr) == "" {
					running.Go(func() { outcomes[i] = p.run(tr) })
				}
			}
			running.Wait()
			want := outcomes[0]
			if want.hangs {
				t.Fatalf("%s: %v", reference.Name, want)
			}
			for i, tr := range others {
				t.Run(tr.Name, func(t *testing.T) {
					if what := p.lacking(tr); what != "" {
						skip(t, tr.Name+" lacks "+what)
					}
					p.compare(t, reference.Name, want, tr.Name, outcomes[i+1])
				})
			}
		})
	}
}

func (p Probe) compare(t *testing.T, reference string, want outcome, name string, got outcome) {
	diff := cmp.Diff(want.notes, got.notes)
	switch {
	case got.hangs:
		t.Errorf("%s: %v", name, got)
	case p.Differs == "" && diff != "":
		t.Errorf("outcomes differ (-%s +%s):\n%s", reference, name, diff)
	case p.Differs != "" && diff == "":
		t.Errorf("outcomes are equal now; remove Differs here and the row in docs/compat.md:\n%v", got)
	}
	if testing.Verbose() {
		t.Logf("%s: %v", name, got)
	}
}

// lacking tells what the transport lacks for the probe, "" when nothing.
func (p Probe) lacking(tr Transport) string {
	if p.Lacks == nil {
		return ""
	}
	return p.Lacks(tr)
}

// testTimeout is how long a probe waits for what should come. It is long: a loaded
// machine must not change an outcome.
const testTimeout = 20 * time.Second

// An outcome is what a probe noted.
type outcome struct {
	notes []string
	hangs bool // it did not come to its end
}

func (o outcome) String() string {
	text := "\n\t" + strings.Join(o.notes, "\n\t")
	if o.hangs {
		return "the probe hangs after it noted" + text
	}
	return text
}

// run runs the probe.
func (p Probe) run(tr Transport) outcome {
	e := &Env{T: tr, ports: map[string]string{}}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer e.cleanup()
		p.Run(e)
	}()
	select {
	case <-done:
		return outcome{notes: e.notes}
	case <-time.After(2 * testTimeout):
		e.mu.Lock()
		defer e.mu.Unlock()
		return outcome{notes: slices.Clone(e.notes), hangs: true}
	}
}
