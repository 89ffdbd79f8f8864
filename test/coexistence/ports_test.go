package coexistence

import (
	"log/slog"
	"net"
	"os"
	"testing"
	"time"

	"github.com/gotpa/tpa/accel"
	"github.com/gotpa/tpa/internal/testnet"
)

// TestManyDials: as many connections in turn as the kernel makes, whose ports wait in
// TIME-WAIT, find a port each, though one block has 512 of them, and cost few
// descriptors. Without timestamps no port is used twice within a minute.
func TestManyDials(t *testing.T) {
	const dials, descriptors = 3000, 16
	for _, tt := range []struct{ name, dev, timestamps string }{
		{"AF_XDP", "xdp:eth0", "1"},
		{"AF_XDP without timestamps", "xdp:eth0", "0"},
		{"packet socket without timestamps", "packet:eth0", "0"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newSite(t, testnet.Wire{})
			s.client.Sysctl("net/ipv4/tcp_timestamps", tt.timestamps)
			to4, to6 := at(s.ci, 8000)
			var ln net.Listener
			var rt *accel.Runtime
			var err error
			s.client.Do(func() { ln, err = net.Listen("tcp", ":8000") })
			if err != nil {
				t.Fatal(err)
			}
			defer ln.Close()
			go func() {
				for {
					c, err := ln.Accept()
					if err != nil {
						return
					}
					c.(*net.TCPConn).CloseWrite()
					go func() {
						c.Read(make([]byte, 1)) // until the dialer has closed: it waits in TIME-WAIT
						c.Close()
					}()
				}
			}()
			s.server.Do(func() {
				rt, err = accel.New(accel.Config{
					Device: tt.dev, Fallback: accel.FallbackNever, DebugSocket: "off", Logger: slog.New(slog.DiscardHandler),
				})
			})
			if err != nil {
				t.Fatal(err)
			}
			defer rt.Close()
			before := open(t)
			for _, to := range []string{to4, to6} {
				for name, dial := range map[string]func(network, address string) (net.Conn, error){
					"kernel": net.Dial, "accelerated": (&accel.Dialer{Runtime: rt}).Dial,
				} {
					start := time.Now()
					s.server.Do(func() {
						for i := range dials / 2 {
							c, err := dial("tcp", to)
							if err != nil {
								t.Fatalf("%s, dial %d of %s: %v", name, i, to, err)
							}
							c.Close()
						}
					})
					t.Logf("%s, %s: %d connections in %v", to, name, dials/2, time.Since(start))
				}
			}
			// The peers of the last connections have theirs until they hear of the end.
			more := open(t) - before
			for end := time.Now().Add(10 * time.Second); more > descriptors && time.Now().Before(end); more = open(t) - before {
				time.Sleep(10 * time.Millisecond)
			}
			if more > descriptors {
				t.Errorf("%d descriptors more than before, want %d at most", more, descriptors)
			}
		})
	}
}

// open is the number of descriptors that the process has.
func open(t *testing.T) int {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}
