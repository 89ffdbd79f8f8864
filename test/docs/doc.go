// Package docs compiles the Go of the documentation. It holds tests only; the command
// lines and their outputs are tested in cmd/tpa-bench.
package docs
