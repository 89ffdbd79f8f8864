package conformance

import (
	"io"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/gotpa/tpa/accel"
	"github.com/gotpa/tpa/internal/echoserver"
)

// TestNothingStays opens and closes 10,000 connections over DPDK and looks for
// what is left of them: goroutines, flows, endpoints, packet buffers, memory.
// What the EAL and the pools keep is there before.
func TestNothingStays(t *testing.T) {
	serverDevice, clientDevice := memif(t)
	serverDevice.TCP.TimeWait = 100 * time.Millisecond
	clientDevice.TCP.TimeWait = 100 * time.Millisecond
	server, client := start(t, serverConfig(serverDevice)), start(t, clientConfig(clientDevice))
	ln, err := (&accel.ListenConfig{Runtime: server}).Listen(t.Context(), "tcp", "10.0.0.1:80")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go echoserver.Run(ln)
	conns := 10_000
	if testing.Short() || raceEnabled {
		conns = 1000
	}
	talk := func(n int) {
		t.Helper()
		const side = 20 // connections side by side
		var wg sync.WaitGroup
		for range side {
			wg.Go(func() {
				for range n / side {
					if err := exchange(client); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		wg.Wait()
		if t.Failed() {
			t.FailNow()
		}
	}
	type left struct {
		Goroutines, Connections, Buffers int
	}
	count := func() (l left) {
		l.Goroutines = runtime.NumGoroutine()
		for _, rt := range []*accel.Runtime{server, client} {
			s := rt.Stats()
			l.Buffers += s.Device.BuffersInUse
			for _, shard := range s.Shards {
				l.Connections += shard.Flows + int(shard.TCP.Connected)
			}
		}
		return l
	}
	settled := func(ok func(left) bool) left {
		t.Helper()
		for deadline := time.Now().Add(2 * testTimeout); ; time.Sleep(time.Millisecond) {
			l := count()
			if ok(l) {
				return l
			}
			if time.Now().After(deadline) {
				t.Fatalf("left behind: %+v", l)
			}
		}
	}
	talk(200) // fills pools and rings
	before := settled(func(l left) bool { return l.Connections == 0 })
	heapBefore := heapInUse()
	talk(conns)
	after := settled(func(l left) bool {
		return l.Connections == 0 && l.Goroutines <= before.Goroutines &&
			l.Buffers <= before.Buffers+64 // those sent wait in the ring for the next to be sent
	})
	for deadline := time.Now().Add(testTimeout); ; time.Sleep(10 * time.Millisecond) {
		grown := int64(heapInUse() - heapBefore)
		if grown < 1<<20 {
			t.Logf("%d connections; before %+v, after %+v, heap %+d bytes", conns, before, after, grown)
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d bytes of heap are left behind by %d connections", grown, conns)
		}
	}
}

// exchange opens a connection to the server, sends something there and back, and
// closes it.
func exchange(client *accel.Runtime) error {
	c, err := (&accel.Dialer{Runtime: client, Timeout: testTimeout}).Dial("tcp", "10.0.0.1:80")
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(testTimeout))
	b := make([]byte, 64)
	if _, err := c.Write(b); err != nil {
		return err
	}
	_, err = io.ReadFull(c, b)
	return err
}

func heapInUse() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
