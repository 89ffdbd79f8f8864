package gvisortcp

import (
	"fmt"
	"reflect"
	"unsafe"

	"gvisor.dev/gvisor/pkg/atomicbitops"
	gsync "gvisor.dev/gvisor/pkg/sync"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

// How many bytes a connection holds is known to gVisor's TCP alone, which does
// not tell. This file finds its three fields by name and type, once, and reads
// them.
//
// Sound: reflect gives the offsets within tcp.Endpoint as this program was
// compiled, and findHeld refuses any other type than the one read here. The
// pointers are made from the endpoint's own and do not outlive the call. The
// received bytes are an atomic, the sent bytes are read under the mutex that
// guards them. Should a new version of gVisor lack a field, New fails.

type heldOffsets struct{ received, sendMutex, send uintptr }

var heldAt, errHeld = findHeld(reflect.TypeFor[tcp.Endpoint]())

func findHeld(endpoint reflect.Type) (at heldOffsets, err error) {
	find := func(name string, want reflect.Type, path ...string) uintptr {
		t, offset := endpoint, uintptr(0)
		for i, p := range path {
			f, ok := t.FieldByName(p)
			if !ok || len(f.Index) != 1 || i == len(path)-1 && f.Type != want {
				err = fmt.Errorf("gvisortcp: gVisor's TCP has no %s as expected any more; pin the version in go.mod", name)
				return 0
			}
			t, offset = f.Type, offset+f.Offset
		}
		return offset
	}
	at.received = find("rcvMemUsed", reflect.TypeFor[atomicbitops.Int32](), "rcvMemUsed")
	at.sendMutex = find("sndQueueMu", reflect.TypeFor[gsync.Mutex](), "sndQueueInfo", "sndQueueMu", "mu")
	at.send = find("TCPSndBufState", reflect.TypeFor[tcp.TCPSndBufState](), "sndQueueInfo", "TCPSndBufState")
	return at, err
}

// held returns how many bytes a connection keeps in memory: received ones that
// were not read, with their overhead, and written ones that were not
// acknowledged.
func held(e *tcp.Endpoint) (received, sent int) {
	base := unsafe.Pointer(e)
	received = int((*atomicbitops.Int32)(unsafe.Add(base, heldAt.received)).Load())
	mu := (*gsync.Mutex)(unsafe.Add(base, heldAt.sendMutex))
	mu.Lock()
	sent = (*tcp.TCPSndBufState)(unsafe.Add(base, heldAt.send)).SndBufUsed
	mu.Unlock()
	return received, max(0, sent) // -1 when a FIN was acknowledged
}
