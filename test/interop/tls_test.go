package interop

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// serveTLS accepts connections and hands each to f until the test ends.
func serveTLS(t *testing.T, tr transport, config *tls.Config, f func(*tls.Conn)) net.Addr {
	t.Helper()
	ln := tls.NewListener(tr.listen(t), config)
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				c.SetDeadline(time.Now().Add(testTimeout))
				f(c.(*tls.Conn))
			}()
		}
	}()
	return ln.Addr()
}

func dialTLS(t *testing.T, tr transport, addr net.Addr, config *tls.Config) *tls.Conn {
	t.Helper()
	return tls.Client(dialTCP(t, tr, addr), config)
}

func TestTLSClientCertificate(t *testing.T) {
	overTransports(t, func(t *testing.T, tr transport) {
		ca, stranger := newAuthority(t), newAuthority(t)
		server, client := ca.configs(t)
		server.ClientAuth, server.ClientCAs = tls.RequireAndVerifyClientCert, ca.pool
		addr := serveTLS(t, tr, server, func(c *tls.Conn) {
			if c.Handshake() == nil {
				io.WriteString(c, c.ConnectionState().PeerCertificates[0].Subject.CommonName)
			}
		})
		t.Run("good", func(t *testing.T) {
			config := client.Clone()
			config.Certificates = []tls.Certificate{ca.issue(t, "alice")}
			if got, err := io.ReadAll(dialTLS(t, tr, addr, config)); err != nil || string(got) != "alice" {
				t.Errorf("the server saw %q, %v; want alice", got, err)
			}
		})
		t.Run("of another authority", func(t *testing.T) {
			config := client.Clone()
			// GetClientCertificate offers it although the server does not ask for it.
			cert := stranger.issue(t, "mallory")
			config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &cert, nil }
			_, err := io.ReadAll(dialTLS(t, tr, addr, config))
			var opErr *net.OpError
			if !errors.As(err, &opErr) || opErr.Op != "remote error" {
				t.Errorf("got %v, want the server's alert", err)
			}
		})
		t.Run("server of another authority", func(t *testing.T) {
			config := client.Clone()
			config.RootCAs = stranger.pool
			err := dialTLS(t, tr, addr, config).Handshake()
			var unknown x509.UnknownAuthorityError
			if !errors.As(err, &unknown) {
				t.Errorf("got %v, want an unknown authority", err)
			}
		})
	})
}

func TestTLSResumption(t *testing.T) {
	overTransports(t, func(t *testing.T, tr transport) {
		server, client := newAuthority(t).configs(t)
		client.ClientSessionCache = tls.NewLRUClientSessionCache(1)
		addr := serveTLS(t, tr, server, func(c *tls.Conn) { io.WriteString(c, "hello") })
		for i, want := range []bool{false, true, true} {
			c := dialTLS(t, tr, addr, client)
			// The session ticket comes with the data in TLS 1.3.
			if got, err := io.ReadAll(c); err != nil || string(got) != "hello" {
				t.Fatalf("connection %d: got %q, %v", i, got, err)
			}
			if got := c.ConnectionState().DidResume; got != want {
				t.Errorf("connection %d resumed a session: %t, want %t", i, got, want)
			}
			c.Close()
		}
	})
}

// TestTLSHalfClose sends much, closes one half, and reads the rest.
func TestTLSHalfClose(t *testing.T) {
	overTransports(t, func(t *testing.T, tr transport) {
		server, client := newAuthority(t).configs(t)
		addr := serveTLS(t, tr, server, func(c *tls.Conn) {
			b, err := io.ReadAll(c)
			if err == nil {
				c.Write(b)
			}
		})
		c := dialTLS(t, tr, addr, client)
		want := pattern(5 << 20)
		if _, err := c.Write(want); err != nil {
			t.Fatal(err)
		}
		if err := c.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(c); err != nil || !bytes.Equal(got, want) {
			t.Errorf("got %d bytes, %v; want the %d sent", len(got), err, len(want))
		}
	})
}

func TestTLSHandshakeTimeout(t *testing.T) {
	overTransports(t, func(t *testing.T, tr transport) {
		_, client := newAuthority(t).configs(t)
		addr := tr.listen(t).Addr() // nobody accepts
		c := dialTLS(t, tr, addr, client)
		c.SetDeadline(time.Now().Add(20 * time.Millisecond))
		err := c.Handshake()
		var ne net.Error
		if !errors.As(err, &ne) || !ne.Timeout() || !strings.Contains(err.Error(), "timeout") {
			t.Errorf("got %v, want a timeout", err)
		}
	})
}
