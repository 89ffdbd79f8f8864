// Package interop runs programs that know nothing of this project over both
// transports, the kernel's TCP and ours, and expects the same of each: servers
// and clients of the Go ecosystem in this process, and the tools that people
// use, such as curl and redis-benchmark, across a wire. It holds tests only.
package interop
