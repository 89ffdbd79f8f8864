package accel

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// An Engine is a TCP that carries connections.
type Engine int

const (
	// EngineTPA is our own TCP, which runs to completion in the shard.
	EngineTPA Engine = iota
	// EngineGVisor is gVisor's: slower, and the reference in tests.
	EngineGVisor
)

var engines = enum[Engine]{"Engine", []string{"tpa", "gvisor"}}

// String returns the name as TPA_TCP spells it.
func (e Engine) String() string { return engines.text(e) }

// MarshalText implements encoding.TextMarshaler: it returns what String does.
func (e Engine) MarshalText() ([]byte, error) { return engines.marshal(e) }

// UnmarshalText implements encoding.TextUnmarshaler: it takes what String returns.
func (e *Engine) UnmarshalText(text []byte) error { return engines.parse(e, text) }

// Congestion is a way to control congestion.
type Congestion int

const (
	// CongestionAuto is CUBIC with our TCP and NewReno with gVisor's.
	CongestionAuto Congestion = iota
	// CongestionReno is NewReno (RFC 5681, RFC 6582).
	CongestionReno
	// CongestionCubic is CUBIC (RFC 9438). With gVisor's TCP its window arithmetic
	// can overflow (gvisor.dev/issue/11632).
	CongestionCubic
)

var congestions = enum[Congestion]{"Congestion", []string{"auto", "reno", "cubic"}}

// String returns auto, or the name as the kernel has it: reno or cubic.
func (c Congestion) String() string { return congestions.text(c) }

// MarshalText implements encoding.TextMarshaler: it returns what String does.
func (c Congestion) MarshalText() ([]byte, error) { return congestions.marshal(c) }

// UnmarshalText implements encoding.TextUnmarshaler: it takes what String returns.
func (c *Congestion) UnmarshalText(text []byte) error { return congestions.parse(c, text) }

// Fallback is a policy for when acceleration cannot start.
type Fallback int

const (
	// FallbackAuto serves through the kernel, logs why, and counts it.
	FallbackAuto Fallback = iota
	// FallbackNever returns the error.
	FallbackNever
)

var fallbacks = enum[Fallback]{"Fallback", []string{"auto", "never"}}

// String returns the policy's name as TPA_FALLBACK spells it.
func (f Fallback) String() string { return fallbacks.text(f) }

// MarshalText implements encoding.TextMarshaler: it returns what String does.
func (f Fallback) MarshalText() ([]byte, error) { return fallbacks.marshal(f) }

// UnmarshalText implements encoding.TextUnmarshaler: it takes what String returns.
func (f *Fallback) UnmarshalText(text []byte) error { return fallbacks.parse(f, text) }

// Firewall is what becomes of ports that the rules of the host's firewall are about, on
// an interface shared with the kernel, where accelerated connections do not meet them.
type Firewall int

const (
	// FirewallIgnore accelerates them, and names the rules in the log.
	FirewallIgnore Firewall = iota
	// FirewallRespect leaves them to the kernel, as when acceleration cannot start:
	// Config.Fallback decides between that and an error. A rule counts that has the
	// port in it, or that could drop or divert its segments for all that can be told,
	// and so does a chain whose policy is to drop.
	FirewallRespect
)

var firewalls = enum[Firewall]{"Firewall", []string{"ignore", "respect"}}

// String returns the name as TPA_FIREWALL spells it.
func (f Firewall) String() string { return firewalls.text(f) }

// MarshalText implements encoding.TextMarshaler: it returns what String does.
func (f Firewall) MarshalText() ([]byte, error) { return firewalls.marshal(f) }

// UnmarshalText implements encoding.TextUnmarshaler: it takes what String returns.
func (f *Firewall) UnmarshalText(text []byte) error { return firewalls.parse(f, text) }

// Steering is a way to tell our flows from the kernel's.
type Steering int

const (
	// SteerAuto chooses by the device: a filter on a kernel interface,
	// flow rules for a PCI device that the kernel has, too, and else the whole
	// device.
	SteerAuto Steering = iota
	// SteerRules puts a DPDK device that the kernel has, too, into isolated mode:
	// it gets what flow rules take, and the kernel the rest.
	SteerRules
	// SteerWhole takes all that a DPDK device receives.
	SteerWhole
)

var steerings = enum[Steering]{"Steering", []string{"auto", "rules", "whole"}}

// String returns the name as TPA_STEERING spells it.
func (s Steering) String() string { return steerings.text(s) }

// MarshalText implements encoding.TextMarshaler: it returns what String does.
func (s Steering) MarshalText() ([]byte, error) { return steerings.marshal(s) }

// UnmarshalText implements encoding.TextUnmarshaler: it takes what String returns.
func (s *Steering) UnmarshalText(text []byte) error { return steerings.parse(s, text) }

// An enum gives the values of T, which count from 0, their texts.
type enum[T ~int] struct {
	name  string
	texts []string
}

func (e enum[T]) has(v T) bool { return v >= 0 && int(v) < len(e.texts) }

func (e enum[T]) text(v T) string {
	if !e.has(v) {
		return e.name + "(" + strconv.Itoa(int(v)) + ")"
	}
	return e.texts[v]
}

func (e enum[T]) marshal(v T) ([]byte, error) {
	if !e.has(v) {
		return nil, fmt.Errorf("%v is none of %s", e.text(v), e.want())
	}
	return []byte(e.texts[v]), nil
}

// parse leaves v as it is when it fails.
func (e enum[T]) parse(v *T, text []byte) error {
	i := slices.Index(e.texts, string(text))
	if i < 0 {
		return fmt.Errorf("%s %q: want %s", e.name, text, e.want())
	}
	*v = T(i)
	return nil
}

// want lists the texts: "auto, rules or whole".
func (e enum[T]) want() string {
	last := len(e.texts) - 1
	return strings.Join(e.texts[:last], ", ") + " or " + e.texts[last]
}
