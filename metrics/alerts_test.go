package metrics_test

import (
	"os/exec"
	"testing"

	"github.com/gotpa/tpa/internal/testnet"
)

// TestAlertsFire has Prometheus itself say when the alerts fire.
func TestAlertsFire(t *testing.T) {
	testnet.Need(t, testnet.Tool("promtool"))
	if out, err := exec.Command("promtool", "test", "rules", "testdata/alerts_test.yaml").CombinedOutput(); err != nil {
		t.Errorf("promtool test rules: %v\n%s", err, out)
	}
}
