package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/gotpa/tpa/accel"
)

// socketOrders are what sockets can sort by.
var socketOrders = map[string]func(a, b *accel.ConnStatus) int{
	"age":     func(a, b *accel.ConnStatus) int { return cmp.Compare(b.Age, a.Age) },
	"rtt":     func(a, b *accel.ConnStatus) int { return cmp.Compare(b.RTT, a.RTT) },
	"retr":    func(a, b *accel.ConnStatus) int { return cmp.Compare(b.Retransmits, a.Retransmits) },
	"send-q":  func(a, b *accel.ConnStatus) int { return cmp.Compare(b.SendQueue, a.SendQueue) },
	"recv-q":  func(a, b *accel.ConnStatus) int { return cmp.Compare(b.ReceiveQueue, a.ReceiveQueue) },
	"read":    func(a, b *accel.ConnStatus) int { return cmp.Compare(b.Read, a.Read) },
	"written": func(a, b *accel.ConnStatus) int { return cmp.Compare(b.Written, a.Written) },
	"peer":    func(a, b *accel.ConnStatus) int { return strings.Compare(a.Remote, b.Remote) },
}

func newSockets() *cobra.Command {
	var t target
	var order string
	var limit int
	cmd := &cobra.Command{
		Use:   "sockets",
		Short: "List the connections of a running program, as ss does for the kernel's",
		Long: `sockets lists the listeners and the established connections of a program that
runs on accel. Rates are those since the last look (--watch), else since each
connection was established. Recv-Q is what the program has not read, for a listener
the connections that wait for Accept; Send-Q is what the peer has not acknowledged,
as far as the flight recorder knows it.`,
		Example: `  tpa-bench sockets --sort rtt -n 10
  tpa-bench sockets --pid 4711 --watch=2s`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			less, ok := socketOrders[order]
			if !ok {
				return usageError{fmt.Errorf("unknown order %q: want one of age, peer, read, recv-q, retr, rtt, send-q, written", order)}
			}
			return t.show(cmd, func(w io.Writer, now, before *accel.Status) error {
				printSockets(w, now, before, less, limit)
				return nil
			})
		},
	}
	cmd.Flags().StringVar(&order, "sort", "written", "what to sort by: age, peer, read, recv-q, retr, rtt, send-q, written")
	cmd.Flags().IntVarP(&limit, "limit", "n", 0, "show the first `N` connections (default all)")
	t.add(cmd)
	return cmd
}

// queued writes a send queue that may be unknown.
func queued(n int) string {
	if n < 0 {
		return "-"
	}
	return fmt.Sprint(n)
}

func printSockets(w io.Writer, now, before *accel.Status, order func(a, b *accel.ConnStatus) int, limit int) {
	line(w, "State", "Shard", "Recv-Q", "Send-Q", "Local", "Peer", "Age", "RTT", "Cwnd", "Retr", "RTO", "Read", "Written", "Read/s", "Written/s")
	for _, l := range now.Listeners {
		line(w, "LISTEN", "all", l.Waiting, "", l.Addr, "*", "", "", "", "", "", "", "", "", "")
	}
	was := make(map[string]*accel.ConnStatus)
	if before != nil {
		for i := range before.Conns {
			c := &before.Conns[i]
			was[c.Local+c.Remote] = c
		}
	}
	conns := slices.Clone(now.Conns)
	slices.SortStableFunc(conns, func(a, b accel.ConnStatus) int { return order(&a, &b) })
	for i := range conns {
		if limit > 0 && i == limit {
			line(w, fmt.Sprintf("… and %d more", len(conns)-limit))
			break
		}
		c := &conns[i]
		read, written, seconds := c.Read, c.Written, c.Age.Seconds()
		if old := was[c.Local+c.Remote]; old != nil && old.Read <= read && old.Written <= written && c.Age > old.Age {
			read, written, seconds = read-old.Read, written-old.Written, (c.Age - old.Age).Seconds()
		}
		retr := fmt.Sprint(c.Retransmits)
		if c.Timeouts > 0 {
			retr += fmt.Sprintf(" (%d timeouts)", c.Timeouts)
		}
		line(w, c.State, c.Shard, c.ReceiveQueue, queued(c.SendQueue), c.Local, c.Remote, span(c.Age), span(c.RTT), c.Cwnd, retr, span(c.RTO),
			brief(float64(c.Read)), brief(float64(c.Written)), brief(float64(read)/seconds), brief(float64(written)/seconds))
	}
}
