package accel_test

import (
	"io"
	"net/netip"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/gotpa/tpa/accel"
	"github.com/gotpa/tpa/internal/leak"
	"github.com/gotpa/tpa/link/memory"
)

func TestPinning(t *testing.T) {
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		t.Fatal(err)
	}
	cpu := 0
	for !set.IsSet(cpu) {
		cpu++
	}
	for _, tc := range []struct {
		name    string
		cpus    []int
		procs   int
		wantErr string // a part of the message, "" for none
	}{
		{"pinned", []int{cpu}, 2, ""},
		{"no processor left", []int{cpu}, 1, "GOMAXPROCS"},
		{"foreign CPU", []int{1023}, 2, "may not use"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(tc.procs))
			da, db, err := memory.Pair(memory.Options{})
			if err != nil {
				t.Fatal(err)
			}
			leak.Check(t, da, db)
			defer da.Close()
			defer db.Close()
			server, err := accel.New(accel.Config{
				Link: da, Addrs: []netip.Prefix{netip.MustParsePrefix("10.0.0.1/24")}, CPUs: tc.cpus, Fallback: accel.FallbackNever,
			})
			if tc.wantErr != "" {
				if err == nil || !strings.Contains(err.Error(), tc.wantErr) {
					t.Fatalf("got %v, want an error with %q", err, tc.wantErr)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer server.Close()
			client, err := accel.New(accel.Config{
				Link: db, Addrs: []netip.Prefix{netip.MustParsePrefix("10.0.0.2/24")}, Fallback: accel.FallbackNever,
			})
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			ln, err := (&accel.ListenConfig{Runtime: server}).Listen(t.Context(), "tcp", ":7")
			if err != nil {
				t.Fatal(err)
			}
			go func() {
				c, err := ln.Accept()
				if err == nil {
					io.Copy(c, c)
					c.Close()
				}
			}()
			c, err := (&accel.Dialer{Runtime: client}).Dial("tcp", "10.0.0.1:7")
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			buf := make([]byte, 100)
			for range 100 {
				if _, err := c.Write(buf); err != nil {
					t.Fatal(err)
				}
				if _, err := io.ReadFull(c, buf); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}
