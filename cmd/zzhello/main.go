package main

import (
	"io"
	"log"
	"net"

	"github.com/gotpa/tpa/accel"
)

func main() {
	ln, err := accel.Listen("tcp", ":7")
	if err != nil {
		log.Fatal(err)
	}
	for {
		c, err := ln.Accept()
		if err != nil {
			log.Fatal(err)
		}
		go func(c net.Conn) { defer c.Close(); io.WriteString(c, "hello\n") }(c)
	}
}
