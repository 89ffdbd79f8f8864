// Package report turns measurements into tables, JSON, Go's benchmark format
// and a self-contained HTML page. The JSON is the stable form: everything else
// can be made from it later.
package report
