package interop

import (
	"bytes"
	"context"
	"net/http"
	"sync"
	"testing"

	"github.com/coder/websocket"
)

// serveWebSocket echoes messages of any size until the test ends.
func serveWebSocket(t *testing.T, tr transport) string {
	t.Helper()
	return "ws://" + serveHTTP(t, tr, &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, nil)
		if err != nil {
			t.Error(err)
			return
		}
		defer c.CloseNow()
		c.SetReadLimit(-1)
		for {
			kind, b, err := c.Read(r.Context())
			if err != nil {
				return
			}
			if string(b) == "go away" {
				c.Close(websocket.StatusGoingAway, "as you wish")
				return
			}
			if err := c.Write(r.Context(), kind, b); err != nil {
				return
			}
		}
	})}).String()
}

func dialWebSocket(t *testing.T, tr transport, url string) *websocket.Conn {
	t.Helper()
	client, _ := httpClient(t, tr)
	client.Timeout = 0 // websocket takes contexts
	c, _, err := websocket.Dial(within(t), url, &websocket.DialOptions{HTTPClient: client})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.CloseNow() })
	c.SetReadLimit(-1)
	return c
}

func TestWebSocketEcho(t *testing.T) {
	overTransports(t, func(t *testing.T, tr transport) {
		url := serveWebSocket(t, tr)
		var wg sync.WaitGroup
		for range 10 {
			c, ctx := dialWebSocket(t, tr, url), within(t)
			wg.Go(func() {
				for _, size := range []int{0, 1, 125, 126, 65535, 65536, 1 << 20} {
					want := pattern(size)
					if err := c.Write(ctx, websocket.MessageBinary, want); err != nil {
						t.Error(err)
						return
					}
					kind, got, err := c.Read(ctx)
					if err != nil || kind != websocket.MessageBinary || !bytes.Equal(got, want) {
						t.Errorf("echo of %d bytes: %v, %d bytes, %v", size, kind, len(got), err)
						return
					}
				}
			})
		}
		wg.Wait()
	})
}

func TestWebSocketPing(t *testing.T) {
	overTransports(t, func(t *testing.T, tr transport) {
		c, ctx := dialWebSocket(t, tr, serveWebSocket(t, tr)), within(t)
		reading := c.CloseRead(ctx) // pongs are read there
		for range 3 {
			if err := c.Ping(ctx); err != nil {
				t.Fatal(err)
			}
		}
		if err := reading.Err(); err != nil {
			t.Error(err)
		}
	})
}

func TestWebSocketClose(t *testing.T) {
	overTransports(t, func(t *testing.T, tr transport) {
		url := serveWebSocket(t, tr)
		t.Run("by the server", func(t *testing.T) {
			c, ctx := dialWebSocket(t, tr, url), within(t)
			if err := c.Write(ctx, websocket.MessageText, []byte("go away")); err != nil {
				t.Fatal(err)
			}
			if _, _, err := c.Read(ctx); websocket.CloseStatus(err) != websocket.StatusGoingAway {
				t.Errorf("got %v, want status %v", err, websocket.StatusGoingAway)
			}
		})
		t.Run("by the client", func(t *testing.T) {
			c := dialWebSocket(t, tr, url)
			if err := c.Close(websocket.StatusNormalClosure, ""); err != nil {
				t.Error(err)
			}
		})
		t.Run("by a context", func(t *testing.T) {
			c := dialWebSocket(t, tr, url)
			ctx, cancel := context.WithCancel(within(t))
			read := make(chan error, 1)
			go func() {
				_, _, err := c.Read(ctx)
				read <- err
			}()
			cancel()
			if err := receive(t, read, "end of Read"); err == nil {
				t.Error("Read returned no error")
			}
		})
	})
}
