package tpanet_test

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/gotpa/tpa/link/memory"
	tpanet "github.com/gotpa/tpa/net"
)

func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i * 7)
	}
	return b
}

// receive reads c to the end in the background.
func receive(c *tpanet.Conn) func() ([]byte, error) {
	type result struct {
		b   []byte
		err error
	}
	done := make(chan result, 1)
	go func() {
		c.SetReadDeadline(time.Now().Add(testTimeout))
		b, err := io.ReadAll(c)
		done <- result{b, err}
	}()
	return func() ([]byte, error) { r := <-done; return r.b, r.err }
}

// A lyingFile says that it is larger than it is.
type lyingFile struct {
	*bytes.Reader
	size int64
	err  error
}

func (f lyingFile) Stat() (fs.FileInfo, error) { return fileInfo{size: f.size}, nil }

func (f lyingFile) Read(b []byte) (int, error) {
	n, err := f.Reader.Read(b)
	if err == io.EOF && f.err != nil {
		err = f.err
	}
	return n, err
}

type fileInfo struct {
	fs.FileInfo
	size int64
}

func (i fileInfo) Size() int64       { return i.size }
func (i fileInfo) Mode() fs.FileMode { return 0 }

func TestReadFromShrinkingFile(t *testing.T) {
	server, client := newHosts(t, memory.Options{})
	broken := errors.New("broken")
	for _, size := range []int{0, 1, 1000, 64 << 10, 64<<10 + 1, 300_000} {
		for _, fail := range []error{nil, broken} {
			a, b := pair(t, server, client)
			want := pattern(size)
			got := receive(a)
			n, err := b.ReadFrom(lyingFile{bytes.NewReader(want), 1 << 20, fail})
			if n != int64(size) || !errors.Is(err, fail) {
				t.Errorf("%d bytes, then %v: got %d, %v", size, fail, n, err)
			}
			b.Close()
			if data, err := got(); err != nil || !bytes.Equal(data, want) {
				t.Errorf("%d bytes, then %v: peer got %d, %v", size, fail, len(data), err)
			}
		}
	}
}

func TestReadFromGrowingFile(t *testing.T) {
	server, client := newHosts(t, memory.Options{})
	a, b := pair(t, server, client)
	want := pattern(200_000)
	got := receive(a)
	n, err := b.ReadFrom(lyingFile{bytes.NewReader(want), 70_000, nil})
	if n != int64(len(want)) || err != nil {
		t.Errorf("got %d, %v", n, err)
	}
	b.Close()
	if data, err := got(); err != nil || !bytes.Equal(data, want) {
		t.Errorf("peer got %d, %v", len(data), err)
	}
}

// TestReadFromFileDirect checks that a file goes into the stack's buffers
// without one of ours.
func TestReadFromFileDirect(t *testing.T) {
	server, client := newHosts(t, memory.Options{})
	a, b := pair(t, server, client)
	name := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(name, pattern(1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	largest := 0
	spy := spyFile{f, &largest}
	go io.Copy(io.Discard, a)
	if n, err := b.ReadFrom(spy); n != 1<<20 || err != nil {
		t.Fatalf("got %d, %v", n, err)
	}
	if largest <= 32<<10 {
		t.Errorf("the largest read was of %d bytes, want more than a copy buffer's 32 KB", largest)
	}
}

type spyFile struct {
	*os.File
	largest *int
}

func (s spyFile) Read(b []byte) (int, error) {
	*s.largest = max(*s.largest, len(b))
	return s.File.Read(b)
}

// TestWriteBuffersGathers counts the frames that many small buffers take.
func TestWriteBuffersGathers(t *testing.T) {
	server, client := newHosts(t, memory.Options{})
	a, b := pair(t, server, client)
	frames := func() uint64 { return client.Stats().Shards[0].Queue.TxFrames }
	var bufs net.Buffers
	want := pattern(100_000)
	for rest := want; len(rest) > 0; rest = rest[100:] {
		bufs = append(bufs, rest[:100])
	}
	got := receive(a)
	before := frames()
	n, err := b.WriteBuffers(&bufs)
	if n != int64(len(want)) || err != nil || len(bufs) != 0 {
		t.Fatalf("got %d, %v, %d buffers left", n, err, len(bufs))
	}
	b.CloseWrite()
	if data, err := got(); err != nil || !bytes.Equal(data, want) {
		t.Fatalf("peer got %d, %v", len(data), err)
	}
	// 100,000 bytes are 70 full segments.
	if sent := frames() - before; sent > 80 {
		t.Errorf("%d frames left, want about 70", sent)
	}
	if _, err := b.WriteBuffers(&net.Buffers{[]byte("x")}); err == nil {
		t.Error("wrote after CloseWrite")
	}
	if n, err := a.ReadFrom(&net.Buffers{[]byte("one"), []byte("two")}); n != 6 || err != nil {
		t.Errorf("ReadFrom: %d, %v", n, err)
	}
}

// TestSplice moves data from one connection to another, in both directions at
// once, and closes in the middle.
func TestSplice(t *testing.T) {
	server, client := newHosts(t, memory.Options{})
	for _, much := range []int{1, 100_000, 3 << 20} {
		a1, b1 := pair(t, server, client)
		a2, b2 := pair(t, server, client)
		copied := make(chan error, 2)
		for _, way := range [2][2]*tpanet.Conn{{a1, b2}, {b2, a1}} {
			go func() {
				_, err := io.Copy(way[1], way[0])
				way[1].CloseWrite()
				copied <- err
			}()
		}
		there, back := pattern(much), pattern(much+1)
		got1, got2 := receive(b1), receive(a2)
		go func() { b1.Write(there); b1.CloseWrite() }()
		go func() { a2.Write(back); a2.CloseWrite() }()
		if data, err := got1(); err != nil || !bytes.Equal(data, back) {
			t.Errorf("back: %d bytes, %v", len(data), err)
		}
		if data, err := got2(); err != nil || !bytes.Equal(data, there) {
			t.Errorf("there: %d bytes, %v", len(data), err)
		}
		for range 2 {
			if err := <-copied; err != nil {
				t.Errorf("copy: %v", err)
			}
		}
	}
}

func TestCountsBytes(t *testing.T) {
	server, client := newHosts(t, memory.Options{})
	a, b := pair(t, server, client)
	got := receive(a)
	b.Write(pattern(1000))
	b.ReadFrom(bytes.NewReader(pattern(200)))
	b.ReadFrom(lyingFile{bytes.NewReader(pattern(30)), 30, nil})
	b.WriteBuffers(&net.Buffers{pattern(4)})
	b.CloseWrite()
	got()
	if got := b.Info().BytesWritten; got != 1234 {
		t.Errorf("%d bytes written, want 1234", got)
	}
	if got := a.Info().BytesRead; got != 1234 {
		t.Errorf("%d bytes read, want 1234", got)
	}
}

// TestWriteToForeign writes to a writer that knows nothing of connections, in
// pieces of all sizes, and lets it look at them after more has come and the
// connection was closed.
func TestWriteToForeign(t *testing.T) {
	server, client := newHosts(t, memory.Options{})
	for _, size := range []int{1, 100, 513, 8 << 10, 100_000, 3 << 20} {
		a, b := pair(t, server, client)
		want := pattern(size)
		go func() {
			for rest := want; len(rest) > 0; {
				n, err := b.Write(rest[:min(len(rest), 1+len(rest)/3)])
				if err != nil {
					t.Errorf("write: %v", err)
					return
				}
				rest = rest[n:]
			}
			b.CloseWrite()
		}()
		var got slowWriter
		a.SetReadDeadline(time.Now().Add(testTimeout))
		n, err := a.WriteTo(&got)
		if n != int64(size) || err != nil || !bytes.Equal(got, want) {
			t.Errorf("%d bytes: got %d, %d written, %v", size, len(got), n, err)
		}
		if read, _ := a.Bytes(); read != uint64(size) {
			t.Errorf("%d bytes: counted %d", size, read)
		}
	}
	broken := errors.New("broken")
	a, b := pair(t, server, client)
	b.Write(pattern(100_000))
	if _, err := a.WriteTo(brokenWriter{broken}); !errors.Is(err, broken) {
		t.Errorf("a writer that fails: %v, want %v", err, broken)
	}
}

// TestWriteToClosed closes the connection while a writer has its data in hands.
func TestWriteToClosed(t *testing.T) {
	server, client := newHosts(t, memory.Options{})
	other, filler := pair(t, server, client)
	go io.Copy(io.Discard, other)
	a, b := pair(t, server, client)
	want := pattern(20_000)
	b.Write(want)
	w := &closingWriter{t: t, c: a, meanwhile: func() { filler.Write(make([]byte, 1<<20)) }}
	if _, err := a.WriteTo(w); !errors.Is(err, net.ErrClosed) {
		t.Errorf("got %v, want %v", err, net.ErrClosed)
	}
	if len(w.got) == 0 || !bytes.HasPrefix(want, w.got) {
		t.Errorf("%d bytes, and not those that were sent", len(w.got))
	}
}

type slowWriter []byte

func (w *slowWriter) Write(b []byte) (int, error) {
	runtime.Gosched()
	*w = append(*w, b...)
	return len(b), nil
}

type brokenWriter struct{ err error }

func (w brokenWriter) Write([]byte) (int, error) { return 0, w.err }

type closingWriter struct {
	t         *testing.T
	c         *tpanet.Conn
	meanwhile func()
	got       []byte
}

func (w *closingWriter) Write(b []byte) (int, error) {
	if err := w.c.Close(); err != nil {
		w.t.Errorf("close: %v", err)
	}
	w.meanwhile()
	w.got = append(w.got, b...)
	return len(b), nil
}
