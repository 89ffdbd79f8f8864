// Package process runs this program again as a child, on processors of its own,
// and makes sure that no child outlives its parent.
package process
