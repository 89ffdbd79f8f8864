// Redis is a small Redis server on tidwall/redcon: PING, SET, GET, DEL. It serves
// clients on the network by the device and those on the same host by the kernel,
// from one listener.
//
//	go run ./examples/redis
//	redis-cli -p 6380 set key value
package main

import (
	"bytes"
	"context"
	"flag"
	"log"
	"os/signal"
	"strings"
	"sync"
	"syscall"

	"github.com/tidwall/redcon"

	"github.com/gotpa/tpa/accel"
	tpanet "github.com/gotpa/tpa/net"
)

func main() {
	addr := flag.String("addr", ":6380", "where to listen")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()

	lc := accel.ListenConfig{Kernel: true} // was net.ListenConfig
	ln, err := lc.Listen(ctx, "tcp", *addr)
	if err != nil {
		log.Fatal(err)
	}
	log.Printf("serving %v", ln.Addr())
	var s store
	accept := func(c redcon.Conn) bool {
		log.Printf("client %v, %v", c.RemoteAddr(), tpanet.OriginOf(c.NetConn()))
		return true
	}
	srv := redcon.NewServer("", s.handle, accept, func(redcon.Conn, error) {})
	defer context.AfterFunc(ctx, func() {
		srv.Close()
		ln.Close() // a server that has not begun to serve does not close it
	})()
	if err := srv.Serve(ln); err != nil && ctx.Err() == nil {
		log.Fatal(err)
	}
	if rt := accel.SetDefault(nil); rt != nil {
		rt.Close() // gives the device back and removes the debug socket
	}
}

type store struct{ values sync.Map } // string to []byte

func (s *store) handle(conn redcon.Conn, cmd redcon.Command) {
	name, args := strings.ToLower(string(cmd.Args[0])), cmd.Args[1:]
	switch {
	case name == "ping" && len(args) == 0:
		conn.WriteString("PONG")
	case name == "set" && len(args) == 2:
		s.values.Store(string(args[0]), bytes.Clone(args[1]))
		conn.WriteString("OK")
	case name == "get" && len(args) == 1:
		if v, ok := s.values.Load(string(args[0])); ok {
			conn.WriteBulk(v.([]byte))
		} else {
			conn.WriteNull()
		}
	case name == "del" && len(args) == 1:
		_, had := s.values.LoadAndDelete(string(args[0]))
		conn.WriteInt(map[bool]int{true: 1}[had])
	default:
		conn.WriteError("ERR unknown command or wrong number of arguments: " + name)
	}
}
