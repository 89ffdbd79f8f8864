package interop

import (
	"io"
	"net"
	"sync"
	"testing"
)

// proxy forwards connections that arrive on one transport to a backend on
// another, both ways and half by half, until the test ends.
func proxy(t *testing.T, from, to transport, backend net.Addr) net.Addr {
	t.Helper()
	type halfCloser interface{ CloseWrite() error }
	forward := func(dst, src net.Conn) {
		io.Copy(dst, src)
		dst.(halfCloser).CloseWrite()
	}
	ln := from.listen(t)
	go func() {
		for {
			client, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer client.Close()
				server, err := to.dial(t.Context(), "tcp", backend.String())
				if err != nil {
					return
				}
				defer server.Close()
				var wg sync.WaitGroup
				wg.Go(func() { forward(server, client) })
				wg.Go(func() { forward(client, server) })
				wg.Wait()
			}()
		}
	}()
	return ln.Addr()
}
