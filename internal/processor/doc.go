// Package processor is what a poller does with its processor while there is nothing to
// do, and while there is too much.
//
// A poller that looks at its queue without a pause answers soonest, and leaves nothing
// to others. So an idle one spins, as long as that has paid before (spin.go), lets
// other goroutines and threads run meanwhile (yield), and sleeps at last: Idler. A
// busy one gives goroutines of Go's global run queue their turn: Turns. Polling are the
// settings of both, whose defaults look at the cgroup's quota (quota.go).
//
// The package knows no packets and no queue. An Idler and Turns belong to one poller,
// whose goroutine alone calls them; any goroutine may call the rest.
package processor
