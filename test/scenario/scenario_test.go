package scenario

import (
	"slices"
	"sync"
	"testing"

	"github.com/gotpa/tpa/accel"
)

// scenarios are all there are.
var scenarios = slices.Concat(
	handshakes, optionScenarios, windows, data, retransmissions, congestion, closing, attacks, timers,
)

var families = []struct {
	name string
	v6   bool
}{{"IPv4", false}, {"IPv6", true}}

func (s scenario) in(family string) bool { return s.only == "" || s.only == family }

// TestOurs runs the scenarios against our stack in virtual time, with our own TCP and
// with gVisor's.
func TestOurs(t *testing.T) {
	for _, engine := range []accel.Engine{accel.EngineTPA, accel.EngineGVisor} {
		t.Run(engine.String(), func(t *testing.T) {
			passed, failing := 0, 0
			for _, sc := range scenarios {
				t.Run(sc.title(), func(t *testing.T) {
					reason := known[engine.String()][sc.title()]
					var errs []error
					for _, f := range families {
						if !sc.in(f.name) {
							continue
						}
						if err := runOurs(t, sc, engine, f.v6); err != nil {
							t.Logf("over %s: %v", f.name, err)
							errs = append(errs, err)
						}
					}
					switch {
					case len(errs) == 0 && reason != "":
						t.Errorf("it passes: take it from the known ones (%s)", reason)
					case len(errs) == 0:
						passed++
					case reason != "":
						failing++
						t.Logf("known: %s", reason)
					default:
						t.Fail()
					}
				})
			}
			t.Logf("%d scenarios: %d pass with %s, %d are known not to", len(scenarios), passed, engine, failing)
		})
	}
}

// TestScenarios checks the table itself.
func TestScenarios(t *testing.T) {
	seen := map[string]bool{}
	for _, sc := range scenarios {
		if seen[sc.title()] {
			t.Errorf("two scenarios are called %q", sc.title())
		}
		seen[sc.title()] = true
	}
	for engine, list := range known {
		for title := range list {
			if !seen[title] {
				t.Errorf("%s is known not to pass %q, which is no scenario", engine, title)
			}
		}
	}
}

// atOnce is how many scenarios run against the kernel at a time. They wait most of the
// time.
const atOnce = 32

// TestLinux runs them against the kernel in real time.
func TestLinux(t *testing.T) {
	kernels := map[bool]*kernel{false: newKernel(t, "0"), true: newKernel(t, "3")}
	type result struct {
		scenario
		errs [2]error // by family
	}
	var all []*result
	for _, sc := range scenarios {
		if !sc.slow && sc.ours == "" {
			all = append(all, &result{scenario: sc})
		}
	}
	var wg sync.WaitGroup
	slots := make(chan struct{}, atOnce)
	for _, l := range all {
		for i, f := range families {
			if !l.in(f.name) {
				continue
			}
			slots <- struct{}{}
			wg.Go(func() {
				defer func() { <-slots }()
				l.errs[i] = newRun(kernels[l.tailProbes].newHost(), &l.scenario, f.v6).play()
			})
		}
	}
	wg.Wait()
	passed := 0
	for _, l := range all {
		t.Run(l.title(), func(t *testing.T) {
			for i, f := range families {
				for try := 0; l.errs[i] != nil && try < 3; try++ {
					// In real time a busy machine spoils a run: alone it has a chance.
					l.errs[i] = newRun(kernels[l.tailProbes].newHost(), &l.scenario, f.v6).play()
				}
				if l.errs[i] != nil {
					t.Errorf("over %s: %v", f.name, l.errs[i])
				}
			}
			if !t.Failed() {
				passed++
			}
		})
	}
	t.Logf("%d of %d scenarios ran against Linux, %d passed", len(all), len(scenarios), passed)
}
