package accel

import (
	"encoding"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gotpa/tpa/internal/limits"
	"github.com/gotpa/tpa/internal/recorder"
	"github.com/gotpa/tpa/link/dpdk"
)

// A Setting is what a configuration file or the environment can set: a field of
// Config. Settings lists them all.
type Setting struct {
	// Key is the name in a configuration file: device, or tcp.engine for the key
	// engine of the table tcp.
	Key string
	// Env is the environment variable, empty for none.
	Env string
	// Field is the field of Config, such as TCP.Engine.
	Field string
	// Values says what it may hold, Default what it is unless it is set, and About
	// what it is, all for people.
	Values, Default, About string
	// Live tells whether Runtime.Change can change it.
	Live bool

	// set parses a value, or the elements of a list, and fails on what is out of
	// range.
	set func(c *Config, values []string) error
	// env, if not nil, does likewise for the variable, where that has another unit.
	env       func(c *Config, values []string) error
	envValues string
	// get returns what set takes, empty for the default.
	get func(c *Config) string
}

// Settings returns all settings in the order of the documentation. Of Config, Link,
// Random and the two loggers have no text form and are missing.
func Settings() []Setting { return slices.Clone(settings) }

// Value returns the setting's value in c as a configuration file has it, empty where
// it is the default.
func (s Setting) Value(c *Config) string { return s.get(c) }

// lookUp finds a setting by its key.
func lookUp(key string) (Setting, bool) {
	i := slices.IndexFunc(settings, func(s Setting) bool { return s.Key == key })
	if i < 0 {
		return Setting{}, false
	}
	return settings[i], true
}

// settings is the table. Documentation, files, the environment, validation and live
// changes are made from it.
var settings = []Setting{
	word("device", "TPA_DEV", "Device", func(c *Config) *string { return &c.Device },
		"eth0 (by AF_XDP, or a packet socket where that is faster or XDP is in use), xdp:eth0 or packet:eth0 (only that), net_… (a virtual device of DPDK), 0000:3b:00.0 (PCI, by DPDK)",
		"none: falls back", "the network device"),
	form("steering", "TPA_STEERING", "Steering", func(c *Config) *Steering { return &c.Steering }, steerings.want(), "auto",
		"how our flows come here on devices of DPDK that the kernel has, too; see nics.md"),
	list("addrs", "TPA_ADDR", "Addrs", func(c *Config) *[]netip.Prefix { return &c.Addrs }, netip.ParsePrefix,
		"addresses with prefix lengths, such as 10.0.0.2/24,fd00::2/64, at most 256", "those of the interface if it is shared, else an error",
		"the local addresses; fe80::/64 stands for the link-local address made from the MAC address"),
	word("zone", "TPA_ZONE", "Zone", func(c *Config) *string { return &c.Zone },
		"a name", "the device's name, such as net_memif0", "the zone of link-local addresses on a device of our own"),
	list("gateways", "TPA_GATEWAY", "Gateways", func(c *Config) *[]netip.Addr { return &c.Gateways }, netip.ParseAddr,
		"addresses, such as 10.0.0.1,fd00::1, one per IP version", "the kernel's routes if the interface is shared, else none",
		"the next hops for everything outside the prefixes"),
	live(list("allow_from", "TPA_ALLOW_FROM", "AllowFrom", func(c *Config) *[]netip.Prefix { return &c.AllowFrom }, netip.ParsePrefix,
		"prefixes, such as 10.0.0.0/8,fd00::/8, at most 1024", "everybody", "the sources that may connect to listeners; 0.0.0.0/0,::/0 are all")),
	{
		Key: "checksum", Env: "TPA_CHECKSUM", Field: "NoChecksum", Values: "yes or no", Default: "yes",
		About: "whether TCP has checksums; no is for net_memif, and for both of its ends",
		set: one(func(c *Config, v string) error {
			var err error
			if v != "yes" && v != "no" {
				err = strconv.ErrSyntax
			}
			return assign(&c.NoChecksum, v == "no", err)
		}),
		get: func(c *Config) string {
			if !c.NoChecksum {
				return ""
			}
			return "no"
		},
	},
	number("vlan", "TPA_VLAN", "VLAN", func(c *Config) *int { return &c.VLAN }, 1, maxVLAN, "(its number)", "no tags", "the VLAN that a device of DPDK belongs to; see nics.md"),
	number("mtu", "TPA_MTU", "MTU", func(c *Config) *int { return &c.MTU }, minMTU, maxMTU, "bytes, at most the device's", "the device's", "the greatest IP packet"),
	number("queues", "TPA_QUEUES", "Queues", func(c *Config) *int { return &c.Queues }, 1, maxQueues, "queues, at most the device's", "1", "device queues, each with a shard"),
	list("cpus", "TPA_CPUS", "CPUs", func(c *Config) *[]int { return &c.CPUs }, strconv.Atoi,
		"CPU numbers, such as 2,3, one per queue", "pollers float", "the CPUs that pollers are pinned to"),
	live(Setting{
		Key: "polling.spin", Env: "TPA_SPIN", Field: "Polling.Spin", Values: "a duration, such as 50us: 1us to 1s, or never (to sleep); 0 is 1us", Default: "1ms",
		About: "how long an idle poller polls before it sleeps",
		set: one(func(c *Config, v string) error {
			if v == "never" {
				c.Polling.Spin = -1
				return nil
			}
			d, err := time.ParseDuration(v)
			if d == 0 {
				d = minSpin
			}
			return assign(&c.Polling.Spin, d, err)
		}),
		get: func(c *Config) string {
			if c.Polling.Spin < 0 {
				return "never"
			}
			return duration(c.Polling.Spin)
		},
	}),
	live(Setting{
		Key: "polling.max_sleep", Env: "TPA_MAX_SLEEP", Field: "Polling.MaxSleep", Values: "a duration of 10µs to 100ms, such as 1ms", Default: "1ms",
		About: "the longest sleep between two polls of a device that cannot wake its poller",
		set: one(func(c *Config, v string) error {
			d, err := time.ParseDuration(v)
			return assign(&c.Polling.MaxSleep, d, cmpErr(err, d < minSleep || d > maxSleep))
		}),
		get: func(c *Config) string { return duration(c.Polling.MaxSleep) },
	}),
	live(Setting{
		Key: "polling.long_handler", Field: "Polling.LongHandler", Values: "a duration of 10µs to 1m, such as 10ms", Default: "10ms",
		About: "how long a handler may run in the poller before it is counted and logged",
		set: one(func(c *Config, v string) error {
			d, err := time.ParseDuration(v)
			return assign(&c.Polling.LongHandler, d, cmpErr(err, d < minLong || d > maxLong))
		}),
		get: func(c *Config) string { return duration(c.Polling.LongHandler) },
	}),
	form("tcp.engine", "TPA_TCP", "TCP.Engine", func(c *Config) *Engine { return &c.TCP.Engine }, engines.want(), "tpa",
		"the TCP: our own, which runs to completion in the poller, or gVisor's, slower, the reference in tests"),
	number("tcp.receive_buffer", "", "TCP.ReceiveBuffer", func(c *Config) *int { return &c.TCP.ReceiveBuffer }, minBuffer, maxBuffer, "bytes", "33554432",
		"the greatest receive buffer of one connection; it begins with 1 MB"),
	number("tcp.send_buffer", "", "TCP.SendBuffer", func(c *Config) *int { return &c.TCP.SendBuffer }, minBuffer, maxBuffer, "bytes", "33554432",
		"the greatest send buffer of one connection; it begins with 256 KB"),
	{
		Key: "tcp.time_wait", Field: "TCP.TimeWait", Values: "a duration of 1ms to 4m", Default: "60s",
		About: "how long a closed connection blocks its addresses and ports",
		set: one(func(c *Config, v string) error {
			d, err := time.ParseDuration(v)
			return assign(&c.TCP.TimeWait, d, cmpErr(err, d < minTimeWait || d > maxTimeWait))
		}),
		get: func(c *Config) string { return duration(c.TCP.TimeWait) },
	},
	flag("tcp.no_sack", "", "TCP.NoSACK", func(c *Config) *bool { return &c.TCP.NoSACK }, "turns selective acknowledgements off"),
	flag("tcp.no_coalescing", "", "TCP.NoCoalescing", func(c *Config) *bool { return &c.TCP.NoCoalescing }, "delivers each received segment by itself"),
	form("tcp.congestion", "", "TCP.Congestion", func(c *Config) *Congestion { return &c.TCP.Congestion }, congestions.want(), "auto",
		"the congestion control: auto is cubic, but reno with gVisor's TCP; with gVisor's TCP cubic's window arithmetic can overflow"),
	live(number("limits.connections", "TPA_MAX_CONNS", "Limits.Connections", func(c *Config) *int { return &c.Limits.Connections }, 1, limits.MaxConnections, "connections", "65536", "see Limits")),
	live(number("limits.half_open", "", "Limits.HalfOpen", func(c *Config) *int { return &c.Limits.HalfOpen }, 1, limits.MaxHalfOpen, "handshakes", "1024", "see Limits")),
	live(number("limits.closing", "", "Limits.Closing", func(c *Config) *int { return &c.Limits.Closing }, 1, limits.MaxConnections, "connections", "16384", "see Limits")),
	live(number("limits.time_wait", "", "Limits.TimeWait", func(c *Config) *int { return &c.Limits.TimeWait }, 1, limits.MaxConnections, "connections", "65536", "see Limits")),
	live(memoryLimit()),
	live(number("limits.resets", "", "Limits.Resets", func(c *Config) *int { return &c.Limits.Resets }, 1, limits.MaxResets, "resets per second", "1000", "see Limits")),
	form("dpdk.huge_pages", "TPA_HUGEPAGES", "DPDK.HugePages", func(c *Config) *dpdk.Policy { return &c.DPDK.HugePages }, "auto, always or never", "auto",
		"whether packet buffers of DPDK live in huge pages"),
	number("dpdk.memory_mb", "TPA_MEMORY_MB", "DPDK.MemoryMB", func(c *Config) *int { return &c.DPDK.MemoryMB }, 16, 65536, "MB", "what the first port needs, at least 64",
		"the memory for packet buffers of DPDK"),
	word("dpdk.file_prefix", "", "DPDK.FilePrefix", func(c *Config) *string { return &c.DPDK.FilePrefix },
		"1 to 32 letters, digits, - and _", "tpa and the process number", "the name among DPDK processes"),
	list("dpdk.cpus", "", "DPDK.CPUs", func(c *Config) *[]int { return &c.DPDK.CPUs }, strconv.Atoi,
		"CPU numbers", "those of the calling thread", "where DPDK's own threads may run; pollers are not bound by it"),
	list("dpdk.extra_args", "", "DPDK.ExtraArgs", func(c *Config) *[]string { return &c.DPDK.ExtraArgs }, func(v string) (string, error) { return v, nil },
		"a list of arguments", "none", "further EAL arguments, out of a list of harmless ones"),
	flag("xdp.pin", "TPA_XDP_PIN", "XDP.Pin", func(c *Config) *bool { return &c.XDP.Pin },
		"leaves the XDP filter attached between two starts, passing everything to the kernel; see nics.md"),
	{
		Key: "xdp.busy_poll", Env: "TPA_XDP_BUSY_POLL", Field: "XDP.BusyPoll", Values: "a duration of 1µs to 1s, such as 50us", Default: "off",
		About: "how long the kernel polls a device of AF_XDP for before its poller sleeps; see nics.md",
		set: one(func(c *Config, v string) error {
			d, err := time.ParseDuration(v)
			return assign(&c.XDP.BusyPoll, d, cmpErr(err, d < minBusyPoll || d > maxBusyPoll))
		}),
		get: func(c *Config) string { return duration(c.XDP.BusyPoll) },
	},
	flag("kernel", "TPA_KERNEL", "Kernel", func(c *Config) *bool { return &c.Kernel }, "listeners accept the kernel's connections as well, see compat.md"),
	flag("handover", "TPA_HANDOVER", "HandOver", func(c *Config) *bool { return &c.HandOver }, "the next process with this setting takes over a listener's port while this one has it, see sharing.md"),
	form("fallback", "TPA_FALLBACK", "Fallback", func(c *Config) *Fallback { return &c.Fallback }, fallbacks.want(), "auto",
		"what happens when acceleration cannot start: auto serves through the kernel, never is an error"),
	form("firewall", "TPA_FIREWALL", "Firewall", func(c *Config) *Firewall { return &c.Firewall }, firewalls.want(), "ignore",
		"what becomes of ports that the host's firewall has rules for, on a shared interface: respect leaves them to the kernel; see sharing.md"),
	live(Setting{
		Key: "record", Env: "TPA_RECORD", Field: "Record", Values: fmt.Sprintf("1 to %d connections, or off", recorder.MaxConns), Default: strconv.Itoa(recorder.DefaultConns),
		About: "how many connections the flight recorder records at once, 1.6 KB each; a live change cannot go beyond what it began with",
		set: one(func(c *Config, v string) error {
			if v == "off" {
				c.Record = -1
				return nil
			}
			return parseNumber(&c.Record, v, 1, recorder.MaxConns)
		}),
		get: func(c *Config) string {
			switch {
			case c.Record < 0:
				return "off"
			case c.Record == 0:
				return ""
			}
			return strconv.Itoa(c.Record)
		},
	}),
	word("debug_socket", "TPA_SOCKET", "DebugSocket", func(c *Config) *string { return &c.DebugSocket },
		"a path or off", "in the first of DebugSocketDirs that can be used", "where the tools of tpa-bench find the runtime"),
	live(Setting{
		Key: "log_level", Env: "TPA_LOG_LEVEL", Field: "LogLevel", Values: "debug, info, warn or error", Default: "what Logger takes",
		About: "the least level of what goes to Logger; the event log keeps everything",
		set: one(func(c *Config, v string) error {
			switch v {
			case "debug", "info", "warn", "error":
				var l slog.Level
				err := l.UnmarshalText([]byte(v))
				return assign(&c.LogLevel, slog.Leveler(l), err)
			}
			return strconv.ErrSyntax
		}),
		get: func(c *Config) string {
			if c.LogLevel == nil {
				return ""
			}
			return strings.ToLower(c.LogLevel.Level().String())
		},
	}),
}

// read takes a value, worded by name if it is wrong.
func (s Setting) read(c *Config, name string, values []string) error {
	if err := s.set(c, values); err != nil {
		return fmt.Errorf("%s=%q: want %s", name, strings.Join(values, ","), s.Values)
	}
	return nil
}

// readEnv takes the value of the variable.
func (s Setting) readEnv(c *Config, value string) error {
	values := []string{value}
	if strings.Contains(value, ",") {
		values = strings.Split(value, ",")
	}
	if s.env == nil {
		return s.read(c, s.Env, values)
	}
	if err := s.env(c, values); err != nil {
		return fmt.Errorf("%s=%q: want %s", s.Env, value, s.envValues)
	}
	return nil
}

func live(s Setting) Setting {
	s.Live = true
	return s
}

// one makes a setter of a single value.
func one(set func(*Config, string) error) func(*Config, []string) error {
	return func(c *Config, values []string) error {
		if len(values) != 1 {
			return errOneValue
		}
		return set(c, values[0])
	}
}

var errOneValue = errors.New("want one value")

// assign stores a value unless there is an error.
func assign[T any](to *T, v T, err error) error {
	if err == nil {
		*to = v
	}
	return err
}

func cmpErr(err error, outOfRange bool) error {
	if err == nil && outOfRange {
		return strconv.ErrRange
	}
	return err
}

func parseNumber(to *int, v string, least, most int) error {
	n, err := strconv.Atoi(v)
	return assign(to, n, cmpErr(err, n < least || n > most))
}

// duration writes a duration, empty for 0.
func duration(d time.Duration) string {
	if d == 0 {
		return ""
	}
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	return s
}

// word is a setting that takes any text but an empty one.
func word(key, env, field string, of func(*Config) *string, values, def, about string) Setting {
	return Setting{
		Key: key, Env: env, Field: field, Values: values, Default: def, About: about,
		set: func(c *Config, values []string) error {
			*of(c) = strings.Join(values, ",") // devices of DPDK have commas
			return nil
		},
		get: func(c *Config) string { return *of(c) },
	}
}

// number is a setting of a whole number.
func number(key, env, field string, of func(*Config) *int, least, most int, unit, def, about string) Setting {
	return Setting{
		Key: key, Env: env, Field: field, Values: fmt.Sprintf("%d to %d %s", least, most, unit), Default: def, About: about,
		set: one(func(c *Config, v string) error { return parseNumber(of(c), v, least, most) }),
		get: func(c *Config) string {
			if *of(c) == 0 {
				return ""
			}
			return strconv.Itoa(*of(c))
		},
	}
}

// flag is a setting that is false unless it is set.
func flag(key, env, field string, of func(*Config) *bool, about string) Setting {
	return Setting{
		Key: key, Env: env, Field: field, Values: "true or false", Default: "false", About: about,
		set: one(func(c *Config, v string) error {
			var err error
			if v != "true" && v != "false" {
				err = strconv.ErrSyntax
			}
			return assign(of(c), v == "true", err)
		}),
		get: func(c *Config) string {
			if !*of(c) {
				return ""
			}
			return "true"
		},
	}
}

// form is a setting with a text form.
func form[T comparable, P interface {
	*T
	encoding.TextUnmarshaler
}](key, env, field string, of func(*Config) P, values, def, about string) Setting {
	return Setting{
		Key: key, Env: env, Field: field, Values: values, Default: def, About: about,
		set: one(func(c *Config, v string) error { return of(c).UnmarshalText([]byte(v)) }),
		get: func(c *Config) string {
			var zero T
			if *of(c) == zero {
				return ""
			}
			return fmt.Sprint(*of(c))
		},
	}
}

// list is a setting of several values.
func list[T any](key, env, field string, of func(*Config) *[]T, parse func(string) (T, error), values, def, about string) Setting {
	return Setting{
		Key: key, Env: env, Field: field, Values: values, Default: def, About: about,
		set: func(c *Config, values []string) error {
			var all []T
			for _, v := range values {
				one, err := parse(strings.TrimSpace(v))
				if err != nil {
					return err
				}
				all = append(all, one)
			}
			*of(c) = all
			return nil
		},
		get: func(c *Config) string {
			var all []string
			for _, v := range *of(c) {
				all = append(all, fmt.Sprint(v))
			}
			return strings.Join(all, ",")
		},
	}
}

// memoryLimit is limits.memory: bytes in a file, MB in the environment.
func memoryLimit() Setting {
	const least, most = limits.MinMemory >> 20, limits.MaxMemory >> 20 // MB
	return Setting{
		Key: "limits.memory", Env: "TPA_MAX_MEMORY_MB", Field: "Limits.Memory",
		Values: fmt.Sprintf("%d to %d bytes (16 MB to 1 TB)", least<<20, most<<20), Default: "a quarter of the machine's memory", About: "see Limits",
		set: one(func(c *Config, v string) error {
			n, err := strconv.ParseInt(v, 10, 64)
			return assign(&c.Limits.Memory, n, cmpErr(err, n < least<<20 || n > most<<20))
		}),
		env: one(func(c *Config, v string) error {
			var mb int
			err := parseNumber(&mb, v, least, most)
			return assign(&c.Limits.Memory, int64(mb)<<20, err)
		}),
		envValues: fmt.Sprintf("%d to %d MB", least, most),
		get: func(c *Config) string {
			if c.Limits.Memory == 0 {
				return ""
			}
			return strconv.FormatInt(c.Limits.Memory, 10)
		},
	}
}
