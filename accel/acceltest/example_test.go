package acceltest_test

import (
	"bufio"
	"io"
	"testing"
	"time"

	"github.com/gotpa/tpa/accel/acceltest"
	"github.com/gotpa/tpa/link/fault"
)

// A test of a server and a client of one's own, over a real TCP connection.
func ExamplePair() {
	// TestWelcome of a package of one's own.
	_ = func(t *testing.T) {
		ln, d := acceltest.Pair(t)
		go func() {
			c, _ := ln.Accept()
			io.WriteString(c, "welcome\n")
		}()
		c, err := d.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if line, err := bufio.NewReader(c).ReadString('\n'); line != "welcome\n" {
			t.Errorf("got %q, %v", line, err)
		}
	}
}

// A cable of 20 ms each way that loses one frame in fifty, the same ones each time.
func ExampleNew() {
	// TestSlowPath of a package of one's own.
	_ = func(t *testing.T) {
		path := fault.Impairment{Drop: 0.02, Delay: 20 * time.Millisecond}
		n := acceltest.New(t, acceltest.Options{Faults: fault.Config{Seed: 7, Receive: path, Transmit: path}})
		start := time.Now()
		c, err := n.Dialer.Dial("tcp", n.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if took := time.Since(start); took < 40*time.Millisecond {
			t.Errorf("the handshake took %v, want two delays at least", took)
		}
	}
}
