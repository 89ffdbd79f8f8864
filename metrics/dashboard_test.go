package metrics_test

import (
	"encoding/json"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/gotpa/tpa/accel"
	"github.com/gotpa/tpa/metrics"
)

// exported returns the label names of every metric that Handler serves.
func exported(t *testing.T) map[string]map[string]bool {
	t.Helper()
	client, server := newPair(t, 1)
	serve(t, server)
	echo(t, dial(t, client, "10.0.0.2:7"), 10)
	all := make(map[string]map[string]bool)
	for _, rt := range []*accel.Runtime{server, newFallback(t)} {
		w := httptest.NewRecorder()
		metrics.Handler(rt).ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
		parser := expfmt.NewTextParser(model.UTF8Validation)
		families, err := parser.TextToMetricFamilies(w.Body)
		if err != nil {
			t.Fatal(err)
		}
		for name, f := range families {
			names := []string{name}
			if f.GetType().String() == "HISTOGRAM" {
				names = []string{name + "_bucket", name + "_sum", name + "_count"}
			}
			// Prometheus adds the first two, the others belong to some types.
			labels := map[string]bool{"instance": true, "job": true, "le": true, "quantile": true}
			for _, m := range f.Metric {
				for _, l := range m.Label {
					labels[l.GetName()] = true
				}
			}
			for _, n := range names {
				all[n] = labels
			}
		}
	}
	// Those that need a device that is shared with the kernel, or huge pages.
	descs := make(chan *prometheus.Desc, 1000)
	metrics.NewCollector(server, metrics.Options{PerQueue: true}).Describe(descs)
	close(descs)
	for d := range descs {
		m := described.FindStringSubmatch(d.String())
		if m == nil || all[m[1]] != nil || all[m[1]+"_bucket"] != nil {
			continue
		}
		all[m[1]] = map[string]bool{"instance": true, "job": true}
		for l := range strings.SplitSeq(m[2], ",") {
			all[m[1]][l] = true
		}
	}
	return all
}

// described finds a metric's name and labels in what a prometheus.Desc prints.
var described = regexp.MustCompile(`fqName: "(\w+)".*variableLabels: \{([^}]*)\}`)

var (
	// A selector is a metric's name, perhaps with matchers in braces.
	selector = regexp.MustCompile(`\b((?:tpa|go|process)_\w+)(\{[^}]*\})?`)
	matcher  = regexp.MustCompile(`(\w+)\s*(?:=~|!~|!=|=)\s*"[^"]*"`)
	grouping = regexp.MustCompile(`\bby \(([^)]*)\)`)
)

// check tells what is wrong with a query, knowing what is exported.
func check(t *testing.T, where, query string, exported map[string]map[string]bool) {
	t.Helper()
	union := make(map[string]bool)
	found := selector.FindAllStringSubmatch(query, -1)
	if len(found) == 0 {
		t.Errorf("%s: no metric in %s", where, query)
	}
	for _, m := range found {
		labels, ok := exported[m[1]]
		if !ok {
			t.Errorf("%s: there is no metric %s", where, m[1])
			continue
		}
		for l := range labels {
			union[l] = true
		}
		for _, l := range matcher.FindAllStringSubmatch(m[2], -1) {
			if !labels[l[1]] {
				t.Errorf("%s: %s has no label %s", where, m[1], l[1])
			}
		}
	}
	for _, by := range grouping.FindAllStringSubmatch(query, -1) {
		for l := range strings.SplitSeq(by[1], ",") {
			if l = strings.TrimSpace(l); !union[l] {
				t.Errorf("%s: no metric in the query has the label %s", where, l)
			}
		}
	}
}

func TestDashboard(t *testing.T) {
	data, err := os.ReadFile("dashboards/tpa.json")
	if err != nil {
		t.Fatal(err)
	}
	var dashboard struct {
		Panels []struct {
			ID      int
			Title   string
			Type    string
			GridPos struct{ X, Y, W, H int }
			Targets []struct{ Expr string }
		}
		Templating struct {
			List []struct{ Name, Type, Definition string }
		}
	}
	if err := json.Unmarshal(data, &dashboard); err != nil {
		t.Fatal(err)
	}
	exported := exported(t)
	ids, taken := make(map[int]bool), make(map[[2]int]string)
	for _, p := range dashboard.Panels {
		if ids[p.ID] {
			t.Errorf("%s: another panel has the number %d", p.Title, p.ID)
		}
		ids[p.ID] = true
		for x := range p.GridPos.W {
			for y := range p.GridPos.H {
				at := [2]int{p.GridPos.X + x, p.GridPos.Y + y}
				if other, ok := taken[at]; ok {
					t.Fatalf("%s covers %s", p.Title, other)
				}
				taken[at] = p.Title
			}
		}
		if p.Type != "row" && len(p.Targets) == 0 {
			t.Errorf("%s: no query", p.Title)
		}
		for _, q := range p.Targets {
			check(t, p.Title, q.Expr, exported)
		}
	}
	for _, v := range dashboard.Templating.List {
		if v.Type == "query" {
			check(t, "variable "+v.Name, v.Definition, exported)
		}
	}
}

func TestAlerts(t *testing.T) {
	data, err := os.ReadFile("alerts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	exported := exported(t)
	alerts := strings.Split(string(data), "- alert: ")[1:]
	for _, a := range alerts {
		name, rest, _ := strings.Cut(a, "\n")
		_, rest, _ = strings.Cut(rest, "expr: ")
		query, rest, ok := strings.Cut(rest, "labels:")
		if !ok {
			t.Errorf("%s: no query, or no labels behind it", name)
			continue
		}
		query, _, _ = strings.Cut(query, "for:")
		check(t, name, query, exported)
		for _, want := range []string{"severity:", "summary:", "description:"} {
			if !strings.Contains(rest, want) {
				t.Errorf("%s: no %s", name, want)
			}
		}
	}
	if len(alerts) == 0 {
		t.Error("no alerts")
	}
}
