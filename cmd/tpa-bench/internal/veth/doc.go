// Package veth makes two network namespaces joined by a veth pair, for a server
// and a client of the same machine. The namespaces have no name: they, and the
// pair with them, go when the last process that is in one or holds one ends,
// however it ends.
package veth
