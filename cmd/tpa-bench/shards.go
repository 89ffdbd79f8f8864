package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/gotpa/tpa/accel"
)

func newShards() *cobra.Command {
	var t target
	cmd := &cobra.Command{
		Use:   "shards",
		Short: "Show what the pollers of a running program do, as top does for processes",
		Long: `shards shows one line per device queue: how busy its poller is, how many frames it
moves in bursts of which size, and its connections. The operating system shows a
poller as busy even when it only looks for frames; the share here is the truth.
Rates and shares are those since the last look (--watch), else since the program
started.`,
		Example: `  tpa-bench shards --watch`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return t.show(cmd, func(w io.Writer, now, before *accel.Status) error {
				printShards(w, now, before)
				return nil
			})
		},
	}
	t.add(cmd)
	return cmd
}

func printShards(w io.Writer, now, before *accel.Status) {
	line(w, "Shard", "CPU", "Busy", "Rx/s", "Tx/s", "Rx bit/s", "Tx bit/s", "Rx burst", "Tx burst", "Empty polls", "Sleeps/s", "Conns", "RTT p50", "RTT p99", "Retr")
	for i, s := range now.Shards {
		var was accel.ShardStats
		seconds := now.Time.Sub(now.Program.Started).Seconds()
		if before != nil && i < len(before.Shards) {
			was, seconds = before.Shards[i], now.Time.Sub(before.Time).Seconds()
		}
		cpu := "floats"
		if s.CPU >= 0 {
			cpu = fmt.Sprint(s.CPU)
		}
		rate := func(now, was uint64) string { return brief(float64(now-was) / seconds) }
		line(w, i, cpu, share((s.Poller.Busy-was.Poller.Busy).Seconds(), seconds),
			rate(s.Queue.RxFrames, was.Queue.RxFrames), rate(s.Queue.TxFrames, was.Queue.TxFrames),
			rate(8*s.Queue.RxBytes, 8*was.Queue.RxBytes), rate(8*s.Queue.TxBytes, 8*was.Queue.TxBytes),
			burst(s.Queue.RxFrames-was.Queue.RxFrames, s.Poller.Bursts[:], was.Poller.Bursts[:]),
			burst(s.Queue.TxFrames-was.Queue.TxFrames, s.Link.TxBursts[:], was.Link.TxBursts[:]),
			share(float64(s.Poller.Empty-was.Poller.Empty), float64(s.Poller.Polls-was.Poller.Polls)), rate(s.Poller.Sleeps, was.Poller.Sleeps),
			s.Flows, span(s.Conns.RTT.Quantile(0.5)), span(s.Conns.RTT.Quantile(0.99)), s.TCP.Retransmits)
	}
}

func share(part, whole float64) string {
	if whole <= 0 {
		return "-"
	}
	return fmt.Sprintf("%.1f%%", 100*min(part/whole, 1))
}

// burst is the mean size of bursts since was.
func burst(frames uint64, bursts, was []uint64) string {
	var n uint64
	for i, b := range bursts {
		n += b - was[i]
	}
	if n == 0 {
		return "-"
	}
	return fmt.Sprintf("%.1f", float64(frames)/float64(n))
}
