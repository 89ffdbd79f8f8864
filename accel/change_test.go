package accel_test

import (
	"errors"
	"io"
	"log/slog"
	"net"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gotpa/tpa/accel"
	"github.com/gotpa/tpa/internal/leak"
	"github.com/gotpa/tpa/internal/testnet"
	"github.com/gotpa/tpa/link/memory"
)

// changeable returns an accelerated runtime with a recorder of 10 connections, its
// peer, and what it logs.
func changeable(t *testing.T) (rt, peer *accel.Runtime, log *testnet.Output) {
	t.Helper()
	a, b, err := memory.Pair(memory.Options{})
	if err != nil {
		t.Fatal(err)
	}
	leak.Check(t, a, b)
	log = new(testnet.Output)
	for _, r := range []struct {
		rt   **accel.Runtime
		dev  *memory.Device
		addr string
		log  io.Writer
	}{{&rt, a, "10.0.0.1/24", log}, {&peer, b, "10.0.0.2/24", io.Discard}} {
		*r.rt, err = accel.New(accel.Config{
			Link: r.dev, Addrs: prefixes(r.addr), Record: 10, Fallback: accel.FallbackNever, DebugSocket: "off",
			Logger: slog.New(slog.NewTextHandler(r.log, nil)),
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { (*r.rt).Close() })
	}
	return rt, peer, log
}

func settingOf(rt *accel.Runtime, key string) accel.SettingStatus {
	all := rt.Status().Settings
	i := slices.IndexFunc(all, func(s accel.SettingStatus) bool { return s.Key == key })
	if i < 0 {
		return accel.SettingStatus{}
	}
	return all[i]
}

// TestChange changes each live setting, sees it in the status and in the event log,
// and has others and wrong values refused and logged as well.
func TestChange(t *testing.T) {
	rt, _, log := changeable(t)
	for _, tt := range []struct {
		key, value, before string
		wantErr            string
	}{
		{"polling.spin", "50us", "1ms", ""},
		{"polling.spin", "20µs", "50µs", ""},
		{"polling.max_sleep", "2ms", "1ms", ""},
		{"polling.long_handler", "20ms", "10ms", ""},
		{"allow_from", "10.0.0.0/8,fd00::/8", "everybody", ""},
		{"limits.connections", "100", "65536", ""},
		{"limits.half_open", "100", "1024", ""},
		{"limits.closing", "100", "16384", ""},
		{"limits.time_wait", "100", "65536", ""},
		{"limits.memory", "16777216", "a quarter of the machine's memory", ""},
		{"limits.resets", "100", "1000", ""},
		{"record", "5", "10", ""},
		{"record", "off", "5", ""},
		{"log_level", "debug", "what Logger takes", ""},
		{"record", "11", "", "room for 10"},
		{"limits.resets", "0", "", "1 to 1000000"},
		{"polling.spin", "2s", "", "1s"},
		{"polling.spin", "fast", "", "a duration"},
		{"queues", "2", "", "while the program runs"},
		{"tcp.engine", "gvisor", "", "while the program runs"},
		{"nothing", "1", "", "no setting"},
	} {
		old := settingOf(rt, tt.key)
		before, err := rt.Change(tt.key, tt.value)
		now := settingOf(rt, tt.key)
		events := rt.Status().Events
		last := events[len(events)-1]
		if tt.wantErr != "" {
			if err == nil || !strings.Contains(err.Error(), tt.wantErr) || now != old || last.Message != "setting not changed" || last.Level != slog.LevelWarn {
				t.Errorf("%s=%s: got %v, %+v, %+v; want an error with %q, logged", tt.key, tt.value, err, now, last, tt.wantErr)
			}
			continue
		}
		if err != nil || before != tt.before || now.Default || !now.Live || now.Value != strings.Replace(tt.value, "us", "µs", 1) {
			t.Errorf("%s=%s: got %q, %v, %+v; was %s", tt.key, tt.value, before, err, now, tt.before)
		}
		attrs := map[string]string{}
		for _, a := range last.Attrs {
			attrs[a.Key] = a.Value
		}
		if last.Message != "setting changed" || attrs["key"] != tt.key || attrs["value"] != tt.value || attrs["before"] != tt.before || attrs["by"] != "the program" {
			t.Errorf("%s=%s: the last event is %+v", tt.key, tt.value, last)
		}
	}
	if got, want := rt.Stats().Limits, (accel.Limits{Connections: 100, HalfOpen: 100, Closing: 100, TimeWait: 100, Memory: 16 << 20, Resets: 100}); got != want {
		t.Errorf("limits %+v, want %+v", got, want)
	}
	// An audit trail has no gaps: more changes than a log lets others repeat.
	for i := range 30 {
		if _, err := rt.Change("limits.resets", strconv.Itoa(200+i)); err != nil {
			t.Fatal(err)
		}
	}
	if got := strings.Count(log.String(), `msg="setting changed" key=limits.resets`); got != 31 {
		t.Errorf("%d changes in the log, want 31", got)
	}
}

// TestChangesWork checks that what was changed has its effect: on dials, on the
// recorder, and on a poller that is to sleep no more.
func TestChangesWork(t *testing.T) {
	rt, peer, _ := changeable(t)
	addr := serve(t, peer, accel.ListenConfig{}, func(c net.Conn) { io.Copy(io.Discard, c); c.Close() })
	dial := func() error {
		c, err := (&accel.Dialer{Runtime: rt, Timeout: 10 * time.Second}).Dial("tcp", addr)
		if err == nil {
			t.Cleanup(func() { c.Close() })
		}
		return err
	}
	change := func(key, value string) {
		t.Helper()
		if _, err := rt.Change(key, value); err != nil {
			t.Fatal(err)
		}
	}
	if err := dial(); err != nil {
		t.Fatal(err)
	}
	change("limits.connections", "1")
	if err := dial(); !errors.Is(err, syscall.ENOBUFS) {
		t.Errorf("a second connection of 1: got %v, want ENOBUFS", err)
	}
	change("limits.connections", "10")
	change("record", "off")
	if err := dial(); err != nil {
		t.Fatal(err)
	}
	if got := rt.Status().Recorder.Recorded; got != 1 {
		t.Errorf("%d connections are recorded, want the one from before", got)
	}
	change("record", "2")
	if err := errors.Join(dial(), dial()); err != nil {
		t.Fatal(err)
	}
	if got := rt.Status().Recorder.Recorded; got != 2 {
		t.Errorf("%d connections are recorded, want 2", got)
	}
	change("polling.spin", "never")
	poller := func() accel.PollerStats { return rt.Stats().Shards[0].Poller }
	for began := poller().Polls; poller().Polls < began+100; { // it has seen the change
		time.Sleep(time.Millisecond)
	}
	before := poller()
	for poller().Polls < before.Polls+1000 {
		time.Sleep(time.Millisecond)
	}
	if got := poller().Sleeps - before.Sleeps; got != 0 {
		t.Errorf("it slept %d times in 1000 polls, want never", got)
	}
}

// TestChangeAfterFallback checks that there is nothing to change.
func TestChangeAfterFallback(t *testing.T) {
	rt, err := accel.New(accel.Config{Logger: silent})
	if err != nil {
		t.Fatal(err)
	}
	defer rt.Close()
	if _, err := rt.Change("polling.spin", "1ms"); !errors.Is(err, accel.ErrNoDevice) {
		t.Errorf("got %v, want why it fell back", err)
	}
}
