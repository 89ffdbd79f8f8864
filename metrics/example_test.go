package metrics_test

import (
	"log"
	"log/slog"
	"net/http"
	"regexp"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/gotpa/tpa/accel"
	"github.com/gotpa/tpa/accel/debug"
	"github.com/gotpa/tpa/metrics"
)

// A program that exports metrics of its own adds those of the runtime, here for
// each queue and with what the driver counts of errors.
func ExampleNewCollector() {
	rt, err := accel.New(accel.Config{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		log.Fatal(err)
	}
	defer rt.Close()

	reg := prometheus.NewRegistry()
	reg.MustRegister(metrics.NewCollector(rt, metrics.Options{
		PerQueue: true,
		Extended: regexp.MustCompile("_errors$"),
	}))
	http.Handle("/metrics", promhttp.HandlerFor(reg, promhttp.HandlerOpts{}))
}

// A program without a registry serves the runtime's metrics and its status page.
func ExampleHandler() {
	rt, err := accel.Default()
	if err != nil {
		log.Fatal(err)
	}
	http.Handle("/metrics", metrics.Handler(rt))
	http.Handle("/debug/tpa/", debug.Handler(rt, debug.Options{}))
	go http.ListenAndServe("127.0.0.1:9464", nil)
}
