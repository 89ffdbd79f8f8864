//go:build !linux

package netif

import "time"

// nap sleeps for txNap, or longer.
func nap() { time.Sleep(txNap) }
