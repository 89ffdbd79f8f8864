package follower_test

import (
	"log/slog"
	"net/netip"
	"testing"

	"github.com/gotpa/tpa/internal/follower"
	"github.com/gotpa/tpa/internal/testnet"
)

// BenchmarkPath: what it takes to know how packets leave, by an answer that is kept and
// by one that the kernel is asked for.
func BenchmarkPath(b *testing.B) {
	testnet.Need(b, testnet.Root)
	n := testnet.New(b)
	one, other := n.Host("one"), n.Host("other")
	near, far := n.Connect(one, other, testnet.Wire{})
	one.Do(func() {
		f, err := follower.New(near.Name, follower.Events{}, slog.Default())
		if err != nil {
			b.Fatal(err)
		}
		defer f.Close()
		routes, err := f.Routes()
		if err != nil {
			b.Fatal(err)
		}
		defer routes.Close()
		for _, end := range []struct {
			name     string
			from, to netip.Addr
		}{{"IPv4", near.IPv4.Addr(), far.IPv4.Addr()}, {"IPv6", near.IPv6.Addr(), far.IPv6.Addr()}} {
			for _, asked := range []bool{false, true} {
				name := end.name + "/kept"
				if asked {
					name = end.name + "/asked"
				}
				b.Run(name, func(b *testing.B) {
					for b.Loop() {
						if asked {
							f.Forget()
						}
						if p := routes.Path(end.from, end.to); p.Exit != follower.Here {
							b.Fatalf("%+v", p)
						}
					}
				})
			}
		}
	})
}
