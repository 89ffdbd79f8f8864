package redis

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	client "github.com/redis/go-redis/v9"

	"github.com/gotpa/tpa/cmd/tpa-bench/internal/resp"
)

// newClient returns a go-redis client of the store, over pipes.
func newClient(t *testing.T, s *Store) *client.Client {
	t.Helper()
	c := client.NewClient(&client.Options{
		Addr: "pipe",
		Dialer: func(context.Context, string, string) (net.Conn, error) {
			near, far := net.Pipe()
			go s.Serve(far)
			return near, nil
		},
		PoolSize: 4,
	})
	t.Cleanup(func() { c.Close() })
	return c
}

// TestCommands runs commands as go-redis sends them and compares its view of the
// replies.
func TestCommands(t *testing.T) {
	ctx := context.Background()
	tests := []struct {
		do   []any
		want any // the value, nil for none, or an error's text
	}{
		{[]any{"PING"}, "PONG"},
		{[]any{"ping", "hello"}, "hello"},
		{[]any{"ECHO", "a\r\nb"}, "a\r\nb"},
		{[]any{"SELECT", 0}, "OK"},
		{[]any{"SELECT", 1}, errors.New("ERR DB index is out of range")},
		{[]any{"CONFIG", "GET", "save"}, []any{"save", ""}},
		{[]any{"CONFIG", "GET", "nothing"}, []any{}},
		{[]any{"CONFIG", "SET", "save", "1"}, errors.New("ERR only CONFIG GET with one parameter is known")},
		{[]any{"COMMAND"}, []any{}},
		{[]any{"CLIENT", "SETNAME", "x"}, "OK"},
		{[]any{"HELLO", 3}, errors.New(`ERR unknown command "HELLO"`)},
		{[]any{"NOSUCH\r\n", "x"}, errors.New(`ERR unknown command "NOSUCH\r\n"`)},
		{[]any{strings.Repeat("x", 100)}, errors.New(`ERR unknown command "` + strings.Repeat("x", 64) + `"`)},
		{[]any{"GET"}, errors.New("ERR wrong number of arguments for 'get' command")},
		{[]any{"GET", "a", "b"}, errors.New("ERR wrong number of arguments for 'get' command")},

		{[]any{"GET", "k"}, nil},
		{[]any{"SET", "k", "v1"}, "OK"},
		{[]any{"GET", "k"}, "v1"},
		{[]any{"SET", "k", ""}, "OK"},
		{[]any{"GET", "k"}, ""},
		{[]any{"SET", "k", "v2", "NX"}, nil},
		{[]any{"SET", "n", "v2", "nx"}, "OK"},
		{[]any{"SET", "m", "v2", "XX"}, nil},
		{[]any{"SET", "n", "v3", "XX"}, "OK"},
		{[]any{"SET", "n", "v4", "GET"}, "v3"},
		{[]any{"SET", "o", "v", "GET"}, nil},
		{[]any{"GET", "o"}, "v"},
		{[]any{"SET", "n", "v", "NX", "XX"}, errors.New("ERR syntax error")},
		{[]any{"SET", "n", "v", "EX"}, errors.New("ERR syntax error")},
		{[]any{"SET", "n", "v", "EX", "1", "PX", "1"}, errors.New("ERR syntax error")},
		{[]any{"SET", "n", "v", "EX", "x"}, errors.New("ERR value is not an integer or out of range")},
		{[]any{"SET", "n", "v", "EX", "0"}, errors.New("ERR invalid expire time in 'set' command")},
		{[]any{"SET", "n", "v", "EX", "9223372036854775807"}, errors.New("ERR invalid expire time in 'set' command")},
		{[]any{"SET", "n", "v", "WHAT"}, errors.New("ERR syntax error")},
		{[]any{"SET", "e", "v", "EX", "100"}, "OK"},
		{[]any{"TTL", "e"}, int64(100)},
		{[]any{"SET", "e", "w", "KEEPTTL"}, "OK"},
		{[]any{"TTL", "e"}, int64(100)},
		{[]any{"SET", "e", "w"}, "OK"},
		{[]any{"TTL", "e"}, int64(-1)},
		{[]any{"TTL", "none"}, int64(-2)},
		{[]any{"EXISTS", "k", "n", "none", "k"}, int64(3)},
		{[]any{"DEL", "k", "none", "o"}, int64(2)},
		{[]any{"GET", "k"}, nil},

		{[]any{"INCR", "i"}, int64(1)},
		{[]any{"INCR", "i"}, int64(2)},
		{[]any{"GET", "i"}, "2"},
		{[]any{"INCR", "n"}, errors.New("ERR value is not an integer or out of range")},
		{[]any{"SET", "i", "9223372036854775807"}, "OK"},
		{[]any{"INCR", "i"}, errors.New("ERR increment or decrement would overflow")},
		{[]any{"MSET", "a", "1", "b", "2"}, "OK"},
		{[]any{"MSET", "a", "1", "b"}, errors.New("ERR wrong number of arguments for 'mset' command")},
		{[]any{"MGET", "a", "none", "b"}, []any{"1", nil, "2"}},

		{[]any{"LPUSH", "l", "c", "b", "a"}, int64(3)},
		{[]any{"RPUSH", "l", "d"}, int64(4)},
		{[]any{"LLEN", "l"}, int64(4)},
		{[]any{"LLEN", "none"}, int64(0)},
		{[]any{"LRANGE", "l", 0, -1}, []any{"a", "b", "c", "d"}},
		{[]any{"LRANGE", "l", 1, 2}, []any{"b", "c"}},
		{[]any{"LRANGE", "l", -2, 100}, []any{"c", "d"}},
		{[]any{"LRANGE", "l", -100, 0}, []any{"a"}},
		{[]any{"LRANGE", "l", 3, 1}, []any{}},
		{[]any{"LRANGE", "l", 5, 9}, []any{}},
		{[]any{"LRANGE", "l", "-9223372036854775807", "9223372036854775807"}, []any{"a", "b", "c", "d"}},
		{[]any{"LRANGE", "none", 0, 1}, []any{}},
		{[]any{"LRANGE", "l", "x", 1}, errors.New("ERR value is not an integer or out of range")},
		{[]any{"LPOP", "l"}, "a"},
		{[]any{"RPOP", "l"}, "d"},
		{[]any{"RPOP", "none"}, nil},
		{[]any{"GET", "l"}, errors.New(wrongType)},
		{[]any{"INCR", "l"}, errors.New(wrongType)},
		{[]any{"SET", "l", "v", "GET"}, errors.New(wrongType)},
		{[]any{"MGET", "l"}, []any{nil}},
		{[]any{"LPUSH", "a", "x"}, errors.New(wrongType)},
		{[]any{"LRANGE", "a", 0, 1}, errors.New(wrongType)},
		{[]any{"LPOP", "a"}, errors.New(wrongType)},
		{[]any{"LLEN", "a"}, errors.New(wrongType)},
		{[]any{"LPOP", "l"}, "b"},
		{[]any{"LPOP", "l"}, "c"},
		{[]any{"EXISTS", "l"}, int64(0)},

		{[]any{"FLUSHALL"}, "OK"},
		{[]any{"DBSIZE"}, int64(0)},
	}
	for _, shards := range []int{1, manyShards} {
		t.Run(fmt.Sprintf("shards=%d", shards), func(t *testing.T) {
			c := newClient(t, newStore(shards))
			for _, tt := range tests {
				got, err := c.Do(ctx, tt.do...).Result()
				if err == client.Nil {
					got, err = nil, nil
				}
				if want, isErr := tt.want.(error); isErr {
					if err == nil || err.Error() != want.Error() {
						t.Errorf("%.60q: got %v, %v, want error %v", tt.do, got, err, want)
					}
					continue
				}
				if err != nil {
					t.Errorf("%.60q: %v", tt.do, err)
				}
				if diff := cmp.Diff(tt.want, got); diff != "" {
					t.Errorf("%.60q (-want +got):\n%s", tt.do, diff)
				}
			}
		})
	}
}

// TestConnectionsTakeTurns counts up in one key from several connections, each of
// which sends its commands in one piece.
func TestConnectionsTakeTurns(t *testing.T) {
	const conns, each = 8, 200
	for _, shards := range []int{1, manyShards} {
		c := newClient(t, newStore(shards))
		var all sync.WaitGroup
		for range conns {
			all.Go(func() {
				pipe := c.Pipeline()
				for range each {
					pipe.Incr(context.Background(), "n")
					pipe.DBSize(context.Background())
				}
				if _, err := pipe.Exec(context.Background()); err != nil {
					t.Errorf("%d shards: %v", shards, err)
				}
			})
		}
		all.Wait()
		if got, want := c.Get(context.Background(), "n").Val(), fmt.Sprint(conns*each); got != want {
			t.Errorf("%d shards: counted to %s, want %s", shards, got, want)
		}
	}
}

func TestFind(t *testing.T) {
	for i := range commands {
		name := commands[i].name
		for _, n := range []string{name, strings.ToLower(name)} {
			if got := find([]byte(n)); got != &commands[i] {
				t.Errorf("find(%q) is %v", n, got)
			}
		}
		for _, n := range []string{"\x00" + name, name + "\x00", name + "S", name[:len(name)-1] + "@"} {
			if got := find([]byte(n)); got != nil {
				t.Errorf("find(%q) is %s, want none", n, got.name)
			}
		}
	}
	if got := find(nil); got != nil {
		t.Errorf("find of nothing is %s", got.name)
	}
}

func TestExpiry(t *testing.T) {
	ctx := context.Background()
	s := NewStore()
	c := newClient(t, s)
	if err := c.Set(ctx, "k", "v", time.Millisecond).Err(); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(5 * time.Second)
	for c.Get(ctx, "k").Err() != client.Nil {
		if time.Now().After(deadline) {
			t.Fatal("the key did not expire")
		}
		time.Sleep(time.Millisecond)
	}
	if n := c.Exists(ctx, "k").Val(); n != 0 {
		t.Errorf("EXISTS of an expired key is %d", n)
	}
	if ok := c.SetNX(ctx, "k", "w", 0).Val(); !ok {
		t.Error("SET NX over an expired key was refused")
	}
}

// TestPipeline sends a pipeline in pieces and wants one write per piece.
func TestPipeline(t *testing.T) {
	near, far := net.Pipe()
	defer near.Close()
	served := make(chan error, 1)
	go func() { served <- NewStore().Serve(far) }()
	var in []byte
	for range 100 {
		in = resp.AppendCommand(in, "PING")
	}
	go near.Write(in)
	buf := make([]byte, 64<<10)
	n, err := near.Read(buf) // a pipe hands over one Write at a time
	if want := strings.Repeat("+PONG\r\n", 100); err != nil || string(buf[:n]) != want {
		t.Errorf("one read gave %d bytes and error %v, want all %d", n, err, len(want))
	}
	near.Close()
	if err := <-served; err != nil {
		t.Errorf("Serve: %v", err)
	}
}

func TestServeEnds(t *testing.T) {
	tests := []struct {
		name, in, out string
		err           bool
	}{
		{"quit", "QUIT\r\nPING\r\n", "+OK\r\n", false},
		{"breach", "PING\r\n*1\r\nx\r\n", "+PONG\r\n-ERR Protocol error: expected '$'\r\n", true},
		{"cut", "PING\r\n*1\r\n", "+PONG\r\n", true},
		{"left", "PING\r\n", "+PONG\r\n", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			conn := &recorded{in: strings.NewReader(tt.in)}
			err := NewStore().Serve(conn)
			if (err != nil) != tt.err {
				t.Errorf("Serve: %v", err)
			}
			if got := conn.out.String(); got != tt.out {
				t.Errorf("got %q, want %q", got, tt.out)
			}
			if !conn.closed {
				t.Error("the connection was not closed")
			}
		})
	}
}

// recorded is a connection with given input.
type recorded struct {
	net.Conn
	in     io.Reader
	out    bytes.Buffer
	closed bool
}

func (c *recorded) Read(p []byte) (int, error)  { return c.in.Read(p) }
func (c *recorded) Write(p []byte) (int, error) { return c.out.Write(p) }
func (c *recorded) Close() error                { c.closed = true; return nil }

func TestHotCommandsDoNotAllocate(t *testing.T) {
	s := &session{store: NewStore(), out: make([]byte, 0, 4096)}
	key, val := []byte("key:000000000001"), bytes.Repeat([]byte("v"), 64)
	commands := [][][]byte{
		{[]byte("SET"), key, val},
		{[]byte("get"), key},
		{[]byte("PING")},
	}
	for _, c := range commands {
		if n := testing.AllocsPerRun(100, func() { s.out = s.out[:0]; s.run(c) }); n != 0 {
			t.Errorf("%s allocates %v times", c[0], n)
		}
	}
}

// TestList compares the ring with a slice under a long mix of operations.
func TestList(t *testing.T) {
	var l list
	var want []string
	for i := range 10_000 {
		v := []byte{byte(i), byte(i >> 8)}
		switch op := i * 7919 % 5; {
		case op < 2:
			l.pushFront(v)
			want = slices.Insert(want, 0, string(v))
		case op == 2 || len(want) == 0:
			l.pushBack(v)
			want = append(want, string(v))
		case op == 3:
			if got := string(l.popFront()); got != want[0] {
				t.Fatalf("step %d: popFront %q, want %q", i, got, want[0])
			}
			want = want[1:]
		default:
			if got := string(l.popBack()); got != want[len(want)-1] {
				t.Fatalf("step %d: popBack %q, want %q", i, got, want[len(want)-1])
			}
			want = want[:len(want)-1]
		}
	}
	if l.n != len(want) {
		t.Fatalf("%d elements, want %d", l.n, len(want))
	}
	for i, w := range want {
		if got := string(l.at(i)); got != w {
			t.Fatalf("element %d is %q, want %q", i, got, w)
		}
	}
}

func BenchmarkGet(b *testing.B) {
	for _, shards := range []int{1, manyShards} {
		b.Run(fmt.Sprintf("shards=%d", shards), func(b *testing.B) {
			s := &session{store: newStore(shards), out: make([]byte, 0, 4096)}
			key := []byte("key:000000000001")
			s.run([][]byte{[]byte("SET"), key, bytes.Repeat([]byte("v"), 64)})
			get := [][]byte{[]byte("GET"), key}
			b.ReportAllocs()
			for b.Loop() {
				s.out = s.out[:0]
				s.run(get)
				s.release()
			}
		})
	}
}
