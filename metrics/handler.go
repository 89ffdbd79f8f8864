package metrics

import (
	"bytes"
	"maps"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/gotpa/tpa/accel"
)

// maxAge is how old an answer of Handler may be. Making one costs about 1 ms of a
// processor, most of it in the library: scrapers that come more often, or in
// numbers, share it.
const maxAge = time.Second

// Handler serves the metrics of the runtime, queue by queue, together with those
// of the Go runtime and the process. Its answers are at most a second old.
func Handler(rt *accel.Runtime) http.Handler {
	reg := prometheus.NewRegistry()
	reg.MustRegister(
		NewCollector(rt, Options{PerQueue: true}),
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	return &sharing{next: promhttp.HandlerFor(reg, promhttp.HandlerOpts{}), answers: make(map[string]*answer)}
}

// maxAnswers bounds the forms in which a scraper may ask for an answer.
const maxAnswers = 8

// sharing gives one answer to all who ask in the same form within maxAge.
type sharing struct {
	next http.Handler

	mu      sync.Mutex
	since   time.Time          // when the first of answers was made
	answers map[string]*answer // by what was asked for
}

// ServeHTTP implements http.Handler.
func (s *sharing) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.RawQuery != "" {
		s.next.ServeHTTP(w, r) // it may ask for some of the metrics
		return
	}
	a := s.answer(r)
	maps.Copy(w.Header(), a.header)
	w.WriteHeader(a.status)
	w.Write(a.body.Bytes())
}

// answer returns one that is young, or makes it. Who comes meanwhile waits for it.
func (s *sharing) answer(r *http.Request) *answer {
	form := r.Header.Get("Accept") + "\n" + r.Header.Get("Accept-Encoding")
	s.mu.Lock()
	defer s.mu.Unlock()
	if time.Since(s.since) > maxAge || len(s.answers) >= maxAnswers {
		s.since = time.Now()
		clear(s.answers)
	}
	a := s.answers[form]
	if a == nil {
		a = &answer{header: make(http.Header), status: http.StatusOK}
		s.next.ServeHTTP(a, r)
		s.answers[form] = a
	}
	return a
}

// An answer is a response that is kept.
type answer struct {
	header http.Header
	status int
	body   bytes.Buffer
}

// Header implements http.ResponseWriter.
func (a *answer) Header() http.Header { return a.header }

// WriteHeader implements http.ResponseWriter.
func (a *answer) WriteHeader(status int) { a.status = status }

// Write implements http.ResponseWriter.
func (a *answer) Write(b []byte) (int, error) { return a.body.Write(b) }
