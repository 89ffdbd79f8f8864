package gvisortcp

import (
	"os"
	"runtime"
	"sync"
)

// one makes those who ask for one processor take turns.
var one sync.Mutex

// OneProcessor runs f, which makes a stack, as if Go had one processor: gVisor
// starts GOMAXPROCS goroutines per stack that share out TCP's work, and more than
// one would spread each burst of the stack's only queue over several wake-ups.
//
// Go then follows the limits of the process's cgroup and its affinity again, unless
// the user has chosen a number, by the environment or a call.
func OneProcessor(f func()) {
	one.Lock()
	defer one.Unlock()
	processors := runtime.GOMAXPROCS(1)
	f()
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.SetDefaultGOMAXPROCS()
	}
	if runtime.GOMAXPROCS(0) != processors {
		runtime.GOMAXPROCS(processors)
	}
}
