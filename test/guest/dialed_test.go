package guest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"time"

	"github.com/gotpa/tpa/accel"
	"github.com/gotpa/tpa/test/guest/control"
)

// dialed dials from the guest, on several queues of a card that tells its RSS: what
// answers must arrive on the shard that dialed. It takes the interface from the
// server.
func (c *cellRun) dialed() error {
	c.stop("server", syscall.SIGTERM)
	var ln net.Listener
	var err error
	c.peer.Do(func() { ln, err = net.Listen("tcp", ":0") })
	if err != nil {
		return err
	}
	defer ln.Close()
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				io.Copy(conn, conn)
			}()
		}
	}()
	host := c.nic.guest4[:len(c.nic.guest4)-1] + "1" // the guest's is .2
	res := c.ask(control.Request{Operation: control.Start, Name: "client",
		Args: []string{"/bin/tpa-bench", "run", "--transport", "accel", "--dev", c.device(), "--queues", fmt.Sprint(c.queues),
			"--addr", net.JoinHostPort(host, fmt.Sprint(ln.Addr().(*net.TCPAddr).Port)), "--workload", "rr", "--conns", "40", "--duration", "20s"},
		Env: []string{"GOMAXPROCS=4", "TPA_SOCKET=" + socket("client")}, Until: "accelerating", Timeout: 30 * time.Second})
	defer c.stop("client", syscall.SIGKILL)
	var s accel.Status
	for deadline := time.Now().Add(15 * time.Second); ; time.Sleep(time.Second) {
		out, err := c.machine.run("/bin/tpa-bench", "stats", "--json", "--addr", socket("client"))
		if err == nil {
			err = json.Unmarshal([]byte(out), &s)
		}
		frames := uint64(0)
		for _, sh := range s.Shards {
			frames += sh.Queue.RxFrames
		}
		if err == nil && len(s.Conns) >= 40 && frames > 1000 {
			break
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("dialing: %w: %d connections, %d frames: %s", errors.Join(err, errors.New("too few")), len(s.Conns), frames, tail(res.Output, 900))
		}
	}
	for i, sh := range s.Shards {
		if sh.Handover.Sent != 0 {
			return fmt.Errorf("dialed connections: shard %d handed over %+v, want none: %s", i, sh.Handover, tail(res.Output, 900))
		}
	}
	return nil
}
