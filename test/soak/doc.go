// Package soak runs servers and clients for as long as it is told to: connections
// come and go, listeners and runtimes are restarted, the network is good and bad
// by turns, and metrics are scraped. Every byte is checked, and what is left over
// is counted. It holds tests only; `make soak D=8h` runs it.
package soak
