package dpdk

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
)

var pciAddress = regexp.MustCompile(`^(?:[0-9a-fA-F]{4,8}:)?[0-9a-fA-F]{2}:[0-9a-fA-F]{2}\.[0-7]$`)

// name is the device's name without the driver's arguments.
func (c *Config) name() string {
	name, _, _ := strings.Cut(c.Device, ",")
	return name
}

// arg returns the value of one of the driver's arguments, or otherwise.
func (c *Config) arg(name, otherwise string) string {
	_, args, _ := strings.Cut(c.Device, ",")
	for arg := range strings.SplitSeq(args, ",") {
		if n, v, _ := strings.Cut(arg, "="); n == name {
			return v
		}
	}
	return otherwise
}

func (c *Config) isPCI() bool { return pciAddress.MatchString(c.name()) }

// checkDevice refuses names that cannot be a device's and devices that run
// commands, and spells a PCI address as DPDK does.
func (c *Config) checkDevice() error {
	const want = "want a virtual device such as net_memif0, or a PCI address such as 0000:3b:00.0"
	switch {
	case c.Device == "":
		return errors.New("Config.Device is empty: " + want)
	case strings.ContainsAny(c.Device, "\x00\n"):
		return fmt.Errorf("Config.Device is %q: want one line", c.Device)
	case strings.Contains(c.Device, "exec("):
		// net_failsafe runs what is in the brackets.
		return fmt.Errorf("Config.Device is %q: a device that runs commands is refused", c.Device)
	case c.isPCI():
		c.Device = strings.ToLower(c.name()) + c.Device[len(c.name()):]
		if strings.Count(c.name(), ":") == 1 {
			c.Device = "0000:" + c.Device
		}
	case !strings.HasPrefix(c.Device, "net_") && !strings.HasPrefix(c.Device, "eth_"):
		return fmt.Errorf("Config.Device is %q: %s", c.Device, want)
	}
	return nil
}
