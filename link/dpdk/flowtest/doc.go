// Package flowtest stands in for a device that follows flow rules. In a program
// that links it, DPDK's rte_flow functions are this package's: they write down
// what they are given, field by field, and refuse on demand. While no device is
// played, they pass everything on. It serves tests only.
package flowtest
