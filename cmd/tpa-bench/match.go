package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/gotpa/tpa/cmd/tpa-bench/internal/process"
	"github.com/gotpa/tpa/cmd/tpa-bench/internal/report"
	"github.com/gotpa/tpa/cmd/tpa-bench/internal/transport"
)

const (
	// readyTimeout is how long a server may take to start: DPDK may have to clear
	// gigabytes of memory first.
	readyTimeout = 30 * time.Second
	// slack is how much longer than its measurement a client may take.
	slack = 40 * time.Second
)

// match runs a client against a server.
type match struct {
	load     loadFlags
	protocol string
	seconds  time.Duration // of one measurement at most, with its warm-up
	base     time.Duration // what of the whole was done before
	pins     pins
	live     *progress
	// link is what lies between the two, client the transport of the client in the
	// rounds of accel.
	link   link
	client string
	redis  string // path of redis-server, if it has rounds
}

// rehearse starts and stops a server.
func (m *match) rehearse(ctx context.Context, name string) error {
	server, _, err := m.serve(ctx, name)
	if err != nil {
		return err
	}
	return server.Stop()
}

// serve starts a server and waits until it is ready.
func (m *match) serve(ctx context.Context, name string) (server *process.Child, addr string, err error) {
	if name == redisName {
		return m.serveRedis(ctx)
	}
	args := []string{"serve", "--transport", name, "--listen", m.link.listen(name), "--protocol", m.protocol}
	if name == transport.Accel {
		args = append(args, "--handler", m.load.handler)
	}
	server, err = process.Start("the "+name+" server", args,
		environment(m.link.server()), process.Place{CPUs: m.pins.server, Netns: m.link.serverNetns()})
	if err != nil {
		return nil, "", err
	}
	ready := make(chan string, 1)
	go func() {
		defer close(ready)
		if lines := bufio.NewScanner(server.Stdout()); lines.Scan() {
			ready <- lines.Text()
		}
	}()
	select {
	case line := <-ready:
		var protocol, on string
		if _, err := fmt.Sscanf(line, "ready: %s on %s", &protocol, &on); err == nil {
			return server, on, nil
		}
		err = server.Stop()
		if err == nil {
			err = fmt.Errorf("the %s server ended before it was ready", name)
		}
	case <-time.After(readyTimeout):
		err = fmt.Errorf("the %s server was not ready after %v", name, readyTimeout)
		server.Stop()
	case <-ctx.Done():
		err = errInterrupted
		server.Stop()
	}
	return nil, "", err
}

var errInterrupted = errors.New("interrupted before the first measurement")

// measure runs one round of one transport. After a done ctx it returns what the
// client measured until then.
func (m *match) measure(ctx context.Context, name string) (*report.Run, error) {
	server, addr, err := m.serve(ctx, name)
	if err != nil {
		return nil, err
	}
	defer server.Stop()
	peer := transport.Kernel
	if name == transport.Accel {
		peer = m.client
	}
	args := append([]string{"run", "--transport", peer, "--addr", addr, "--server-pid", fmt.Sprint(server.Pid()), "-o", formatStream}, m.load.args()...)
	client, err := process.Start("the "+peer+" client", args,
		environment(m.link.client()), process.Place{CPUs: m.pins.client, Netns: m.link.clientNetns()})
	if err != nil {
		return nil, err
	}
	defer client.Stop()

	limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), m.seconds+slack)
	defer cancel()
	defer context.AfterFunc(ctx, func() { client.Signal(os.Interrupt) })()
	lost := make(chan struct{})
	go func() {
		defer close(lost)
		select {
		case <-server.Ended():
			cancel() // ends the wait for the client
		case <-client.Ended():
		}
	}()
	result := make(chan *report.Run, 1)
	go func() { result <- m.follow(client) }()
	err = client.Wait(limit)
	run := <-result
	<-lost
	switch {
	case run != nil:
		run.Transport = name
		return run, nil // its errors are in it
	case ended(server) && server.Err() != nil:
		return nil, server.Err()
	case ended(server):
		return nil, fmt.Errorf("the %s server ended before its client", name)
	case err == nil:
		err = fmt.Errorf("the %s client ended without a result", peer)
	}
	return nil, err
}

func ended(c *process.Child) bool {
	select {
	case <-c.Ended():
		return true
	default:
		return false
	}
}

// follow reads what the client reports until it ends.
func (m *match) follow(client *process.Child) (run *report.Run) {
	dec := json.NewDecoder(client.Stdout())
	for {
		var s streamed
		if dec.Decode(&s) != nil {
			return run
		}
		if s.Progress != nil {
			m.live.update(*s.Progress)
		}
		if s.Run != nil {
			run = s.Run
		}
	}
}
