package coexistence

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/gotpa/tpa/accel"
)

// TestMain turns the test binary into the server.
func TestMain(m *testing.M) {
	if addr := os.Getenv("COEXISTENCE_SERVE"); addr != "" {
		if err := serve(addr, os.Getenv("COEXISTENCE_DIAL")); err != nil {
			fmt.Println("error:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// playRules plays a device with flow rules on an interface, see rules_test.go.
var playRules func(name string) (applied func(), err error)

// serve answers Redis commands on an accelerated listener; see answer.
// It says on standard output how it serves. SIGTERM closes the listener, and the
// server ends when the last connection has. With dial set, each command is
// forwarded to that address first.
func serve(addr, dial string) error {
	applied := func() {}
	if name := os.Getenv("COEXISTENCE_RULES"); name != "" {
		var err error
		if applied, err = playRules(name); err != nil {
			return err
		}
	}
	ln, err := accel.Listen("tcp", addr)
	if err != nil {
		return err
	}
	applied()
	rt, err := accel.Default()
	if err != nil {
		return err
	}
	accelerated, why := rt.Accelerated()
	var conns sync.WaitGroup
	sig := make(chan os.Signal, 1)
	signal.Notify(sig, syscall.SIGTERM)
	var closing atomic.Bool
	go func() {
		<-sig
		closing.Store(true)
		ln.Close()
		fmt.Println("closed")
	}()
	fmt.Printf("serving: accelerated %v (%v)\n", accelerated, why)
	for {
		c, err := ln.Accept()
		if closing.Load() {
			break
		}
		if errors.Is(err, accel.ErrHandedOver) {
			fmt.Println("handed over")
			break
		}
		if err != nil {
			return err
		}
		conns.Add(1)
		go func() {
			defer conns.Done()
			defer c.Close()
			answer(c, dial)
		}()
	}
	conns.Wait()
	return rt.Close()
}

const port = 6379
