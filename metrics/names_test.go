package metrics_test

import (
	"os"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/gotpa/tpa/metrics"
)

// TestDocumented checks that docs/observability.md names every metric.
func TestDocumented(t *testing.T) {
	text, err := os.ReadFile("../docs/observability.md")
	if err != nil {
		t.Fatal(err)
	}
	client, _ := newPair(t, 1)
	descs := make(chan *prometheus.Desc, 1000)
	metrics.NewCollector(client, metrics.Options{PerQueue: true}).Describe(descs)
	close(descs)
	for d := range descs {
		_, name, _ := strings.Cut(d.String(), `fqName: "`)
		name, _, _ = strings.Cut(name, `"`)
		if !strings.Contains(string(text), "`"+name+"`") {
			t.Errorf("docs/observability.md does not name %s", name)
		}
	}
}
