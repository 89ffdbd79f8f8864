// Package echoserver sends back what it receives, for tests of connections. Only
// tests import it.
package echoserver

import (
	"io"
	"net"
)

// Run serves connections, each in a goroutine of its own, until the listener is
// closed.
func Run(ln net.Listener) {
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			io.Copy(c, c)
		}()
	}
}
