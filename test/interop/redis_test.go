package interop

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/tidwall/redcon"
)

// serveRedis runs a server on redcon until the test ends.
func serveRedis(t *testing.T, tr transport) net.Addr {
	t.Helper()
	var (
		mu     sync.Mutex // guards values
		values = map[string][]byte{}
		pubsub redcon.PubSub
	)
	handle := func(conn redcon.Conn, cmd redcon.Command) {
		mu.Lock()
		defer mu.Unlock()
		name := strings.ToLower(string(cmd.Args[0]))
		switch {
		case name == "ping":
			conn.WriteString("PONG")
		case name == "set" && len(cmd.Args) == 3:
			values[string(cmd.Args[1])] = bytes.Clone(cmd.Args[2])
			conn.WriteString("OK")
		case name == "get" && len(cmd.Args) == 2:
			if v, ok := values[string(cmd.Args[1])]; ok {
				conn.WriteBulk(v)
			} else {
				conn.WriteNull()
			}
		case name == "incr" && len(cmd.Args) == 2:
			n, _ := strconv.ParseInt(string(values[string(cmd.Args[1])]), 10, 64)
			values[string(cmd.Args[1])] = strconv.AppendInt(nil, n+1, 10)
			conn.WriteInt64(n + 1)
		case name == "publish" && len(cmd.Args) == 3:
			conn.WriteInt(pubsub.Publish(string(cmd.Args[1]), string(cmd.Args[2])))
		case name == "subscribe" && len(cmd.Args) == 2:
			pubsub.Subscribe(conn, string(cmd.Args[1]))
		case name == "quit":
			conn.WriteString("OK")
			conn.Close()
		case name == "debug": // sleeps, as far as the client can tell: never answers
		default:
			conn.WriteError("ERR unknown command '" + name + "'")
		}
	}
	srv := redcon.NewServer("", handle, func(redcon.Conn) bool { return true }, func(redcon.Conn, error) {})
	ln := tr.listen(t)
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ln) }()
	t.Cleanup(func() {
		srv.Close()
		if err := receive(t, served, "end of the server"); err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return ln.Addr()
}

func redisClient(t *testing.T, tr transport, addr net.Addr) *redis.Client {
	c := redis.NewClient(&redis.Options{Addr: addr.String(), Dialer: tr.dial, PoolSize: 10, MaxRetries: -1})
	t.Cleanup(func() { c.Close() })
	return c
}

func TestRedisCommands(t *testing.T) {
	overTransports(t, func(t *testing.T, tr transport) {
		c, ctx := redisClient(t, tr, serveRedis(t, tr)), within(t)
		if err := c.Get(ctx, "nothing").Err(); !errors.Is(err, redis.Nil) {
			t.Errorf("GET of no key: %v, want %v", err, redis.Nil)
		}
		for _, size := range []int{0, 1, 1000, 2 << 20} {
			want := pattern(size)
			if err := c.Set(ctx, "key", want, 0).Err(); err != nil {
				t.Fatal(err)
			}
			if got, err := c.Get(ctx, "key").Bytes(); err != nil || !bytes.Equal(got, want) {
				t.Errorf("GET of %d bytes: %d bytes, %v", size, len(got), err)
			}
		}
		if err := c.Do(ctx, "nonsense").Err(); err == nil || !strings.Contains(err.Error(), "unknown command") {
			t.Errorf("nonsense: %v, want the server's error", err)
		}
	})
}

func TestRedisPipelines(t *testing.T) {
	overTransports(t, func(t *testing.T, tr transport) {
		c, ctx := redisClient(t, tr, serveRedis(t, tr)), within(t)
		const pipelines, depth = 20, 500
		var wg sync.WaitGroup
		for i := range pipelines {
			wg.Go(func() {
				key := fmt.Sprint("counter", i)
				cmds, err := c.Pipelined(ctx, func(p redis.Pipeliner) error {
					for range depth {
						p.Incr(ctx, key)
					}
					return nil
				})
				if err != nil {
					t.Errorf("pipeline %d: %v", i, err)
				}
				for j, cmd := range cmds {
					if got := cmd.(*redis.IntCmd).Val(); got != int64(j+1) {
						t.Errorf("pipeline %d: reply %d is %d, want %d", i, j, got, j+1)
						break
					}
				}
			})
		}
		wg.Wait()
	})
}

func TestRedisPubSub(t *testing.T) {
	overTransports(t, func(t *testing.T, tr transport) {
		c, ctx := redisClient(t, tr, serveRedis(t, tr)), within(t)
		sub := c.Subscribe(ctx, "news")
		defer sub.Close()
		if _, err := sub.Receive(ctx); err != nil {
			t.Fatal(err)
		}
		for i := range 100 {
			want := fmt.Sprint("message ", i)
			if n, err := c.Publish(ctx, "news", want).Result(); err != nil || n != 1 {
				t.Fatalf("PUBLISH reached %d, %v; want 1", n, err)
			}
			if m, err := sub.ReceiveMessage(ctx); err != nil || m.Payload != want {
				t.Fatalf("got %v, %v; want %q", m, err, want)
			}
		}
	})
}

// TestRedisTimeouts looks for the errors that callers of go-redis test for.
func TestRedisTimeouts(t *testing.T) {
	overTransports(t, func(t *testing.T, tr transport) {
		addr := serveRedis(t, tr)
		c := redis.NewClient(&redis.Options{
			Addr: addr.String(), Dialer: tr.dial, MaxRetries: -1, ReadTimeout: 20 * time.Millisecond,
		})
		defer c.Close()
		if err := c.Do(within(t), "debug", "sleep", "1").Err(); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("read timeout: %v, want %v", err, os.ErrDeadlineExceeded)
		}
		if err := c.Ping(within(t)).Err(); err != nil {
			t.Errorf("after a timeout: %v", err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := c.Ping(ctx).Err(); !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled: %v, want %v", err, context.Canceled)
		}
		closed := tr.listen(t)
		closed.Close()
		redis.SetLogger(quiet{})
		refused := redisClient(t, tr, closed.Addr())
		var opErr *net.OpError
		if err := refused.Ping(within(t)).Err(); !errors.As(err, &opErr) || opErr.Op != "dial" {
			t.Errorf("refused: %v, want an error of dial", err)
		}
	})
}

// quiet drops go-redis's log of failed dials, which the test provokes.
type quiet struct{}

func (quiet) Printf(context.Context, string, ...any) {}
