package coexistence

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/gotpa/tpa/accel"
	"github.com/gotpa/tpa/internal/echoserver"
	"github.com/gotpa/tpa/internal/testnet"
)

// A host is a site whose server is a runtime of this process.
type host struct {
	*site
	rt  *accel.Runtime
	log *testnet.Output
}

// newHost starts a runtime on an interface of the site's server.
func newHost(s *site, dev string, policy accel.Fallback) *host {
	s.Helper()
	h := &host{site: s, log: new(testnet.Output)}
	s.server.Do(func() {
		var err error
		h.rt, err = accel.New(accel.Config{
			Device: dev, Fallback: policy, DebugSocket: "off", Logger: slog.New(slog.NewTextHandler(h.log, nil)),
		})
		if err != nil {
			s.Fatal(err)
		}
	})
	s.Cleanup(func() { h.rt.Close() })
	return h
}

func (h *host) listen(addr string) (ln net.Listener) {
	h.Helper()
	h.server.Do(func() {
		var err error
		if ln, err = (&accel.ListenConfig{Runtime: h.rt}).Listen(context.Background(), "tcp", addr); err != nil {
			h.Fatal(err)
		}
	})
	return ln
}

// echoes connects from the client and has a line come back.
func (h *host) echoes(addr string) error {
	c, err := dial(h.client, addr)
	if err != nil {
		return err
	}
	defer c.Close()
	return echo(c)
}

// TestDeviceChoice: a veth pair is shared by a packet socket, unless more queues than it
// has or settings of AF_XDP are asked for; the log and the status say why.
func TestDeviceChoice(t *testing.T) {
	s := newSite(t, testnet.Wire{Queues: 2})
	if len(ways()) == 1 {
		t.Skip("no packet socket before Linux 6.6")
	}
	for _, tt := range []struct {
		name   string
		config accel.Config
		mode   string
	}{
		{"nothing asked for", accel.Config{Device: s.si.Name}, "packet socket"},
		{"AF_XDP", accel.Config{Device: "xdp:" + s.si.Name}, "XDP native, copy"},
		{"two queues", accel.Config{Device: s.si.Name, Queues: 2}, "XDP native, copy"},
		{"busy polling", accel.Config{Device: s.si.Name, XDP: accel.XDP{BusyPoll: 50 * time.Microsecond}}, "XDP native, copy"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			log := new(testnet.Output)
			c := tt.config
			c.Fallback, c.DebugSocket, c.Logger = accel.FallbackNever, "off", slog.New(slog.NewTextHandler(log, nil))
			s.server.Do(func() {
				rt, err := accel.New(c)
				if err != nil {
					t.Fatal(err)
				}
				defer rt.Close()
				d := rt.Status().Device
				if d.Mode != tt.mode {
					t.Fatalf("got %+v, want mode %q", d, tt.mode)
				}
				const why = "64 KB in one piece"
				chosen := strings.Contains(strings.Join(d.QueueModes, " "), why)
				if want := tt.mode == "packet socket"; chosen != want || strings.Contains(log.String(), why) != want {
					t.Errorf("queue modes are %q, want a reason: %v; log:\n%s", d.QueueModes, want, log)
				}
			})
		})
	}
}

// TestDeviceChanges: what befalls an interface from outside is survived, or Accept
// fails and the runtime says that it accelerates no longer; a program that listens
// anew then is served by the kernel.
func TestDeviceChanges(t *testing.T) {
	for _, dev := range []string{"xdp", "packet"} {
		t.Run(dev, func(t *testing.T) {
			s := newSite(t, testnet.Wire{})
			h := newHost(s, dev+":"+s.si.Name, accel.FallbackAuto)
			ln := h.listen(fmt.Sprintf(":%d", port))
			go echoserver.Run(ln)
			addr4, addr6 := at(s.si, port)
			must := func(err error) {
				t.Helper()
				if err != nil {
					t.Fatal(err)
				}
			}
			near := func() netlink.Link {
				t.Helper()
				l, err := s.server.Netlink.LinkByIndex(s.si.Index)
				must(err)
				return l
			}
			old, err := dial(s.client, addr4)
			must(err)
			defer old.Close()
			goesOn := func(what string) {
				t.Helper()
				if err := echo(old); err != nil {
					t.Errorf("%s: an old connection: %v", what, err)
				}
				for _, addr := range []string{addr4, addr6} {
					s.eventually(what+": a new connection", func() error { return h.echoes(addr) })
				}
				if ok, why := h.rt.Accelerated(); !ok {
					t.Errorf("%s: not accelerated: %v", what, why)
				}
			}
			goesOn("start")

			must(s.server.Netlink.LinkSetDown(near()))
			must(s.server.Netlink.LinkSetName(near(), "renamed"))
			must(s.server.Netlink.LinkSetUp(near()))
			// IPv6 addresses go with the link.
			(&crossing{T: t}).ip(s.server, "-6 addr replace "+s.si.IPv6.String()+" dev renamed nodad")
			goesOn("renamed")

			far, err := s.client.Netlink.LinkByName(s.ci.Name)
			must(err)
			must(s.client.Netlink.LinkSetDown(far))
			s.eventually("no carrier", func() error {
				if h.rt.Stats().LinkUp {
					return errors.New("up")
				}
				return nil
			})
			must(s.client.Netlink.LinkSetUp(far))
			(&crossing{T: t}).ip(s.client, "-6 addr replace "+s.ci.IPv6.String()+" dev "+s.ci.Name+" nodad")
			goesOn("carrier gone and back")

			s.server.Do(func() { detach(t, s.si.Index) })
			s.eventually("attached again", func() error {
				if !strings.Contains(h.log.String(), "attached again") {
					return errors.New("not yet")
				}
				return nil
			})
			// The kernel may have reset the old one.
			old.Close()
			old, err = dial(s.client, addr4)
			must(err)
			goesOn("filter detached")
			if log := h.log.String(); strings.Contains(log, "level=ERROR") {
				t.Errorf("log %s", log)
			}
		})
	}
}

// detach takes the filters of this process away from an interface, as `bpftool link
// detach` does. Interfaces of other namespaces may have the same number.
func detach(t *testing.T, index int) {
	t.Helper()
	own := ""
	files, _ := filepath.Glob("/proc/self/fdinfo/*")
	for _, name := range files {
		b, _ := os.ReadFile(name) // not all of them are there any more
		own += string(b)
	}
	it := new(link.Iterator)
	defer it.Close()
	n := 0
	for it.Next() {
		info, err := it.Link.Info()
		if err != nil {
			continue
		}
		at := uint32(0)
		if x := info.XDP(); x != nil {
			at = x.Ifindex
		} else if x := info.TCX(); x != nil {
			at = x.Ifindex
		}
		if at != uint32(index) || !strings.Contains(own, fmt.Sprintf("link_id:\t%d\n", info.ID)) {
			continue
		}
		if err := it.Link.Detach(); err != nil {
			t.Fatal(err)
		}
		n++
	}
	if n == 0 {
		t.Fatal("no filter is attached")
	}
}

// TestDeviceLost: an interface that is deleted, or moved to another namespace, ends
// the listener with an error that says so. The next one is the kernel's, and serves when
// the interface is back.
func TestDeviceLost(t *testing.T) {
	for _, dev := range []string{"xdp", "packet"} {
		for _, lose := range []string{"deleted", "moved"} {
			t.Run(dev+" "+lose, func(t *testing.T) {
				s := newSite(t, testnet.Wire{})
				h := newHost(s, dev+":"+s.si.Name, accel.FallbackAuto)
				ln := h.listen(fmt.Sprintf(":%d", port))
				accepted := make(chan error, 1)
				go func() {
					for {
						c, err := ln.Accept()
						if err != nil {
							accepted <- err
							return
						}
						c.Close()
					}
				}()
				l, err := s.server.Netlink.LinkByName(s.si.Name)
				if err != nil {
					t.Fatal(err)
				}
				n := testnet.New(t)
				if lose == "deleted" {
					err = s.server.Netlink.LinkDel(l)
				} else {
					n.Host("elsewhere").Do(func() {
						var fd int
						if fd, err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0); err == nil {
							err = s.server.Netlink.LinkSetNsFd(l, fd)
							unix.Close(fd)
						}
					})
				}
				if err != nil {
					t.Fatal(err)
				}
				select {
				case err := <-accepted:
					if !errors.Is(err, syscall.ENODEV) || !strings.Contains(err.Error(), "interface is gone") {
						t.Errorf("Accept: %v, want ENODEV and why", err)
					}
				case <-time.After(10 * time.Second):
					t.Fatal("Accept does not return")
				}
				if ok, why := h.rt.Accelerated(); ok || !errors.Is(why, syscall.ENODEV) {
					t.Errorf("Accelerated: %v, %v", ok, why)
				}
				if st := h.rt.Stats(); st.Accelerated {
					t.Error("Stats: accelerated")
				}

				next := h.listen(fmt.Sprintf(":%d", port))
				defer next.Close()
				go echoserver.Run(next)
				if lose == "moved" {
					(&crossing{T: t}).ip(s.client, "link del "+s.ci.Name)
				}
				_, s.si = n.Connect(s.client, s.server, testnet.Wire{})
				addr4, addr6 := at(s.si, port)
				for _, addr := range []string{addr4, addr6} {
					if err := h.echoes(addr); err != nil {
						t.Errorf("by the kernel: %v", err)
					}
				}
			})
		}
	}
}
