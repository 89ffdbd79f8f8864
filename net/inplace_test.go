package tpanet_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/gotpa/tpa/link/memory"
	tpanet "github.com/gotpa/tpa/net"
)

// fillFrom fills from what is left of b.
func fillFrom(b *[]byte) func([]byte) (int, error) {
	return func(space []byte) (int, error) {
		n := copy(space, *b)
		*b = (*b)[n:]
		return n, nil
	}
}

// TestInPlace sends 4 MB without a copy at either end, between copying ones.
func TestInPlace(t *testing.T) {
	server, client := newHosts(t, memory.Options{})
	a, b := pair(t, server, client)
	sent := make([]byte, 4<<20)
	rand.NewChaCha8([32]byte{1}).Read(sent)
	go func() {
		for left := sent; len(left) > 0; {
			if len(left)%3 == 0 {
				n, _ := a.Write(left[:min(len(left), 1000)])
				left = left[n:]
			} else if _, err := a.WriteInPlace(fillFrom(&left)); err != nil {
				break
			}
		}
		a.CloseWrite()
	}()
	var got bytes.Buffer
	for i := 0; ; i++ {
		var err error
		if i%5 == 0 {
			_, err = io.CopyN(&got, b, 1)
		} else {
			err = b.ReadInPlace(func(p []byte) error {
				if len(p) == 0 {
					t.Error("nothing to use")
				}
				got.Write(p)
				clear(p) // it is ours
				return nil
			})
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(got.Bytes(), sent) {
		t.Errorf("%d bytes came, not the %d that were sent", got.Len(), len(sent))
	}
	if r, _ := b.Bytes(); r != uint64(len(sent)) {
		t.Errorf("%d bytes counted, want %d", r, len(sent))
	}
}

// TestInPlaceErrors checks whose error is returned, and that a panic leaves nothing
// behind.
func TestInPlaceErrors(t *testing.T) {
	server, client := newHosts(t, memory.Options{})
	a, b := pair(t, server, client)
	stop := errors.New("enough")
	if n, err := a.WriteInPlace(func(p []byte) (int, error) { return copy(p, "hello"), stop }); n != 5 || err != stop {
		t.Errorf("a fill with an error: %d, %v; want 5 and its error", n, err)
	}
	if n, err := a.WriteInPlace(func(p []byte) (int, error) { return 0, nil }); n != 0 || err != nil {
		t.Errorf("nothing to write: %d, %v", n, err)
	}
	for _, wrong := range []int{-1, 1 << 30} {
		if n, err := a.WriteInPlace(func([]byte) (int, error) { return wrong, nil }); n != 0 || err == nil {
			t.Errorf("a fill of %d bytes: %d, %v; want an error", wrong, n, err)
		}
	}
	if err := b.ReadInPlace(func(p []byte) error {
		if string(p) != "hello" {
			t.Errorf("got %q", p)
		}
		return stop
	}); err != stop {
		t.Errorf("a use with an error: %v, want it", err)
	}
	for _, call := range []func(){
		func() { a.WriteInPlace(func([]byte) (int, error) { panic(stop) }) },
		func() { a.Write([]byte("x")); b.ReadInPlace(func([]byte) error { panic(stop) }) },
	} {
		func() {
			defer func() {
				if recover() != stop {
					t.Error("the panic did not pass")
				}
			}()
			call()
		}()
	}
	b.SetReadDeadline(time.Now().Add(-time.Second))
	var op *net.OpError
	if err := b.ReadInPlace(func([]byte) error { return nil }); !errors.Is(err, os.ErrDeadlineExceeded) || !errors.As(err, &op) || op.Op != "read" {
		t.Errorf("after the deadline: %v", err)
	}
	b.SetReadDeadline(time.Time{})
	a.CloseWrite()
	if err := b.ReadInPlace(func(p []byte) error { return fmt.Errorf("got %q", p) }); err != io.EOF {
		t.Errorf("at the end: %v, want io.EOF", err)
	}
}

// TestInPlaceClose closes connections while both calls have memory, and while they
// wait.
func TestInPlaceClose(t *testing.T) {
	server, client := newHosts(t, memory.Options{})
	a, b := pair(t, server, client)
	if _, err := a.Write(bytes.Repeat([]byte("x"), 8000)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it arrives", func() bool { return b.Info().ReceiveQueue == 8000 })
	if err := b.ReadInPlace(func(p []byte) error {
		b.Close()
		for i := range p {
			if p[i] != 'x' {
				return fmt.Errorf("byte %d is %q after Close", i, p[i])
			}
			p[i] = 'y'
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	if n, err := a.WriteInPlace(func(p []byte) (int, error) {
		a.Close()
		return copy(p, "late"), nil
	}); n != 0 || !errors.Is(err, net.ErrClosed) {
		t.Errorf("closed meanwhile: %d, %v, want net.ErrClosed", n, err)
	}
	if err := b.ReadInPlace(func([]byte) error { return nil }); !errors.Is(err, net.ErrClosed) {
		t.Errorf("closed before: %v", err)
	}
	c, d := pair(t, server, client)
	var waiting sync.WaitGroup
	waiting.Go(func() {
		if err := d.ReadInPlace(func([]byte) error { return nil }); !errors.Is(err, net.ErrClosed) {
			t.Errorf("closed while it waits: %v", err)
		}
	})
	waiting.Go(func() {
		for {
			if _, err := d.WriteInPlace(func(p []byte) (int, error) { return len(p), nil }); err != nil {
				return // the buffers are full, and then it is closed
			}
			if _, w := d.Bytes(); w > 64<<20 {
				t.Error("64 MB and nobody reads")
				return
			}
		}
	})
	time.AfterFunc(20*time.Millisecond, func() { d.Close(); c.Close() })
	waiting.Wait()
}

// FuzzInPlace writes and reads a stream in pieces, each by a call that the input
// chooses, and wants it whole and in order.
func FuzzInPlace(f *testing.F) {
	f.Add([]byte{0, 10, 1, 200, 2, 3, 3, 255})
	f.Add([]byte("in place, and not"))
	server, client := newHosts(f, memory.Options{})
	ln := server.listen(f, "tcp", net.JoinHostPort(server.ip4, "0"))
	f.Fuzz(func(t *testing.T, script []byte) {
		if len(script) > 200 {
			return
		}
		a, b := pairTo(t, ln, client)
		deadline := time.Now().Add(testTimeout)
		a.SetDeadline(deadline)
		b.SetDeadline(deadline)
		var sent bytes.Buffer
		next := byte(0)
		make := func(n int) []byte {
			p := make([]byte, n)
			for i := range p {
				p[i] = next
				next = next*5 + 1
			}
			sent.Write(p)
			return p
		}
		for i := 0; i+1 < len(script); i += 2 {
			n := 1 + int(script[i+1])*int(script[i]>>2)
			var err error
			switch script[i] & 3 {
			case 0:
				_, err = a.Write(make(n))
			case 1:
				_, err = a.WriteInPlace(func(p []byte) (int, error) { return copy(p, make(min(n, len(p)))), nil })
			case 2:
				bufs := net.Buffers{make(n / 2), make(n - n/2)}
				_, err = a.WriteBuffers(&bufs)
			case 3:
				_, err = a.ReadFrom(io.LimitReader(bytes.NewReader(make(n)), int64(n)))
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		a.CloseWrite()
		want := sent.Bytes()
		for i := 0; ; i++ {
			var got []byte
			err := readSomehow(b, script, i, &got)
			if len(got) > len(want) || !bytes.Equal(got, want[:len(got)]) {
				t.Fatalf("step %d: other bytes than were sent", i)
			}
			want = want[len(got):]
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if len(want) > 0 {
			t.Fatalf("%d bytes are missing", len(want))
		}
		a.SetLinger(0)
		a.Close()
		b.Close()
	})
}

// readSomehow reads once, in place or by Read.
func readSomehow(c *tpanet.Conn, script []byte, i int, got *[]byte) error {
	choice := byte(i)
	if len(script) > 0 {
		choice = script[i%len(script)]
	}
	if choice&16 != 0 {
		return c.ReadInPlace(func(p []byte) error { *got = bytes.Clone(p); return nil })
	}
	buf := make([]byte, 1+int(choice)*8)
	n, err := c.Read(buf)
	*got = buf[:n]
	return err
}

// BenchmarkInPlace moves a stream whose bytes are made where they are written and
// looked at where they are read, by copying calls and in place.
func BenchmarkInPlace(b *testing.B) {
	for _, inPlace := range []bool{true, false} {
		b.Run(fmt.Sprintf("in_place=%v", inPlace), func(b *testing.B) {
			server, client := newHosts(b, memory.Options{})
			in, out := pair(b, server, client)
			const size = 1 << 20
			go func() {
				buf := make([]byte, 32<<10)
				fill := func(p []byte) (int, error) { // as one who makes a reply
					for i := range p {
						p[i] = byte(i)
					}
					return len(p), nil
				}
				var err error
				for err == nil {
					if inPlace {
						_, err = out.WriteInPlace(fill)
					} else {
						fill(buf)
						_, err = out.Write(buf)
					}
				}
			}()
			sum, left := 0, 0
			look := func(p []byte) error { // as one who parses a request
				for _, v := range p {
					sum += int(v)
				}
				left -= len(p)
				return nil
			}
			buf := make([]byte, 32<<10)
			b.SetBytes(size)
			b.ReportAllocs()
			for b.Loop() {
				for left += size; left > 0; {
					if inPlace {
						if err := in.ReadInPlace(look); err != nil {
							b.Fatal(err)
						}
						continue
					}
					n, err := in.Read(buf)
					if err != nil {
						b.Fatal(err)
					}
					look(buf[:n])
				}
			}
			out.SetLinger(0)
			out.Close()
		})
	}
}
