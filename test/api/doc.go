// Package api keeps the exported API of the packages that users import. What it
// is stands in testdata, and changes on purpose only:
//
//	go test ./test/api -update
//
// writes it anew. It holds tests only.
package api
