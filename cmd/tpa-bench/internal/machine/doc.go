// Package machine describes the machine that a measurement ran on, and watches
// it meanwhile: processor time of processes and processors, time stolen by the
// hypervisor, load. It reads /proc, /sys and clocks, and changes nothing.
package machine
