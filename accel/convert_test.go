package accel

import (
	"reflect"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"

	"github.com/gotpa/tpa/internal/eventlog"
	"github.com/gotpa/tpa/internal/shard"
	"github.com/gotpa/tpa/link/bifurcation"
)

// TestConversions checks that no field is forgotten where fields are copied one by
// one: with all of them set on one side, none is left zero on the other.
func TestConversions(t *testing.T) {
	var stats shard.Stats
	fill(reflect.ValueOf(&stats).Elem(), new(int))
	stats.Stack = tcpip.Stats{}.FillIn()
	n := 1000
	fillCounters(reflect.ValueOf(&stats.Stack).Elem(), &n)
	stats.Stack.NICs.UnknownL4ProtocolRcvdPacketCounts.Increment(200)

	var steering bifurcation.Stats
	fill(reflect.ValueOf(&steering).Elem(), new(int))
	var event eventlog.Event
	fill(reflect.ValueOf(&event).Elem(), new(int))
	event.Time = time.Unix(1, 0)

	var settings TCP
	fill(reflect.ValueOf(&settings).Elem(), new(int))
	settings.Engine, settings.Congestion = EngineGVisor, CongestionCubic

	for _, tt := range []struct {
		from, to any
		chosen   bool // to has some of from only
	}{
		{from: stats.Limits, to: limitStats(stats.Limits)},
		{from: stats.Conns, to: shardStats(&stats).Conns},
		{from: steering, to: steeringStats(steering)},
		{from: event, to: loggedEvents([]eventlog.Event{event})[0]},
		{from: settings, to: shardTCP(settings)},
		{from: stats, to: shardStats(&stats), chosen: true},
	} {
		from, to := leaves(reflect.ValueOf(tt.from)), leaves(reflect.ValueOf(tt.to))
		for name, zero := range to {
			if zero {
				t.Errorf("%T%s is not set", tt.to, name)
			}
		}
		if len(from) != len(to) && !tt.chosen {
			t.Errorf("%T has %d fields, %T %d", tt.from, len(from), tt.to, len(to))
		}
	}
	if a, b := reflect.TypeFor[shard.Stats](), reflect.TypeFor[ShardStats](); a.NumField()-1+3 != b.NumField() {
		t.Errorf("%v has %d fields beside the stack's, %v %d beside IP, ICMP and TCP", a, a.NumField()-1, b, b.NumField()-3)
	}
}

// fill sets all fields of a value to something that is not zero.
func fill(v reflect.Value, n *int) {
	*n++
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() && v.Type() != reflect.TypeFor[tcpip.Stats]() {
				fill(v.Field(i), n)
			}
		}
	case reflect.Array:
		for i := range v.Len() {
			fill(v.Index(i), n)
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(v.Index(0), n)
	case reflect.Int, reflect.Int64:
		v.SetInt(int64(*n))
	case reflect.Uint64:
		v.SetUint(uint64(*n))
	case reflect.String:
		v.SetString("text")
	case reflect.Bool:
		v.SetBool(true)
	}
}

// fillCounters sets all counters of gVisor.
func fillCounters(v reflect.Value, n *int) {
	if c, ok := v.Interface().(*tcpip.StatCounter); ok {
		*n++
		c.IncrementBy(uint64(*n))
		return
	}
	if v.Kind() == reflect.Struct {
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				fillCounters(v.Field(i), n)
			}
		}
	}
}

// leaves tells of each field that is no struct whether it is zero.
func leaves(v reflect.Value) map[string]bool {
	all := make(map[string]bool)
	var walk func(name string, v reflect.Value)
	walk = func(name string, v reflect.Value) {
		switch {
		case v.Type() == reflect.TypeFor[time.Time]() || v.Type() == reflect.TypeFor[tcpip.Stats]():
			all[name] = v.IsZero()
		case v.Kind() == reflect.Struct:
			for i := range v.NumField() {
				walk(name+"."+v.Type().Field(i).Name, v.Field(i))
			}
		case v.Kind() == reflect.Slice && v.Len() == 1:
			walk(name+"[]", v.Index(0))
		default:
			all[name] = v.IsZero()
		}
	}
	walk("", v)
	return all
}
