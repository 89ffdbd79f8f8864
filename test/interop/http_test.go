package interop

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// serveHTTP runs a server until the test ends and returns where it listens.
func serveHTTP(t *testing.T, tr transport, srv *http.Server) net.Addr {
	t.Helper()
	ln := tr.listen(t)
	served := make(chan error, 1)
	go func() {
		if srv.TLSConfig != nil {
			served <- srv.ServeTLS(ln, "", "")
		} else {
			served <- srv.Serve(ln)
		}
	}()
	t.Cleanup(func() {
		srv.Close()
		if err := receive(t, served, "end of the server"); !errors.Is(err, http.ErrServerClosed) {
			t.Errorf("Serve returned %v, want %v", err, http.ErrServerClosed)
		}
	})
	return ln.Addr()
}

// httpClient returns a client with its own connections.
func httpClient(t *testing.T, tr transport) (*http.Client, *http.Transport) {
	rt := &http.Transport{DialContext: tr.dial}
	t.Cleanup(rt.CloseIdleConnections)
	return &http.Client{Transport: rt, Timeout: testTimeout}, rt
}

// do sends a request and returns the reply with its body read.
func do(t *testing.T, c *http.Client, req *http.Request) (*http.Response, []byte) {
	t.Helper()
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, body
}

func request(t *testing.T, method, url string, body io.Reader) *http.Request {
	t.Helper()
	req, err := http.NewRequestWithContext(within(t), method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	return req
}

// echoBody answers with the body of the request.
func echoBody(w http.ResponseWriter, r *http.Request) {
	http.NewResponseController(w).EnableFullDuplex()
	if _, err := io.Copy(w, r.Body); err != nil {
		panic(http.ErrAbortHandler)
	}
}

func TestHTTPKeepAlive(t *testing.T) {
	overTransports(t, func(t *testing.T, tr transport) {
		addr := serveHTTP(t, tr, &http.Server{Handler: http.HandlerFunc(echoBody)})
		client, _ := httpClient(t, tr)
		reused := 0
		ctx := httptrace.WithClientTrace(within(t), &httptrace.ClientTrace{
			GotConn: func(info httptrace.GotConnInfo) {
				if info.Reused {
					reused++
				}
			},
		})
		for i := range 50 {
			want := fmt.Sprintf("request %d", i)
			_, got := do(t, client, request(t, "POST", "http://"+addr.String(), strings.NewReader(want)).WithContext(ctx))
			if string(got) != want {
				t.Fatalf("got %q, want %q", got, want)
			}
		}
		if reused != 49 {
			t.Errorf("%d of 50 requests found an open connection, want 49", reused)
		}
	})
}

func TestHTTPChunked(t *testing.T) {
	overTransports(t, func(t *testing.T, tr transport) {
		addr := serveHTTP(t, tr, &http.Server{Handler: http.HandlerFunc(echoBody)})
		client, _ := httpClient(t, tr)
		want := pattern(3 << 20)
		// A reader of no known length is sent in chunks.
		resp, got := do(t, client, request(t, "POST", "http://"+addr.String(), io.MultiReader(bytes.NewReader(want))))
		if !bytes.Equal(got, want) {
			t.Errorf("got %d bytes that differ from the %d sent", len(got), len(want))
		}
		if len(resp.TransferEncoding) == 0 || resp.TransferEncoding[0] != "chunked" {
			t.Errorf("the reply's transfer encoding is %q, want chunked", resp.TransferEncoding)
		}
	})
}

func TestHTTPExpectContinue(t *testing.T) {
	overTransports(t, func(t *testing.T, tr transport) {
		addr := serveHTTP(t, tr, &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/refuse" {
				w.WriteHeader(http.StatusExpectationFailed)
				return
			}
			echoBody(w, r)
		})})
		client, rt := httpClient(t, tr)
		rt.ExpectContinueTimeout = testTimeout
		for _, tt := range []struct {
			path      string
			status    int
			body      string
			continued bool
		}{
			{"/accept", http.StatusOK, "the body", true},
			{"/refuse", http.StatusExpectationFailed, "", false},
		} {
			continued := false
			req := request(t, "PUT", "http://"+addr.String()+tt.path, strings.NewReader("the body"))
			req.Header.Set("Expect", "100-continue")
			req = req.WithContext(httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{
				Got100Continue: func() { continued = true },
			}))
			resp, body := do(t, client, req)
			if resp.StatusCode != tt.status || string(body) != tt.body || continued != tt.continued {
				t.Errorf("%s: status %d, body %q, continued %t; want %d, %q, %t",
					tt.path, resp.StatusCode, body, continued, tt.status, tt.body, tt.continued)
			}
		}
	})
}

// TestHTTPFile serves a file, whole and in part: net/http hands it to the
// connection's ReadFrom.
func TestHTTPFile(t *testing.T) {
	overTransports(t, func(t *testing.T, tr transport) {
		want := pattern(8 << 20)
		name := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(name, want, 0o600); err != nil {
			t.Fatal(err)
		}
		addr := serveHTTP(t, tr, &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			http.ServeFile(w, r, name)
		})})
		client, _ := httpClient(t, tr)
		if _, got := do(t, client, request(t, "GET", "http://"+addr.String(), nil)); !bytes.Equal(got, want) {
			t.Errorf("got %d bytes that differ from the file's %d", len(got), len(want))
		}
		req := request(t, "GET", "http://"+addr.String(), nil)
		req.Header.Set("Range", "bytes=1000000-1999999")
		if resp, got := do(t, client, req); resp.StatusCode != http.StatusPartialContent || !bytes.Equal(got, want[1000000:2000000]) {
			t.Errorf("range: status %d, %d bytes; want %d and the middle of the file", resp.StatusCode, len(got), http.StatusPartialContent)
		}
	})
}

// TestHTTPHijack takes the connection from the server, and closes it one half
// at a time.
func TestHTTPHijack(t *testing.T) {
	overTransports(t, func(t *testing.T, tr transport) {
		addr := serveHTTP(t, tr, &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			c, rw, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			rw.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: count\r\n\r\n")
			rw.Flush()
			n, err := io.Copy(io.Discard, rw) // until the client's half is closed
			fmt.Fprintf(rw, "%d bytes, %v", n, err)
			rw.Flush()
		})})
		c := dialTCP(t, tr, addr)
		fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: count\r\n\r\n")
		br := bufio.NewReader(c)
		resp, err := http.ReadResponse(br, nil)
		if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
			t.Fatalf("got %v, %v; want status 101", resp, err)
		}
		if _, err := c.Write(pattern(100_000)); err != nil {
			t.Fatal(err)
		}
		if err := c.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(br); err != nil || string(got) != "100000 bytes, <nil>" {
			t.Errorf("got %q, %v", got, err)
		}
	})
}

func TestHTTPShutdown(t *testing.T) {
	overTransports(t, func(t *testing.T, tr transport) {
		arrived, release := make(chan struct{}), make(chan struct{})
		srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/slow" {
				close(arrived)
				<-release
			}
			io.WriteString(w, "done")
		})}
		addr := serveHTTP(t, tr, srv)
		client, _ := httpClient(t, tr)
		idle, _ := httpClient(t, tr)
		do(t, idle, request(t, "GET", "http://"+addr.String(), nil))

		type reply struct {
			body []byte
			err  error
		}
		slow := make(chan reply, 1)
		req := request(t, "GET", "http://"+addr.String()+"/slow", nil)
		go func() {
			resp, err := client.Do(req)
			if err != nil {
				slow <- reply{err: err}
				return
			}
			defer resp.Body.Close()
			body, err := io.ReadAll(resp.Body)
			slow <- reply{body, err}
		}()
		receive(t, arrived, "request")

		down := make(chan error, 1)
		ctx := within(t)
		go func() { down <- srv.Shutdown(ctx) }()
		// The listener is closed before the request in flight ends.
		for deadline := time.Now().Add(testTimeout); ; {
			c, err := tr.dial(ctx, "tcp", addr.String())
			if err != nil {
				break
			}
			c.Close()
			if time.Now().After(deadline) {
				t.Fatal("the server accepts connections long after Shutdown")
			}
			time.Sleep(time.Millisecond)
		}
		select {
		case err := <-down:
			t.Fatalf("Shutdown returned %v with a request in flight", err)
		default:
		}
		close(release)
		if got := receive(t, slow, "reply"); got.err != nil || string(got.body) != "done" {
			t.Errorf("the request in flight got %q, %v; want its reply", got.body, got.err)
		}
		if err := receive(t, down, "end of Shutdown"); err != nil {
			t.Errorf("Shutdown: %v", err)
		}
	})
}

// TestHTTPClientGone ends a request's context when its client leaves: net/http
// reads in the background for that, and stops that read with a deadline in the
// past.
func TestHTTPClientGone(t *testing.T) {
	overTransports(t, func(t *testing.T, tr transport) {
		arrived, gone := make(chan struct{}), make(chan error, 1)
		addr := serveHTTP(t, tr, &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			close(arrived)
			select {
			case <-r.Context().Done():
				gone <- r.Context().Err()
			case <-time.After(testTimeout):
				gone <- errors.New("the context did not end")
			}
		})})
		client, _ := httpClient(t, tr)
		ctx, cancel := context.WithCancel(within(t))
		req := request(t, "GET", "http://"+addr.String(), nil).WithContext(ctx)
		go func() {
			<-arrived
			cancel()
		}()
		if _, err := client.Do(req); !errors.Is(err, context.Canceled) {
			t.Errorf("the client got %v, want %v", err, context.Canceled)
		}
		if err := receive(t, gone, "end of the request's context"); !errors.Is(err, context.Canceled) {
			t.Errorf("the handler got %v, want %v", err, context.Canceled)
		}
	})
}

func TestHTTPTimeouts(t *testing.T) {
	overTransports(t, func(t *testing.T, tr transport) {
		addr := serveHTTP(t, tr, &http.Server{
			Handler:           http.HandlerFunc(echoBody),
			ReadHeaderTimeout: 20 * time.Millisecond,
			IdleTimeout:       20 * time.Millisecond,
		})
		t.Run("header", func(t *testing.T) {
			c := dialTCP(t, tr, addr)
			io.WriteString(c, "GET / HTTP/1.1\r\n")
			if got, err := io.ReadAll(c); err != nil || len(got) != 0 {
				t.Errorf("a client that never ends its header got %q, %v; want a closed connection", got, err)
			}
		})
		t.Run("idle", func(t *testing.T) {
			c := dialTCP(t, tr, addr)
			io.WriteString(c, "GET / HTTP/1.1\r\nHost: test\r\n\r\n")
			br := bufio.NewReader(c)
			if resp, err := http.ReadResponse(br, nil); err != nil || resp.StatusCode != http.StatusOK {
				t.Fatalf("got %v, %v", resp, err)
			}
			if _, err := br.ReadByte(); !errors.Is(err, io.EOF) {
				t.Errorf("an idle client got %v, want %v", err, io.EOF)
			}
		})
	})
}

func TestHTTP2(t *testing.T) {
	overTransports(t, func(t *testing.T, tr transport) {
		for _, scheme := range []string{"https", "http"} {
			t.Run(map[string]string{"https": "TLS", "http": "h2c"}[scheme], func(t *testing.T) {
				srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					w.Header().Set("Version", r.Proto)
					echoBody(w, r)
				})}
				client, rt := httpClient(t, tr)
				rt.Protocols = new(http.Protocols)
				if scheme == "https" {
					srv.TLSConfig, rt.TLSClientConfig = newAuthority(t).configs(t)
					rt.Protocols.SetHTTP2(true)
				} else {
					srv.Protocols = new(http.Protocols)
					srv.Protocols.SetUnencryptedHTTP2(true)
					rt.Protocols.SetUnencryptedHTTP2(true)
				}
				var dials sync.Map
				rt.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
					c, err := tr.dial(ctx, network, address)
					if err == nil {
						dials.Store(c, nil)
					}
					return c, err
				}
				addr := serveHTTP(t, tr, srv)
				url := scheme + "://" + addr.String()
				do(t, client, request(t, "GET", url, nil)) // opens the connection
				var wg sync.WaitGroup
				for i := range 100 {
					wg.Go(func() {
						want := pattern(1000 * (i + 1))
						resp, err := client.Post(url, "application/octet-stream", bytes.NewReader(want))
						if err != nil {
							t.Error(err)
							return
						}
						defer resp.Body.Close()
						got, err := io.ReadAll(resp.Body)
						if err != nil || !bytes.Equal(got, want) || resp.Header.Get("Version") != "HTTP/2.0" {
							t.Errorf("stream %d: %d bytes, %v, %s; want %d bytes by HTTP/2.0", i, len(got), err, resp.Header.Get("Version"), len(want))
						}
					})
				}
				wg.Wait()
				n := 0
				dials.Range(func(any, any) bool { n++; return true })
				if n != 1 {
					t.Errorf("%d connections for 100 streams, want 1", n)
				}
			})
		}
	})
}

// TestReverseProxy puts a proxy between client and server, all three over one
// transport, and upgrades a connection through it.
func TestReverseProxy(t *testing.T) {
	overTransports(t, func(t *testing.T, tr transport) {
		backend := serveHTTP(t, tr, &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Upgrade") == "" {
				// Not echoBody: the proxy's own server is not full duplex.
				body, err := io.ReadAll(r.Body)
				if err != nil {
					t.Error(err)
				}
				w.Header().Set("X-For", r.Header.Get("X-Forwarded-For"))
				w.Write(body)
				return
			}
			w.Header().Set("Connection", "Upgrade")
			w.Header().Set("Upgrade", "echo")
			w.WriteHeader(http.StatusSwitchingProtocols)
			c, rw, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			io.Copy(c, rw)
		})})
		_, toBackend := httpClient(t, tr)
		proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: backend.String()})
		proxy.Transport = toBackend
		addr := serveHTTP(t, tr, &http.Server{Handler: proxy})

		t.Run("request", func(t *testing.T) {
			client, _ := httpClient(t, tr)
			want := pattern(1 << 20)
			resp, got := do(t, client, request(t, "POST", "http://"+addr.String(), bytes.NewReader(want)))
			if !bytes.Equal(got, want) {
				t.Errorf("got %d bytes that differ from the %d sent", len(got), len(want))
			}
			host, _, _ := net.SplitHostPort(addr.String())
			if got := resp.Header.Get("X-For"); net.ParseIP(got) == nil {
				t.Errorf("X-Forwarded-For is %q, want the client's address, near %s", got, host)
			}
		})
		t.Run("upgrade", func(t *testing.T) {
			c := dialTCP(t, tr, addr)
			fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
			br := bufio.NewReader(c)
			resp, err := http.ReadResponse(br, nil)
			if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
				t.Fatalf("got %v, %v; want status 101", resp, err)
			}
			want := pattern(200_000)
			go c.Write(want)
			got := make([]byte, len(want))
			if _, err := io.ReadFull(br, got); err != nil || !bytes.Equal(got, want) {
				t.Errorf("echo through the proxy: %v", err)
			}
		})
		t.Run("backend gone", func(t *testing.T) {
			gone := tr.listen(t)
			gone.Close()
			p := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: gone.Addr().String()})
			p.Transport = toBackend
			rec := httptest.NewRecorder()
			failed := make(chan error, 1)
			p.ErrorHandler = func(w http.ResponseWriter, _ *http.Request, err error) {
				failed <- err
				w.WriteHeader(http.StatusBadGateway)
			}
			p.ServeHTTP(rec, httptest.NewRequest("GET", "/", nil))
			var opErr *net.OpError
			if err := receive(t, failed, "error"); !errors.As(err, &opErr) || opErr.Op != "dial" {
				t.Errorf("got %v, want an error of dial", err)
			}
		})
	})
}

// TestHTTPS covers HTTP/1.1 over TLS, where net/http closes the write half
// before the connection.
func TestHTTPS(t *testing.T) {
	overTransports(t, func(t *testing.T, tr transport) {
		srv := &http.Server{Handler: http.HandlerFunc(echoBody)}
		client, rt := httpClient(t, tr)
		srv.TLSConfig, rt.TLSClientConfig = newAuthority(t).configs(t)
		rt.TLSClientConfig.NextProtos = []string{"http/1.1"}
		rt.TLSNextProto = map[string]func(string, *tls.Conn) http.RoundTripper{}
		addr := serveHTTP(t, tr, srv)
		want := pattern(500_000)
		resp, got := do(t, client, request(t, "POST", "https://"+addr.String(), bytes.NewReader(want)))
		if !bytes.Equal(got, want) || resp.ProtoMajor != 1 {
			t.Errorf("got %d bytes by %s, want %d by HTTP/1.1", len(got), resp.Proto, len(want))
		}
	})
}
