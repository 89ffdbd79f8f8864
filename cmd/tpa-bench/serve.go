package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/gotpa/tpa/cmd/tpa-bench/internal/server"
	"github.com/gotpa/tpa/cmd/tpa-bench/internal/transport"
)

func newServe() *cobra.Command {
	var name, addr, protocol, handler, pages string
	cmd := &cobra.Command{
		Use:   "serve --transport kernel|accel --listen ADDR",
		Short: "Serve Redis, echo, discard, digest or HTTP",
		Long: `serve accepts connections until SIGTERM or Ctrl-C. It prints one line when it is
ready to accept, such as

  ready: resp on 10.0.0.2:6379 (accel, net_memif0)

with the port that was chosen when ADDR ends in :0. Protocols:

  resp      a Redis server in memory: strings, counters and lists; enough for
            redis-cli, redis-benchmark and client libraries (RESP2, no password)
  echo      sends back what it reads, and closes once the peer has closed its
            half and everything is sent back
  discard   reads until the peer has closed its half
  digest    likewise, and answers by the SHA-256 of what it read
  http      a page of 64 bytes on every path

--handler coroutine or callback runs the code of accelerated connections in the
poller, without a goroutine to wake for each request.`,
		Example: `  tpa-bench serve --transport kernel --listen 127.0.0.1:6379
  tpa-bench serve --transport accel --listen :6379 --dev eth0
  tpa-bench serve --transport accel --listen :6379 \
      --dev net_memif0,role=server,socket=/run/tpa.sock,socket-abstract=no --ip 10.0.0.2/24`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkTransport(name); err != nil {
				return err
			}
			serve, err := server.New(protocol, handler)
			if err != nil {
				return usageError{err}
			}
			if err := setDevice(cmd); err != nil {
				return err
			}
			return listen(cmd, name, addr, protocol, pages, serve)
		},
	}
	f := cmd.Flags()
	f.StringVar(&name, "transport", transport.Kernel, "whose TCP: "+strings.Join(transport.Names, " or "))
	f.StringVar(&addr, "listen", "127.0.0.1:6379", "`ADDR` to listen on")
	f.StringVar(&protocol, "protocol", "resp", "one of "+strings.Join(server.Protocols, ", "))
	f.StringVar(&handler, "handler", server.Handlers[0], "where connections are handled: "+strings.Join(server.Handlers, ", "))
	f.StringVar(&pages, "http", "", "serve /metrics and /debug/tpa/ of the accelerated side by the kernel's TCP on `ADDR`, such as 127.0.0.1:9464")
	addDeviceFlags(cmd)
	return cmd
}

func checkTransport(name string) error {
	if !slices.Contains(transport.Names, name) {
		return usageError{fmt.Errorf("unknown transport %q: want %s", name, strings.Join(transport.Names, " or "))}
	}
	return nil
}

func listen(cmd *cobra.Command, name, addr, protocol, pages string, serve server.Handler) (err error) {
	ctx := cmd.Context()
	tr, err := transport.Open(name)
	if err != nil {
		return err
	}
	defer closing(tr.Close, &err)
	ln, err := tr.Listen(ctx, addr)
	if err != nil {
		return err
	}
	defer ln.Close()
	if pages != "" {
		stop, err := servePages(tr, pages)
		if err != nil {
			return err
		}
		defer stop()
	}
	fmt.Fprintf(cmd.OutOrStdout(), "ready: %s on %s (%s)\n", protocol, ln.Addr(), tr)
	return serve(ctx, ln)
}

// closing calls close and reports its error unless there was one before.
func closing(close func() error, err *error) {
	if e := close(); e != nil && *err == nil {
		*err = e
	}
}
