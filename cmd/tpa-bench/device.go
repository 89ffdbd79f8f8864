package main

import (
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"
)

// deviceFlag is a flag that stands for a variable of the accelerated side.
type deviceFlag struct {
	name, env, value, about string
}

var deviceFlags = []deviceFlag{
	{"dev", "TPA_DEV", "DEVICE", "eth0, net_memif0,…, or a PCI address"},
	{"ip", "TPA_ADDR", "PREFIXES", "own addresses with prefix lengths: 10.0.0.2/24,fd00::2/64"},
	{"zone", "TPA_ZONE", "NAME", "zone of link-local addresses, as in [fe80::1%NAME]:80"},
	{"gateway", "TPA_GATEWAY", "ADDRS", "next hops for everything else: 10.0.0.1"},
	{"mtu", "TPA_MTU", "BYTES", "greatest IP packet"},
	{"vlan", "TPA_VLAN", "N", "the VLAN that a device of DPDK belongs to"},
	{"checksum", "TPA_CHECKSUM", "yes|no", "whether TCP has checksums; no is for net_memif, at both ends"},
	{"queues", "TPA_QUEUES", "N", "device queues, each with a stack and a poller"},
	{"cpus", "TPA_CPUS", "LIST", "CPUs to pin the pollers to: 2,3"},
	{"tcp", "TPA_TCP", "ENGINE", "the TCP: tpa or gvisor"},
	{"spin", "TPA_SPIN", "DURATION", "how long an idle poller polls before it sleeps"},
	{"max-sleep", "TPA_MAX_SLEEP", "DURATION", "longest sleep of an idle poller"},
	{"hugepages", "TPA_HUGEPAGES", "POLICY", "auto, always or never"},
	{"memory", "TPA_MEMORY_MB", "MB", "memory for packet buffers"},
}

// deviceHelp is the table of device flags, for the help of each command.
func deviceHelp() string {
	var b strings.Builder
	b.WriteString(`The accelerated side is set by flags, or else by environment variables. They are
the same for every command:

`)
	for _, f := range deviceFlags {
		fmt.Fprintf(&b, "  %-21s %-14s %s\n", "--"+f.name+" "+f.value, f.env, f.about)
	}
	b.WriteString(`
It never falls back to the kernel, whatever TPA_FALLBACK says: a measurement must
not be the kernel's unasked.`)
	return b.String()
}

// addDeviceFlags adds the flags, which the help shows in its table only.
func addDeviceFlags(cmd *cobra.Command) {
	for _, f := range deviceFlags {
		cmd.Flags().String(f.name, "", f.about+" ("+f.env+")")
		cmd.Flags().MarkHidden(f.name)
	}
	cmd.Long += "\n\n" + deviceHelp()
}

// setDevice turns the flags that were given into their variables, for this
// process and those that it starts.
func setDevice(cmd *cobra.Command) error {
	for _, f := range deviceFlags {
		if flag := cmd.Flags().Lookup(f.name); flag.Changed {
			if err := os.Setenv(f.env, flag.Value.String()); err != nil {
				return err
			}
		}
	}
	return nil
}
