package conformance

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"time"
)

var errSource = errors.New("source is broken")

// drain reads c to its end in the background.
func drain(e *Env, what string, c net.Conn) *Call {
	return e.Go(what, func() []any {
		b, err := io.ReadAll(c)
		return []any{len(b), string(b[:min(len(b), 20)]), err}
	})
}

// tempFile returns an open file with the given content.
func tempFile(e *Env, content []byte) *os.File {
	f, err := os.CreateTemp("", "conformance")
	e.Must(err)
	e.Cleanup(func() { f.Close(); os.Remove(f.Name()) })
	_, err = f.Write(content)
	e.Must(err)
	_, err = f.Seek(0, io.SeekStart)
	e.Must(err)
	return f
}

// failAfter reads n bytes and then fails.
func failAfter(n int) io.Reader {
	return io.MultiReader(strings.NewReader(strings.Repeat("x", n)), errReader{})
}

type errReader struct{}

func (errReader) Read([]byte) (int, error) { return 0, errSource }

type failingWriter struct{ after int }

func (w *failingWriter) Write(b []byte) (int, error) {
	if w.after -= len(b); w.after < 0 {
		return 0, errSource
	}
	return len(b), nil
}

var streamProbes = []Probe{
	{Name: "stream/ReadFrom memory", Run: func(e *Env) {
		server, client := e.Pair()
		d := drain(e, "peer", server)
		n, err := tcp(client).ReadFrom(strings.NewReader("hello"))
		e.Note("ReadFrom", n, err)
		e.Must(client.Close())
		d.Done()
	}},
	{Name: "stream/ReadFrom much", Run: func(e *Env) {
		server, client := e.Pair()
		d := drain(e, "peer", server)
		n, err := tcp(client).ReadFrom(io.LimitReader(zeros{}, 3_000_000))
		e.Note("ReadFrom", n, err)
		e.Must(client.Close())
		d.Done()
	}},
	{Name: "stream/ReadFrom nothing", Run: func(e *Env) {
		_, client := e.Pair()
		n, err := tcp(client).ReadFrom(strings.NewReader(""))
		e.Note("ReadFrom", n, err)
		n, err = tcp(client).ReadFrom(io.LimitReader(zeros{}, 0))
		e.Note("ReadFrom", n, err)
	}},
	{Name: "stream/ReadFrom a file", Run: func(e *Env) {
		server, client := e.Pair()
		content := randomBytes(500_000)
		f := tempFile(e, content)
		var got bytes.Buffer
		d := e.Go("peer", func() []any {
			n, err := io.Copy(&got, server)
			return []any{n, err, bytes.Equal(got.Bytes(), content)}
		})
		n, err := tcp(client).ReadFrom(f)
		e.Note("ReadFrom", n, err)
		e.Must(client.Close())
		d.Done()
	}},
	{Name: "stream/copy a file", Run: func(e *Env) {
		server, client := e.Pair()
		content := randomBytes(500_000)
		f := tempFile(e, content)
		var got bytes.Buffer
		d := e.Go("peer", func() []any {
			n, err := io.Copy(&got, server)
			return []any{n, err, bytes.Equal(got.Bytes(), content)}
		})
		n, err := io.Copy(client, f)
		e.Note("Copy", n, err)
		e.Must(client.Close())
		d.Done()
	}},
	{Name: "stream/copy a part of a file", Run: func(e *Env) {
		server, client := e.Pair()
		content := randomBytes(300_000)
		f := tempFile(e, content)
		_, err := f.Seek(1000, io.SeekStart)
		e.Must(err)
		var got bytes.Buffer
		d := e.Go("peer", func() []any {
			n, err := io.Copy(&got, server)
			return []any{n, err, bytes.Equal(got.Bytes(), content[1000:201_000])}
		})
		n, err := io.CopyN(client, f, 200_000)
		e.Note("CopyN", n, err)
		at, err := f.Seek(0, io.SeekCurrent)
		e.Note("file is at", at, err)
		e.Must(client.Close())
		d.Done()
	}},
	{Name: "stream/copy more than a file has", Run: func(e *Env) {
		server, client := e.Pair()
		f := tempFile(e, randomBytes(1000))
		d := drain(e, "peer", server)
		n, err := io.CopyN(client, f, 5000)
		e.Note("CopyN", n, err)
		e.Must(client.Close())
		<-d.done // the content is random
	}},
	{Name: "stream/ReadFrom an empty file", Run: func(e *Env) {
		_, client := e.Pair()
		n, err := tcp(client).ReadFrom(tempFile(e, nil))
		e.Note("ReadFrom", n, err)
	}},
	{Name: "stream/ReadFrom a pipe in pieces", Run: func(e *Env) {
		server, client := e.Pair()
		r, w := io.Pipe()
		c := e.Go("ReadFrom", func() []any {
			n, err := tcp(client).ReadFrom(r)
			return []any{n, err}
		})
		for _, s := range []string{"one", "two", "three"} {
			_, err := io.WriteString(w, s)
			e.Must(err)
			e.Read("peer reads", server, 100).Done() // each piece is sent at once
		}
		w.Close()
		c.Done()
	}},
	{Name: "stream/ReadFrom a broken source", Run: func(e *Env) {
		server, client := e.Pair()
		n, err := tcp(client).ReadFrom(failAfter(1000))
		e.Note("ReadFrom", n, err)
		k, err := io.CopyN(io.Discard, server, 1000)
		e.Note("peer reads", k, err)
	}},
	{Name: "stream/ReadFrom after close", Run: func(e *Env) {
		_, client := e.Pair()
		e.Must(client.Close())
		n, err := tcp(client).ReadFrom(strings.NewReader("hello"))
		e.Note("memory", n, err)
		n, err = tcp(client).ReadFrom(io.LimitReader(zeros{}, 10))
		e.Note("reader", n, err)
		n, err = tcp(client).ReadFrom(strings.NewReader(""))
		e.Note("nothing", n, err)
	}},
	{Name: "stream/ReadFrom after CloseWrite", Run: func(e *Env) {
		_, client := e.Pair()
		e.Must(tcp(client).CloseWrite())
		n, err := tcp(client).ReadFrom(strings.NewReader("hello"))
		e.Note("ReadFrom", n, err)
	}},
	{Name: "stream/ReadFrom after deadline", Run: func(e *Env) {
		_, client := e.Pair()
		e.Must(client.SetWriteDeadline(past))
		n, err := tcp(client).ReadFrom(strings.NewReader("hello"))
		e.Note("ReadFrom", n, err)
	}},
	{Name: "stream/ReadFrom an ended source with the connection full", Run: func(e *Env) {
		_, client := e.Pair()
		e.Fill(client)
		e.Go("ReadFrom", func() []any {
			n, err := tcp(client).ReadFrom(onlyReader{strings.NewReader("")})
			return []any{n, err}
		}).Done()
	}},
	{Name: "stream/ReadFrom, close while waiting", Run: func(e *Env) {
		_, client := e.Pair()
		c := e.Go("ReadFrom", func() []any {
			_, err := tcp(client).ReadFrom(zeros{})
			return []any{err}
		})
		c.Waits()
		e.Must(client.Close())
		c.Done()
	}},
	{Name: "stream/ReadFrom, reset while waiting", Run: func(e *Env) {
		server, client := e.Pair()
		c := e.Go("ReadFrom", func() []any {
			_, err := tcp(client).ReadFrom(zeros{})
			return []any{err}
		})
		c.Waits()
		e.Reset(server)
		c.Done()
	}},
	{Name: "stream/WriteTo memory", Run: func(e *Env) {
		server, client := e.Pair()
		e.Must(write(client, "hello"))
		e.Must(client.Close())
		var b bytes.Buffer
		n, err := tcp(server).WriteTo(&b)
		e.Note("WriteTo", n, err, b.String())
	}},
	{Name: "stream/WriteTo a plain writer", Run: func(e *Env) {
		server, client := e.Pair()
		w := e.Write("write", client, 1_000_000)
		closer := e.Go("close", func() []any { <-w.done; return []any{client.Close()} })
		var b bytes.Buffer
		n, err := tcp(server).WriteTo(onlyWriter{&b})
		e.Note("WriteTo", n, err, b.Len())
		w.Done()
		closer.Done()
	}},
	{Name: "stream/WriteTo hands on what it has", Run: func(e *Env) {
		server, client := e.Pair()
		r, w := io.Pipe()
		c := e.Go("WriteTo", func() []any {
			n, err := tcp(server).WriteTo(w)
			w.Close()
			return []any{n, err}
		})
		b := make([]byte, 100)
		for _, s := range []string{"one", "two", "three"} {
			e.Must(write(client, s))
			n, err := r.Read(b)
			e.Note("piece", string(b[:n]), err)
		}
		e.Must(client.Close())
		_, err := r.Read(b)
		e.Note("end", err)
		c.Done()
	}},
	{Name: "stream/WriteTo a broken writer", Run: func(e *Env) {
		server, client := e.Pair()
		e.Must(write(client, "hello"))
		n, err := tcp(server).WriteTo(&failingWriter{})
		e.Note("WriteTo", n, err)
		e.Must(write(client, "again"))
		e.Read("read on", server, 10).Done()
	}},
	{Name: "stream/WriteTo after close", Run: func(e *Env) {
		server, _ := e.Pair()
		e.Must(server.Close())
		n, err := tcp(server).WriteTo(io.Discard)
		e.Note("WriteTo", n, err)
	}},
	{Name: "stream/WriteTo, close while waiting", Run: func(e *Env) {
		server, _ := e.Pair()
		c := e.Go("WriteTo", func() []any {
			n, err := tcp(server).WriteTo(io.Discard)
			return []any{n, err}
		})
		c.Waits()
		e.Must(server.Close())
		c.Done()
	}},
	{Name: "stream/WriteTo, deadline while waiting", Run: func(e *Env) {
		server, client := e.Pair()
		e.Must(write(client, "hello"))
		e.Must(server.SetReadDeadline(in(soon)))
		n, err := tcp(server).WriteTo(io.Discard)
		e.Note("WriteTo", n, err)
	}},
	{Name: "stream/WriteTo, reset while waiting", Run: func(e *Env) {
		server, client := e.Pair()
		c := e.Go("WriteTo", func() []any {
			n, err := tcp(server).WriteTo(io.Discard)
			return []any{n, err}
		})
		c.Waits()
		e.Reset(client)
		c.Done()
	}},
	{Name: "stream/copy between connections", Run: func(e *Env) {
		server1, client1 := e.Pair()
		server2, client2 := e.Pair()
		data := randomBytes(2 << 20)
		proxy := e.Go("proxy", func() []any {
			n, err := io.Copy(client2, server1)
			tcp(client2).CloseWrite()
			return []any{n, err}
		})
		w := e.Go("write", func() []any {
			n, err := client1.Write(data)
			client1.Close()
			return []any{n, err}
		})
		got, err := io.ReadAll(server2)
		e.Note("read", len(got), bytes.Equal(got, data), err)
		w.Done()
		proxy.Done()
	}},
	{Name: "stream/copy between connections, in pieces", Run: func(e *Env) {
		server1, client1 := e.Pair()
		server2, client2 := e.Pair()
		proxy := e.Go("proxy", func() []any {
			n, err := io.Copy(client2, server1)
			return []any{n, err}
		})
		for _, s := range []string{"one", "two", "three"} {
			e.Must(write(client1, s))
			e.Read("piece", server2, 100).Done()
		}
		e.Must(client1.Close())
		proxy.Done()
	}},
	{Name: "stream/copy between connections, both ways", Run: func(e *Env) {
		server1, client1 := e.Pair()
		server2, client2 := e.Pair()
		there := e.Go("there", func() []any { n, err := io.Copy(client2, server1); return []any{n, err} })
		back := e.Go("back", func() []any { n, err := io.Copy(server1, client2); return []any{n, err} })
		const size = 1 << 20
		echo := e.Go("echo", func() []any { n, err := io.Copy(server2, server2); tcp(server2).CloseWrite(); return []any{n, err} })
		w := e.Go("write", func() []any {
			n, err := client1.Write(make([]byte, size))
			tcp(client1).CloseWrite()
			return []any{n, err}
		})
		n, err := io.CopyN(io.Discard, client1, size)
		e.Note("read", n, err)
		w.Done()
		there.Done()
		e.Must(tcp(client2).CloseWrite())
		echo.Done()
		back.Done()
	}},
	{Name: "stream/copy N between connections", Run: func(e *Env) {
		server1, client1 := e.Pair()
		server2, client2 := e.Pair()
		e.Must(write(client1, "hello, world"))
		n, err := io.CopyN(client2, server1, 5)
		e.Note("CopyN", n, err)
		e.Read("copied", server2, 100).Done()
		e.Read("left", server1, 100).Done()
	}},
	{Name: "stream/copy between connections, source reset", Run: func(e *Env) {
		server1, client1 := e.Pair()
		_, client2 := e.Pair()
		c := e.Go("ReadFrom", func() []any {
			n, err := tcp(client2).ReadFrom(server1)
			return []any{n, err}
		})
		c.Waits()
		e.Reset(client1)
		c.Done()
	}},
	{Name: "stream/copy between connections, source late", Run: func(e *Env) {
		server1, client1 := e.Pair()
		_, client2 := e.Pair()
		e.Must(write(client1, "hello"))
		e.Must(server1.SetReadDeadline(in(soon)))
		n, err := tcp(client2).ReadFrom(server1)
		e.Note("ReadFrom", n, err)
	}},
	{Name: "stream/copy between connections, source closed", Run: func(e *Env) {
		server1, _ := e.Pair()
		_, client2 := e.Pair()
		c := e.Go("ReadFrom", func() []any {
			n, err := tcp(client2).ReadFrom(server1)
			return []any{n, err}
		})
		c.Waits()
		e.Must(server1.Close())
		c.Done()
	}},
	{Name: "stream/copy between connections, target gone", Run: func(e *Env) {
		server1, client1 := e.Pair()
		_, client2 := e.Pair()
		e.Must(client2.Close())
		e.Must(write(client1, "hello"))
		n, err := tcp(client2).ReadFrom(server1)
		e.Note("ReadFrom", n, err)
	}},
	{Name: "stream/copy between connections, target half closed", Run: func(e *Env) {
		server1, client1 := e.Pair()
		_, client2 := e.Pair()
		e.Must(tcp(client2).CloseWrite())
		e.Must(write(client1, "hello"))
		n, err := tcp(client2).ReadFrom(server1)
		e.Note("ReadFrom", n, err)
	}},
	{Name: "stream/echo to itself", Run: func(e *Env) {
		server, client := e.Pair()
		echo := e.Go("echo", func() []any {
			n, err := io.Copy(server, server)
			tcp(server).CloseWrite()
			return []any{n, err}
		})
		data := randomBytes(300_000)
		w := e.Go("write", func() []any {
			n, err := client.Write(data)
			tcp(client).CloseWrite()
			return []any{n, err}
		})
		got, err := io.ReadAll(client)
		e.Note("read", len(got), bytes.Equal(got, data), err)
		w.Done()
		echo.Done()
	}},
	{Name: "stream/net.Buffers", Run: func(e *Env) {
		server, client := e.Pair()
		bufs := net.Buffers{[]byte("one "), nil, []byte("two "), []byte("three")}
		n, err := bufs.WriteTo(client)
		e.Note("WriteTo", n, err, len(bufs))
		b := make([]byte, n)
		_, err = io.ReadFull(server, b)
		e.Note("read", string(b), err)
	}},
	{Name: "stream/net.Buffers, much", Run: func(e *Env) {
		server, client := e.Pair()
		var bufs net.Buffers
		for range 1000 {
			bufs = append(bufs, make([]byte, 1000))
		}
		d := drain(e, "peer", server)
		n, err := bufs.WriteTo(client)
		e.Note("WriteTo", n, err, len(bufs))
		e.Must(client.Close())
		d.Done()
	}},
	{Name: "stream/net.Buffers after close", Differs: "net.Buffers knows only package net's own connections, and calls Write for others: the error says write where the kernel's says writev. It is net.ErrClosed all the same. Conn.WriteBuffers gathers.", Run: func(e *Env) {
		_, client := e.Pair()
		e.Must(client.Close())
		bufs := net.Buffers{[]byte("one "), []byte("two ")}
		n, err := bufs.WriteTo(client)
		e.Note("WriteTo", n, err)
	}},
	{Name: "stream/buffered", Run: func(e *Env) {
		server, client := e.Pair()
		w := bufio.NewWriter(client)
		r := bufio.NewReader(server)
		for _, s := range []string{"one\n", "two\n"} {
			_, err := w.WriteString(s)
			e.Must(err)
			e.Must(w.Flush())
			line, err := r.ReadString('\n')
			e.Note("line", line, err)
		}
		e.Must(client.Close())
		_, err := r.ReadString('\n')
		e.Note("end", err)
	}},
	{Name: "stream/ping-pong", Run: func(e *Env) {
		server, client := e.Pair()
		const rounds = 2000
		s := e.Go("server", func() []any {
			b := make([]byte, 8)
			for i := range rounds {
				if _, err := io.ReadFull(server, b); err != nil {
					return []any{i, err}
				}
				if _, err := server.Write(b); err != nil {
					return []any{i, err}
				}
			}
			return []any{rounds}
		})
		b := make([]byte, 8)
		for range rounds {
			_, err := client.Write(b)
			e.Must(err)
			e.Must(client.SetReadDeadline(time.Now().Add(testTimeout)))
			_, err = io.ReadFull(client, b)
			e.Must(err)
		}
		s.Done()
	}},
}

// zeros reads zeros without end.
type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

// These hide what else a reader or writer can do.
type (
	onlyReader struct{ io.Reader }
	onlyWriter struct{ io.Writer }
)
