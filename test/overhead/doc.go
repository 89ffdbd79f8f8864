// Package overhead measures what it costs to see inside: how many requests per
// second fewer a program serves because connections are recorded, or because
// somebody scrapes its metrics.
//
// Both sides of a comparison run in one process, on the same stacks and pollers,
// and take turns every 50 or 100 ms, in the order with, without, without, with. What
// changes slowly on the machine thereby meets both alike. Every few turns a new
// program is made, because two that are alike differ by several percent for as
// long as they live: by where things came to lie in memory. So differences far
// below the noise between two runs can be seen.
//
//	go test -run '^$' -cpu 1 -bench . -benchtime 60x ./test/overhead
//
// with one processor, on which it is several times more exact than with two,
// prints the median of the differences in percent, of requests per second and per
// second of processor time, and within how much of it the true median lies with a
// probability of 95 %. Each of the 60 is a program of its
// own and takes about a second.
package overhead
