package accel

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"

	"github.com/gotpa/tpa/internal/limits"
	"github.com/gotpa/tpa/internal/processor"
	"github.com/gotpa/tpa/internal/recorder"
	"github.com/gotpa/tpa/link"
)

// Messages of the event log about changes.
const (
	changed    = "setting changed"
	notChanged = "setting not changed"
)

// SettingStatus is a setting of a runtime.
type SettingStatus struct {
	// Key is the setting's name, as in a configuration file.
	Key string `json:"key"`
	// Value is what it is. What stands for the default is said in words where it
	// depends on the device.
	Value string `json:"value"`
	// Default tells that it is the default.
	Default bool `json:"default,omitempty"`
	// Live tells whether Runtime.Change can change it.
	Live bool `json:"live,omitempty"`
}

// Change changes a setting while the runtime runs, and returns its value before. key
// and value are those of a configuration file; only settings that are Live can be
// changed. The event log keeps each change and each attempt. It may be called by any
// goroutine.
//
// The debug socket does the same for POST /settings/KEY/VALUE.
func (rt *Runtime) Change(key, value string) (before string, err error) {
	return rt.change(key, value, "the program")
}

// change is Change by somebody.
func (rt *Runtime) change(key, value, by string) (before string, err error) {
	rt.changing.Lock()
	defer rt.changing.Unlock()
	defer func() {
		attrs := []slog.Attr{slog.String("key", key), slog.String("value", value), slog.String("before", before), slog.String("by", by)}
		if err != nil {
			rt.events.Audit(rt.logTo, slog.LevelWarn, notChanged, append(attrs, slog.Any("reason", err))...)
		} else {
			rt.events.Audit(rt.logTo, slog.LevelInfo, changed, attrs...)
		}
	}()
	s, ok := lookUp(key)
	switch {
	case !ok:
		return "", fmt.Errorf("%q is no setting", key)
	case !s.Live:
		return "", fmt.Errorf("%s cannot be changed while the program runs: set it before", key)
	case rt.reason != nil:
		return "", fmt.Errorf("the runtime fell back to the kernel: %w", rt.reason)
	}
	c := rt.current
	before = s.shown(&c)
	if err := s.read(&c, key, strings.Split(value, ",")); err != nil {
		return before, err
	}
	if err := c.check(); err != nil {
		return before, err
	}
	if err := rt.apply(&c); err != nil {
		return before, err
	}
	rt.current = c
	return before, nil
}

// apply makes the live settings those of c, or changes none.
func (rt *Runtime) apply(c *Config) error {
	if c.Record != rt.current.Record {
		conns := c.Record
		if conns == 0 {
			conns = recorder.DefaultConns
		}
		switch {
		case rt.recorder == nil:
			return errors.New("there is no flight recorder: the program began without")
		case conns > rt.recorder.Conns():
			return fmt.Errorf("the flight recorder has room for %d connections: more cannot be had while the program runs", rt.recorder.Conns())
		}
		rt.recorder.Allow(conns)
	}
	if !slices.Equal(c.AllowFrom, rt.current.AllowFrom) {
		if err := rt.allowFrom(c.AllowFrom); err != nil {
			return errors.Join(err, rt.allowFrom(rt.current.AllowFrom))
		}
	}
	for _, s := range rt.shards {
		s.SetPolling(processor.Polling(c.Polling))
	}
	rt.budget.SetLimits(limits.Limits(c.Limits))
	rt.events.SetLevel(c.LogLevel)
	return nil
}

// allowFrom says which sources may connect. On error, no other source may than before
// or after.
func (rt *Runtime) allowFrom(sources []netip.Prefix) error {
	if rt.sharing != nil {
		// Without such a filter, the shards alone refuse other sources.
		if f, ok := rt.sharing.steering.Filter().(link.SourceFilter); ok {
			if err := f.Allow(sources); err != nil {
				return err
			}
		}
	}
	rt.budget.SetSources(sources)
	return nil
}

// shown is the setting's value in c, or what stands for the default.
func (s Setting) shown(c *Config) string {
	if v := s.get(c); v != "" {
		return v
	}
	return s.Default
}

// settingsNow returns all settings as they are.
func (rt *Runtime) settingsNow() []SettingStatus {
	rt.changing.Lock()
	defer rt.changing.Unlock()
	all := make([]SettingStatus, len(settings))
	for i, s := range settings {
		all[i] = SettingStatus{Key: s.Key, Value: s.shown(&rt.current), Default: s.get(&rt.current) == "", Live: s.Live}
	}
	return all
}
