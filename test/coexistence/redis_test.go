package coexistence

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gotpa/tpa/accel"
	"github.com/tidwall/redcon"
)

// store holds the values of the server's keys.
var store sync.Map

// answer serves one connection: GET, SET and CONFIG as Redis does, as far as
// redis-benchmark wants; BULK for as many bytes as its argument says; DEVICE for
// what it serves through; and PONG for what has no argument.
func answer(c net.Conn, dial string) {
	r := redcon.NewReader(c)
	w := redcon.NewWriter(c)
	for {
		cmd, err := r.ReadCommand()
		if err != nil {
			return
		}
		switch {
		case dial != "":
			up, err := accel.Dial("tcp", dial)
			if err != nil {
				w.WriteError("ERR " + err.Error())
				break
			}
			fmt.Fprint(up, "PING\r\n")
			line, err := bufio.NewReader(up).ReadString('\n')
			up.Close()
			if err != nil {
				w.WriteError("ERR " + err.Error())
				break
			}
			w.WriteString(strings.TrimSpace(line[1:]))
		case len(cmd.Args) == 1:
			w.WriteString("PONG")
		default:
			command(w, strings.ToUpper(string(cmd.Args[0])), cmd.Args[1:])
		}
		if w.Flush() != nil {
			return
		}
	}
}

func command(w *redcon.Writer, name string, args [][]byte) {
	switch {
	case name == "SET" && len(args) == 2:
		store.Store(string(args[0]), bytes.Clone(args[1]))
		w.WriteString("OK")
	case name == "GET":
		v, ok := store.Load(string(args[0]))
		if !ok {
			w.WriteNull()
			return
		}
		w.WriteBulk(v.([]byte))
	case name == "DEVICE":
		rt, err := accel.Default()
		if err != nil {
			w.WriteError("ERR " + err.Error())
			return
		}
		st := rt.Stats()
		if !st.Accelerated {
			w.WriteString(fmt.Sprintf("kernel, %d listeners fell back", st.FallbackListens))
			return
		}
		w.WriteString(fmt.Sprintf("%s, MTU %d", st.Sharing.Filter, st.Info.MTU))
	case name == "CONFIG":
		w.WriteArray(0)
	case name == "BULK":
		n, err := strconv.Atoi(string(args[0]))
		if err != nil {
			w.WriteError("ERR " + err.Error())
			return
		}
		w.WriteBulk(make([]byte, n))
	default:
		w.WriteError("ERR unknown command")
	}
}

// A benchmark is redis-benchmark, run again and again until stop.
type benchmark struct {
	site     *site
	cancel   context.CancelFunc // kills a run
	ended    chan struct{}
	first    chan struct{} // closed when the first run has started
	stopping atomic.Bool

	// Read after ended.
	requests int
	err      error
}

const (
	benchmarkConns    = 8
	benchmarkRequests = 2000 // of each command in a run
)

// benchmark starts redis-benchmark with SET and GET from the client's host.
func (s *site) benchmark(addr netip.Addr) *benchmark {
	ctx, cancel := context.WithCancel(context.Background())
	b := &benchmark{site: s, cancel: cancel, ended: make(chan struct{}), first: make(chan struct{})}
	s.Cleanup(b.abort)
	go func() {
		defer close(b.ended)
		for !b.stopping.Load() && b.err == nil {
			b.err = b.run(ctx, addr)
		}
	}()
	return b
}

func (b *benchmark) run(ctx context.Context, addr netip.Addr) error {
	cmd := b.site.client.Command("redis-benchmark", "-h", addr.String(), "-p", strconv.Itoa(port), "-q", "-t", "set,get",
		"-c", strconv.Itoa(benchmarkConns), "-n", strconv.Itoa(benchmarkRequests), "-r", "100", "-d", "64")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		return err
	}
	select {
	case <-b.first:
	default:
		close(b.first)
	}
	defer context.AfterFunc(ctx, func() { cmd.Process.Kill() })()
	err := cmd.Wait()
	if ctx.Err() != nil {
		return nil
	}
	if n := strings.Count(out.String(), "requests per second"); err != nil || n != 2 || strings.Contains(out.String(), "rror") {
		return fmt.Errorf("redis-benchmark: %v\n%s", err, &out)
	}
	b.requests += 2 * benchmarkRequests
	return nil
}

// begun waits until the first run has started.
func (b *benchmark) begun() { <-b.first }

// stop waits for the present run, and fails the test if any run failed.
func (b *benchmark) stop() {
	b.site.Helper()
	b.stopping.Store(true)
	select {
	case <-b.ended:
	case <-time.After(time.Minute):
		b.abort()
		b.site.Error("redis-benchmark gets no answer for a minute")
	}
	if b.err != nil {
		b.site.Error(b.err)
	}
}

// abort kills the present run, whose server is dead.
func (b *benchmark) abort() {
	b.stopping.Store(true)
	b.cancel()
	<-b.ended
}
