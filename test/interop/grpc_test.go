package interop

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	pb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

// grpcService answers as the interoperability tests of gRPC describe, and tells
// the test of calls that are cancelled.
type grpcService struct {
	pb.UnimplementedTestServiceServer
	arrived   chan struct{}
	cancelled chan error
	release   chan struct{}
}

func (s *grpcService) EmptyCall(ctx context.Context, _ *pb.Empty) (*pb.Empty, error) {
	s.arrived <- struct{}{}
	select {
	case <-ctx.Done():
		s.cancelled <- ctx.Err()
		return nil, ctx.Err()
	case <-s.release:
		return &pb.Empty{}, nil
	}
}

func (s *grpcService) UnaryCall(ctx context.Context, r *pb.SimpleRequest) (*pb.SimpleResponse, error) {
	if r.ResponseStatus != nil {
		return nil, status.Error(codes.Code(r.ResponseStatus.Code), r.ResponseStatus.Message)
	}
	p, _ := peer.FromContext(ctx)
	return &pb.SimpleResponse{Payload: r.Payload, Username: p.Addr.String()}, nil
}

func (s *grpcService) StreamingOutputCall(r *pb.StreamingOutputCallRequest, stream grpc.ServerStreamingServer[pb.StreamingOutputCallResponse]) error {
	for _, p := range r.ResponseParameters {
		if err := stream.Send(&pb.StreamingOutputCallResponse{Payload: &pb.Payload{Body: pattern(int(p.Size))}}); err != nil {
			return err
		}
	}
	return nil
}

func (s *grpcService) StreamingInputCall(stream grpc.ClientStreamingServer[pb.StreamingInputCallRequest, pb.StreamingInputCallResponse]) error {
	var n int32
	for {
		r, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return stream.SendAndClose(&pb.StreamingInputCallResponse{AggregatedPayloadSize: n})
		}
		if err != nil {
			return err
		}
		n += int32(len(r.Payload.Body))
	}
}

func (s *grpcService) FullDuplexCall(stream grpc.BidiStreamingServer[pb.StreamingOutputCallRequest, pb.StreamingOutputCallResponse]) error {
	for {
		r, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := stream.Send(&pb.StreamingOutputCallResponse{Payload: r.Payload}); err != nil {
			return err
		}
	}
}

// serveGRPC runs a server until the test ends.
func serveGRPC(t *testing.T, tr transport, opts ...grpc.ServerOption) (net.Addr, *grpc.Server, *grpcService) {
	t.Helper()
	service := &grpcService{
		arrived: make(chan struct{}, 1), cancelled: make(chan error, 1), release: make(chan struct{}),
	}
	srv := grpc.NewServer(opts...)
	pb.RegisterTestServiceServer(srv, service)
	ln := tr.listen(t)
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ln) }()
	t.Cleanup(func() {
		srv.Stop()
		if err := receive(t, served, "end of the server"); err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return ln.Addr(), srv, service
}

func dialGRPC(t *testing.T, tr transport, addr net.Addr, opts ...grpc.DialOption) (*grpc.ClientConn, pb.TestServiceClient) {
	t.Helper()
	opts = append([]grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
			return tr.dial(ctx, "tcp", address)
		}),
	}, opts...)
	c, err := grpc.NewClient("passthrough:///"+addr.String(), opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c, pb.NewTestServiceClient(c)
}

func TestGRPCUnary(t *testing.T) {
	overTransports(t, func(t *testing.T, tr transport) {
		serverTLS, clientTLS := newAuthority(t).configs(t)
		for _, tt := range []struct {
			name   string
			server []grpc.ServerOption
			client []grpc.DialOption
		}{
			{"plain", nil, nil},
			{"TLS", []grpc.ServerOption{grpc.Creds(credentials.NewTLS(serverTLS))},
				[]grpc.DialOption{grpc.WithTransportCredentials(credentials.NewTLS(clientTLS))}},
		} {
			t.Run(tt.name, func(t *testing.T) {
				addr, _, _ := serveGRPC(t, tr, tt.server...)
				_, client := dialGRPC(t, tr, addr, tt.client...)
				for _, size := range []int{0, 1, 100_000, 3 << 20} {
					want := pattern(size)
					r, err := client.UnaryCall(within(t), &pb.SimpleRequest{Payload: &pb.Payload{Body: want}})
					if err != nil {
						t.Fatal(err)
					}
					if !bytes.Equal(r.Payload.Body, want) {
						t.Errorf("%d bytes came back as %d others", size, len(r.Payload.Body))
					}
					if _, _, err := net.SplitHostPort(r.Username); err != nil {
						t.Errorf("the server saw the peer %q: %v", r.Username, err)
					}
				}
				_, err := client.UnaryCall(within(t), &pb.SimpleRequest{
					ResponseStatus: &pb.EchoStatus{Code: int32(codes.FailedPrecondition), Message: "not now"},
				})
				if s := status.Convert(err); s.Code() != codes.FailedPrecondition || s.Message() != "not now" {
					t.Errorf("got status %v, want FailedPrecondition: not now", s)
				}
			})
		}
	})
}

func TestGRPCStreams(t *testing.T) {
	overTransports(t, func(t *testing.T, tr transport) {
		addr, _, _ := serveGRPC(t, tr)
		_, client := dialGRPC(t, tr, addr)
		sizes := []int{27182, 8, 1828, 1 << 20, 0, 45904}

		t.Run("server", func(t *testing.T) {
			var params []*pb.ResponseParameters
			for _, n := range sizes {
				params = append(params, &pb.ResponseParameters{Size: int32(n)})
			}
			stream, err := client.StreamingOutputCall(within(t), &pb.StreamingOutputCallRequest{ResponseParameters: params})
			if err != nil {
				t.Fatal(err)
			}
			for i, n := range sizes {
				r, err := stream.Recv()
				if err != nil || !bytes.Equal(r.Payload.Body, pattern(n)) {
					t.Fatalf("message %d: %v", i, err)
				}
			}
			if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
				t.Errorf("after the last message: %v, want %v", err, io.EOF)
			}
		})
		t.Run("client", func(t *testing.T) {
			stream, err := client.StreamingInputCall(within(t))
			if err != nil {
				t.Fatal(err)
			}
			want := 0
			for _, n := range sizes {
				want += n
				if err := stream.Send(&pb.StreamingInputCallRequest{Payload: &pb.Payload{Body: pattern(n)}}); err != nil {
					t.Fatal(err)
				}
			}
			if r, err := stream.CloseAndRecv(); err != nil || int(r.AggregatedPayloadSize) != want {
				t.Errorf("got %v, %v; want %d bytes", r, err, want)
			}
		})
		t.Run("both", func(t *testing.T) {
			stream, err := client.FullDuplexCall(within(t))
			if err != nil {
				t.Fatal(err)
			}
			for i, n := range sizes {
				want := pattern(n)
				if err := stream.Send(&pb.StreamingOutputCallRequest{Payload: &pb.Payload{Body: want}}); err != nil {
					t.Fatal(err)
				}
				if r, err := stream.Recv(); err != nil || !bytes.Equal(r.Payload.Body, want) {
					t.Fatalf("message %d: %v", i, err)
				}
			}
			if err := stream.CloseSend(); err != nil {
				t.Fatal(err)
			}
			if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
				t.Errorf("after the last message: %v, want %v", err, io.EOF)
			}
		})
	})
}

func TestGRPCCancel(t *testing.T) {
	overTransports(t, func(t *testing.T, tr transport) {
		addr, _, service := serveGRPC(t, tr)
		_, client := dialGRPC(t, tr, addr)

		ctx, cancel := context.WithCancel(within(t))
		go func() {
			<-service.arrived
			cancel()
		}()
		if _, err := client.EmptyCall(ctx, &pb.Empty{}); status.Code(err) != codes.Canceled {
			t.Errorf("the client got %v, want Canceled", err)
		}
		if err := receive(t, service.cancelled, "cancellation"); !errors.Is(err, context.Canceled) {
			t.Errorf("the server got %v, want %v", err, context.Canceled)
		}

		ctx, cancel = context.WithTimeout(within(t), 20*time.Millisecond)
		defer cancel()
		if _, err := client.EmptyCall(ctx, &pb.Empty{}); status.Code(err) != codes.DeadlineExceeded {
			t.Errorf("the client got %v, want DeadlineExceeded", err)
		}
	})
}

// TestGRPCIdle lets the server end idle connections while calls go on.
func TestGRPCIdle(t *testing.T) {
	overTransports(t, func(t *testing.T, tr transport) {
		addr, _, _ := serveGRPC(t, tr, grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionIdle: 50 * time.Millisecond}))
		conn, client := dialGRPC(t, tr, addr)
		for range 3 {
			if _, err := client.UnaryCall(within(t), &pb.SimpleRequest{}); err != nil {
				t.Fatal(err)
			}
			// The server says good-bye; the client notices and idles.
			if !conn.WaitForStateChange(within(t), connectivity.Ready) {
				t.Fatal("the idle connection stays")
			}
		}
	})
}

// readCounter counts what arrives on a connection.
type readCounter struct {
	net.Conn
	n *atomic.Int64
}

func (c readCounter) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.n.Add(int64(n))
	return n, err
}

// TestGRPCKeepalive leaves a stream quiet until the server has sent a ping, and
// then uses it.
func TestGRPCKeepalive(t *testing.T) {
	overTransports(t, func(t *testing.T, tr transport) {
		addr, _, _ := serveGRPC(t, tr,
			grpc.KeepaliveParams(keepalive.ServerParameters{Time: time.Second, Timeout: testTimeout}), // gRPC allows no shorter time
			grpc.InitialWindowSize(1<<20), grpc.InitialConnWindowSize(1<<20)) // no pings to measure the bandwidth
		var read atomic.Int64
		counted := tr
		counted.dial = func(ctx context.Context, network, address string) (net.Conn, error) {
			c, err := tr.dial(ctx, network, address)
			return readCounter{c, &read}, err
		}
		_, client := dialGRPC(t, counted, addr)
		stream, err := client.FullDuplexCall(within(t))
		if err != nil {
			t.Fatal(err)
		}
		exchange := func() {
			t.Helper()
			if err := stream.Send(&pb.StreamingOutputCallRequest{Payload: &pb.Payload{Body: []byte("hello")}}); err != nil {
				t.Fatal(err)
			}
			if r, err := stream.Recv(); err != nil || string(r.Payload.Body) != "hello" {
				t.Fatalf("got %v, %v", r, err)
			}
		}
		exchange()
		quiet := read.Load()
		for deadline := time.Now().Add(testTimeout); read.Load() == quiet; time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal("no ping came")
			}
		}
		exchange()
	})
}

func TestGRPCGracefulStop(t *testing.T) {
	overTransports(t, func(t *testing.T, tr transport) {
		addr, srv, service := serveGRPC(t, tr)
		_, client := dialGRPC(t, tr, addr)
		ctx := within(t)
		reply := make(chan error, 1)
		go func() {
			_, err := client.EmptyCall(ctx, &pb.Empty{})
			reply <- err
		}()
		receive(t, service.arrived, "call")
		stopped := make(chan struct{})
		go func() {
			srv.GracefulStop()
			close(stopped)
		}()
		// New connections are refused while the old call goes on.
		for deadline := time.Now().Add(testTimeout); ; {
			c, err := tr.dial(ctx, "tcp", addr.String())
			if err != nil {
				break
			}
			c.Close()
			if time.Now().After(deadline) {
				t.Fatal("the server accepts connections long after GracefulStop")
			}
			time.Sleep(time.Millisecond)
		}
		close(service.release)
		if err := receive(t, reply, "reply"); err != nil {
			t.Errorf("the call in flight: %v", err)
		}
		receive(t, stopped, "end of GracefulStop")
	})
}
