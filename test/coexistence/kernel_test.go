package coexistence

// What the kernel serves beside the accelerated server.

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/gotpa/tpa/internal/testnet"
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
	go func() {
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
	}()
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
