package interop

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/valyala/fasthttp"
)

// serveFastHTTP runs a server until the test ends.
func serveFastHTTP(t *testing.T, tr transport, srv *fasthttp.Server) net.Addr {
	t.Helper()
	ln := tr.listen(t)
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ln) }()
	t.Cleanup(func() {
		ln.Close()
		if err := receive(t, served, "end of the server"); err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return ln.Addr()
}

func fastHTTPClient(t *testing.T, tr transport) *fasthttp.Client {
	c := &fasthttp.Client{
		DialTimeout: func(addr string, timeout time.Duration) (net.Conn, error) {
			ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
			defer cancel()
			return tr.dial(ctx, "tcp", addr)
		},
		RetryIfErr: func(*fasthttp.Request, int, error) (bool, bool) { return false, false },
	}
	t.Cleanup(c.CloseIdleConnections)
	return c
}

func TestFastHTTP(t *testing.T) {
	overTransports(t, func(t *testing.T, tr transport) {
		addr := serveFastHTTP(t, tr, &fasthttp.Server{
			MaxRequestBodySize: 4 << 20,
			Handler: func(ctx *fasthttp.RequestCtx) {
				ctx.Response.Header.Set("Peer", ctx.RemoteAddr().String())
				ctx.Write(ctx.PostBody())
			},
		})
		client := fastHTTPClient(t, tr)
		var wg sync.WaitGroup
		for i := range 50 {
			wg.Go(func() {
				req, resp := fasthttp.AcquireRequest(), fasthttp.AcquireResponse()
				defer fasthttp.ReleaseRequest(req)
				defer fasthttp.ReleaseResponse(resp)
				for _, size := range []int{i, 1000 * i, 1 << 20} {
					want := pattern(size)
					req.Reset()
					req.SetRequestURI("http://" + addr.String())
					req.Header.SetMethod("POST")
					req.SetBody(want)
					if err := client.DoTimeout(req, resp, testTimeout); err != nil || !bytes.Equal(resp.Body(), want) {
						t.Errorf("echo of %d bytes: %d bytes, %v", size, len(resp.Body()), err)
						return
					}
					if peer := string(resp.Header.Peek("Peer")); peer == "" || peer[0] == '0' {
						t.Errorf("the server saw the peer %q", peer)
					}
				}
			})
		}
		wg.Wait()
	})
}

// TestFastHTTPStream answers from a reader of no known length.
func TestFastHTTPStream(t *testing.T) {
	overTransports(t, func(t *testing.T, tr transport) {
		want := pattern(5 << 20)
		addr := serveFastHTTP(t, tr, &fasthttp.Server{Handler: func(ctx *fasthttp.RequestCtx) {
			ctx.SetBodyStream(io.MultiReader(bytes.NewReader(want)), -1)
		}})
		_, got, err := fastHTTPClient(t, tr).GetTimeout(nil, "http://"+addr.String(), testTimeout)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("got %d bytes, %v; want %d", len(got), err, len(want))
		}
	})
}

func TestFastHTTPTimeout(t *testing.T) {
	overTransports(t, func(t *testing.T, tr transport) {
		release := make(chan struct{})
		addr := serveFastHTTP(t, tr, &fasthttp.Server{Handler: func(*fasthttp.RequestCtx) { <-release }})
		defer close(release)
		client := fastHTTPClient(t, tr)
		client.ReadTimeout = 20 * time.Millisecond
		if _, _, err := client.Get(nil, "http://"+addr.String()); !errors.Is(err, fasthttp.ErrTimeout) {
			t.Errorf("got %v, want %v", err, fasthttp.ErrTimeout)
		}
	})
}
