package resp

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
)

// readAll returns all commands of a stream, and the error that ended it.
func readAll(src io.Reader) (commands [][]string, err error) {
	r := NewReader(src)
	for {
		args, ok, err := r.Parse()
		if err != nil {
			return commands, err
		}
		if ok {
			var c []string
			for _, a := range args {
				c = append(c, string(a))
			}
			commands = append(commands, c)
			continue
		}
		if err := r.Fill(); err != nil {
			return commands, err
		}
	}
}

func TestReader(t *testing.T) {
	tests := []struct {
		name string
		in   string
		want [][]string
		err  error
	}{
		{"empty", "", nil, io.EOF},
		{"command", "*2\r\n$3\r\nGET\r\n$1\r\nk\r\n", [][]string{{"GET", "k"}}, io.EOF},
		{"pipeline", "*1\r\n$4\r\nPING\r\n*2\r\n$4\r\nECHO\r\n$2\r\nhi\r\n", [][]string{{"PING"}, {"ECHO", "hi"}}, io.EOF},
		{"binary", "*2\r\n$4\r\nECHO\r\n$4\r\n\r\n\x00$\r\n", [][]string{{"ECHO", "\r\n\x00$"}}, io.EOF},
		{"empty argument", "*2\r\n$4\r\nECHO\r\n$0\r\n\r\n", [][]string{{"ECHO", ""}}, io.EOF},
		{"inline", "PING\r\n", [][]string{{"PING"}}, io.EOF},
		{"inline with words", "  SET  a \t b\n", [][]string{{"SET", "a", "b"}}, io.EOF},
		{"inline then array", "PING\r\n*1\r\n$4\r\nPING\r\n", [][]string{{"PING"}, {"PING"}}, io.EOF},
		{"nothing asked", "\r\n \r\n*0\r\n*-1\r\nPING\r\n", [][]string{{"PING"}}, io.EOF},
		{"cut in a header", "*2\r\n$3", nil, io.ErrUnexpectedEOF},
		{"cut in an argument", "*1\r\n$4\r\nPI", nil, io.ErrUnexpectedEOF},
		{"cut after a command", "PING\r\n*1", [][]string{{"PING"}}, io.ErrUnexpectedEOF},
		{"array of no length", "*x\r\n", nil, ProtocolError("invalid multibulk length")},
		{"too many arguments", fmt.Sprintf("*%d\r\n", MaxArgs+1), nil, ProtocolError("invalid multibulk length")},
		{"length past int64", "*99999999999999999999\r\n", nil, ProtocolError("invalid multibulk length")},
		{"no string", "*1\r\n:1\r\n", nil, ProtocolError("expected '$'")},
		{"empty line for a string", "*1\r\n\r\n", nil, ProtocolError("expected '$'")},
		{"negative length", "*1\r\n$-1\r\n", nil, ProtocolError("invalid bulk length")},
		{"too long an argument", fmt.Sprintf("*1\r\n$%d\r\n", MaxCommand+1), nil, ProtocolError("invalid bulk length")},
		{"too long together", fmt.Sprintf("*2\r\n$1\r\na\r\n$%d\r\n", MaxCommand-8), nil, ProtocolError("command of more than 67108864 bytes")},
		{"no line end after an argument", "*1\r\n$4\r\nPINGxx", nil, ProtocolError("expected CRLF after an argument")},
		{"length line without end", "*1\r\n$" + strings.Repeat("1", 64), nil, ProtocolError("too big bulk count string")},
		{"inline without end", strings.Repeat("a", maxLine+2), nil, ProtocolError("too big inline request")},
		{"too long inline", strings.Repeat("a", maxLine+2) + "\r\n", nil, ProtocolError("too big inline request")},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for name, src := range map[string]io.Reader{
				"at once":      strings.NewReader(tt.in),
				"byte by byte": iotest.OneByteReader(strings.NewReader(tt.in)),
			} {
				got, err := readAll(src)
				if diff := cmp.Diff(tt.want, got); diff != "" {
					t.Errorf("%s: commands (-want +got):\n%s", name, diff)
				}
				if err != tt.err {
					t.Errorf("%s: error %v, want %v", name, err, tt.err)
				}
			}
		})
	}
}

// TestReaderGrows sends commands larger than the first buffer, and sees that a
// declared length alone takes no memory.
func TestReaderGrows(t *testing.T) {
	big := strings.Repeat("x", 3*keepBuffer)
	in := AppendCommand(nil, "SET", "k", big)
	in = AppendCommand(in, "PING")
	got, err := readAll(bytes.NewReader(in))
	if err != io.EOF || len(got) != 2 || got[0][2] != big || got[1][0] != "PING" {
		t.Errorf("got %d commands and error %v", len(got), err)
	}

	r := NewReader(strings.NewReader(fmt.Sprintf("*1\r\n$%d\r\n", MaxCommand/2)))
	if err := r.Fill(); err != nil {
		t.Fatal(err)
	}
	if _, ok, err := r.Parse(); ok || err != nil {
		t.Fatalf("Parse of a header alone: %v, %v", ok, err)
	}
	if len(r.buf) != minBuffer {
		t.Errorf("a declared length made the buffer %d bytes", len(r.buf))
	}
}

func TestReaderAllocates(t *testing.T) {
	batch := bytes.Repeat(AppendCommand(nil, "SET", "key:000000000001", "value"), 16)
	src := new(repeated)
	src.p = batch
	r := NewReader(src)
	commands := 0
	allocs := testing.AllocsPerRun(100, func() {
		if err := r.Fill(); err != nil {
			t.Fatal(err)
		}
		for {
			_, ok, err := r.Parse()
			if err != nil {
				t.Fatal(err)
			}
			if !ok {
				break
			}
			commands++
		}
	})
	if allocs != 0 || commands < 1600 {
		t.Errorf("%v allocations per batch, %d commands", allocs, commands)
	}
}

// repeated gives the same bytes with each Read.
type repeated struct{ p []byte }

func (r *repeated) Read(p []byte) (int, error) { return copy(p, r.p), nil }

// FuzzReader feeds any bytes: the Reader must find the same commands however
// they are cut, and keep to its bounds.
func FuzzReader(f *testing.F) {
	f.Add([]byte("*2\r\n$3\r\nGET\r\n$1\r\nk\r\nPING\r\n*-1\r\n"))
	f.Add([]byte("*1\r\n$-1\r\n"))
	f.Add([]byte("*3\r\n$0\r\n\r\n$1\r\n"))
	f.Add([]byte(" a  b\n\n*0\r\n*00001\r\n$+1\r\nx\r\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		whole, wholeErr := readAll(bytes.NewReader(in))
		cut, cutErr := readAll(iotest.OneByteReader(bytes.NewReader(in)))
		if diff := cmp.Diff(whole, cut); diff != "" {
			t.Errorf("commands (-at once +byte by byte):\n%s", diff)
		}
		if wholeErr.Error() != cutErr.Error() {
			t.Errorf("at once %v, byte by byte %v", wholeErr, cutErr)
		}
		for _, c := range whole {
			if len(c) == 0 || len(c) > MaxArgs {
				t.Errorf("a command of %d arguments", len(c))
			}
			again, err := readAll(bytes.NewReader(AppendCommand(nil, c...)))
			if err != io.EOF || len(again) != 1 {
				t.Fatalf("written and read again: %q, %v", again, err)
			}
			if diff := cmp.Diff(c, again[0]); diff != "" {
				t.Errorf("written and read again (-want +got):\n%s", diff)
			}
		}
	})
}

func TestInt(t *testing.T) {
	tests := []struct {
		in   string
		want int64
		ok   bool
	}{
		{"0", 0, true}, {"-0", 0, true}, {"+7", 7, true}, {"-42", -42, true},
		{"9223372036854775807", 1<<63 - 1, true},
		{"-9223372036854775807", -1<<63 + 1, true},
		{"9223372036854775808", 0, false},
		{"9999999999999999999", 0, false},
		{"99999999999999999999", 0, false},
		{"", 0, false}, {"-", 0, false}, {"1x", 0, false}, {" 1", 0, false}, {"--1", 0, false},
	}
	for _, tt := range tests {
		if got, ok := Int([]byte(tt.in)); got != tt.want || ok != tt.ok {
			t.Errorf("Int(%q) = %d, %v, want %d, %v", tt.in, got, ok, tt.want, tt.ok)
		}
	}
}
