package coexistence

// What the kernel serves beside the accelerated server.

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/gotpa/tpa/accel"
	"github.com/gotpa/tpa/internal/echoserver"
	"github.com/gotpa/tpa/internal/testnet"
	"golang.org/x/sys/unix"
)

// echoServer serves bytes back on a port of the kernel.
func echoServer(t *testing.T, h *testnet.Host, addr string) {
	t.Helper()
	var ln net.Listener
	var err error
	h.Do(func() { ln, err = net.Listen("tcp", addr) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go echoserver.Run(ln)
}

// acceleratedEcho serves bytes back on a port of a device of the host, and logs to log.
func acceleratedEcho(t *testing.T, h *testnet.Host, device string, port int, log io.Writer) *accel.Runtime {
	t.Helper()
	var rt *accel.Runtime
	var ln net.Listener
	var err error
	h.Do(func() {
		rt, err = accel.New(accel.Config{
			Device: device, Fallback: accel.FallbackNever, DebugSocket: "off", Logger: slog.New(slog.NewTextHandler(log, nil)),
		})
		if err == nil {
			t.Cleanup(func() { rt.Close() })
			ln, err = (&accel.ListenConfig{Runtime: rt}).Listen(t.Context(), "tcp", fmt.Sprintf(":%d", port))
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	go echoserver.Run(ln)
	return rt
}

func echo(c net.Conn) error {
	c.SetDeadline(time.Now().Add(20 * time.Second))
	const msg = "kernel\n"
	if _, err := io.WriteString(c, msg); err != nil {
		return err
	}
	b := make([]byte, len(msg))
	if _, err := io.ReadFull(c, b); err != nil {
		return err
	}
	if string(b) != msg {
		return fmt.Errorf("got %q, want %q", b, msg)
	}
	return nil
}

// watchResets returns a function that tells how many segments with RST the server's
// kernel has sent from the server's port since the last call. What goes out by
// AF_XDP is not among them: only the kernel's own frames pass packet sockets.
func (s *site) watchResets() func() int {
	s.Helper()
	var fd int
	var err error
	s.server.Do(func() { fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0) })
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { unix.Close(fd) })
	const (
		loadHalf, loadByte = unix.BPF_LD | unix.BPF_H | unix.BPF_ABS, unix.BPF_LD | unix.BPF_B | unix.BPF_ABS
		equal, set         = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K
		rst                = 4
	)
	// Frames without IP options, as the kernel's resets are.
	filter := []unix.SockFilter{
		{Code: loadHalf, K: 12},
		{Code: equal, K: 0x0800, Jf: 6},
		{Code: loadByte, K: 23},
		{Code: equal, K: unix.IPPROTO_TCP, Jf: 12},
		{Code: loadHalf, K: 34},
		{Code: equal, K: port, Jf: 10},
		{Code: loadByte, K: 47},
		{Code: set, K: rst, Jt: 7, Jf: 8},
		{Code: equal, K: 0x86dd, Jf: 7},
		{Code: loadByte, K: 20},
		{Code: equal, K: unix.IPPROTO_TCP, Jf: 5},
		{Code: loadHalf, K: 54},
		{Code: equal, K: port, Jf: 3},
		{Code: loadByte, K: 67},
		{Code: set, K: rst, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: 128},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},
	}
	prog := &unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, prog); err != nil {
		s.Fatal(err)
	}
	all := binary.NativeEndian.Uint16([]byte{unix.ETH_P_ALL >> 8, unix.ETH_P_ALL & 0xff})
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: s.si.Index}); err != nil {
		s.Fatal(err)
	}
	return func() (n int) {
		s.Helper()
		for b := make([]byte, 128); ; {
			_, from, err := unix.Recvfrom(fd, b, 0)
			if err == unix.EAGAIN {
				return n
			}
			if err != nil {
				s.Fatal(err)
			}
			if ll, ok := from.(*unix.SockaddrLinklayer); ok && ll.Pkttype == unix.PACKET_OUTGOING {
				n++
			}
		}
	}
}

// udp keeps a UDP socket of the kernel busy, at the port number of the server.
// Datagrams may not be lost here.
func (s *site) udp(addr netip.Addr) *load {
	s.Helper()
	at := netip.AddrPortFrom(addr, port).String()
	var server net.PacketConn
	var err error
	s.server.Do(func() { server, err = net.ListenPacket("udp", at) })
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { server.Close() })
	go func() {
		b := make([]byte, 2048)
		for {
			n, from, err := server.ReadFrom(b)
			if err != nil {
				return
			}
			server.WriteTo(b[:n], from)
		}
	}()
	var c net.Conn
	s.client.Do(func() { c, err = net.Dial("udp", at) })
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { c.Close() })
	return s.ask(func() error { return echo(c) })
}

// http keeps a web server of the kernel's at port 80 busy: most requests on one
// connection, each tenth on a new one.
func (s *site) http(addr netip.Addr) *load {
	s.Helper()
	at := netip.AddrPortFrom(addr, 80).String()
	page := strings.Repeat("The kernel's page. ", 100)
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, r.URL.Path, page)
	})}
	var ln net.Listener
	var err error
	s.server.Do(func() { ln, err = net.Listen("tcp", at) })
	if err != nil {
		s.Fatal(err)
	}
	go server.Serve(ln)
	s.Cleanup(func() { server.Close() })
	transport := &http.Transport{DialContext: func(_ context.Context, _, addr string) (net.Conn, error) {
		return dial(s.client, addr)
	}}
	s.Cleanup(transport.CloseIdleConnections)
	client := &http.Client{Transport: transport, Timeout: 20 * time.Second}
	n := 0
	return s.ask(func() error {
		if n++; n%10 == 0 {
			transport.CloseIdleConnections()
		}
		path := fmt.Sprintf("/%d", n)
		resp, err := client.Get("http://" + at + path)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err == nil && (resp.StatusCode != http.StatusOK || string(b) != path+page) {
			err = errors.New("another page than the one asked for: " + resp.Status)
		}
		return err
	})
}
