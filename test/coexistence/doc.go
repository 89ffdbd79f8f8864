// Package coexistence shows that a program that shares an interface with the
// kernel takes its own flows and nothing else, whatever happens to it. It holds
// tests only: the server runs in a process and a network namespace of its own,
// with one veth pair to its clients.
package coexistence
