// Cache is a cache that speaks Redis's protocol: PING, SET, GET, DEL, SAVE. Its
// handlers run in the pollers: no goroutine is woken for a request.
//
//	go run ./examples/cache
//	redis-cli -p 6381 set key value
package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"

	"github.com/gotpa/tpa/accel"
)

func main() {
	addr := ":6381"
	if len(os.Args) > 1 {
		addr = os.Args[1]
	}
	ln, err := accel.Listen("tcp", addr)
	if err != nil {
		log.Fatal(err)
	}
	log.Printf("serving %v", ln.Addr())
	s := &store{values: map[string][]byte{}}
	// Where goroutines would do: for { c, err := ln.Accept(); go s.serve(c) }.
	log.Fatal(accel.Serve(ln, s.serve))
}

// A store holds the values. Its lock is held for a moment only, never while a
// connection waits: a handler that keeps it would stop its whole poller.
type store struct {
	mu     sync.RWMutex
	values map[string][]byte
}

// serve answers the commands of one connection.
func (s *store) serve(c net.Conn) {
	defer c.Close()
	in, out := bufio.NewReader(c), bufio.NewWriter(c)
	for {
		args, err := command(in)
		if err != nil {
			if err != io.EOF {
				log.Printf("%v: %v", c.RemoteAddr(), err)
			}
			return
		}
		s.run(out, args)
		if in.Buffered() > 0 {
			continue // answer what came together in one write
		}
		if out.Flush() != nil {
			return
		}
	}
}

func (s *store) run(out *bufio.Writer, args []string) {
	switch name := strings.ToLower(args[0]); {
	case name == "ping" && len(args) == 1:
		out.WriteString("+PONG\r\n")
	case name == "set" && len(args) == 3:
		s.mu.Lock()
		s.values[args[1]] = []byte(args[2])
		s.mu.Unlock()
		out.WriteString("+OK\r\n")
	case name == "get" && len(args) == 2:
		s.mu.RLock()
		v, ok := s.values[args[1]]
		s.mu.RUnlock()
		if !ok {
			out.WriteString("$-1\r\n")
			return
		}
		fmt.Fprintf(out, "$%d\r\n%s\r\n", len(v), v)
	case name == "del" && len(args) == 2:
		s.mu.Lock()
		_, had := s.values[args[1]]
		delete(s.values, args[1])
		s.mu.Unlock()
		fmt.Fprintf(out, ":%d\r\n", map[bool]int{true: 1}[had])
	case name == "save" && len(args) == 1:
		// Writing a file waits for the disk: the poller goes on meanwhile.
		var err error
		accel.Detach(func() { err = s.save() })
		if err != nil {
			fmt.Fprintf(out, "-ERR %v\r\n", err)
			return
		}
		out.WriteString("+OK\r\n")
	default:
		fmt.Fprintf(out, "-ERR unknown command or wrong number of arguments: %q\r\n", name)
	}
}

// save writes all keys and values to a file.
func (s *store) save() error {
	var b bytes.Buffer
	s.mu.RLock()
	for k, v := range s.values {
		fmt.Fprintf(&b, "%q %q\n", k, v)
	}
	s.mu.RUnlock()
	return os.WriteFile("cache.txt", b.Bytes(), 0o600)
}

// maxArgument is the longest key or value in bytes, maxArguments how many a command
// has at most.
const (
	maxArgument  = 1 << 20
	maxArguments = 16
)

// command reads one command: an array of bulk strings.
func command(in *bufio.Reader) ([]string, error) {
	n, err := number(in, '*', maxArguments)
	if err != nil {
		return nil, err
	}
	if n == 0 {
		return nil, fmt.Errorf("an empty command")
	}
	args := make([]string, n)
	for i := range args {
		size, err := number(in, '$', maxArgument)
		if err != nil {
			return nil, err
		}
		b := make([]byte, size+2) // with CR and LF
		if _, err := io.ReadFull(in, b); err != nil {
			return nil, err
		}
		args[i] = string(b[:size])
	}
	return args, nil
}

// number reads a line of a kind and the number in it, 0 to limit.
func number(in *bufio.Reader, kind byte, limit int) (int, error) {
	line, err := in.ReadSlice('\n')
	if err != nil {
		return 0, err
	}
	line = bytes.TrimRight(line, "\r\n")
	if len(line) == 0 || line[0] != kind {
		return 0, fmt.Errorf("got %q, want a line that begins with %q", line, kind)
	}
	n, err := strconv.Atoi(string(line[1:]))
	if err != nil || n < 0 || n > limit {
		return 0, fmt.Errorf("got %q, want a number of 0 to %d", line, limit)
	}
	return n, nil
}
