package netif

import "golang.org/x/sys/unix"

// nap sleeps for txNap. The system wakes it: a timer of Go would first wait for
// one of Go's processors, which may be what everybody waits for.
func nap() {
	t := unix.NsecToTimespec(int64(txNap))
	unix.Nanosleep(&t, nil) // an interrupted nap is as good
}
