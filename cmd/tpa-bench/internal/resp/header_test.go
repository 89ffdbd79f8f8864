package resp

import (
	"errors"
	"strings"
	"testing"
)

func TestHeader(t *testing.T) {
	tests := []struct {
		in   string
		kind byte
		n    int64
		text string
		size int
		bad  bool
	}{
		{in: ""},
		{in: "+OK\r"},
		{in: "+OK\r\n", kind: Status, text: "OK", size: 5},
		{in: "+\r\n", kind: Status, size: 3},
		{in: "-ERR no\r\nrest", kind: Failure, text: "ERR no", size: 9},
		{in: ":-12\r\n", kind: Integer, n: -12, size: 6},
		{in: "$64\r\nvalue", kind: Bulk, n: 64, size: 5},
		{in: "$-1\r\n", kind: Bulk, n: -1, size: 5},
		{in: "*3\r\n", kind: Array, n: 3, size: 4},
		{in: "$-2\r\n", bad: true},
		{in: "$x\r\n", bad: true},
		{in: "*\r\n", bad: true},
		{in: "?1\r\n", bad: true},
		{in: "+OK\n", bad: true},
		{in: "\n", bad: true},
		{in: "\r\n", bad: true},
		{in: "+" + strings.Repeat("x", 64<<10), bad: true},
	}
	for _, tt := range tests {
		kind, n, text, size, err := Header([]byte(tt.in))
		var p ProtocolError
		if errors.As(err, &p) != tt.bad {
			t.Errorf("Header(%.20q): error %v", tt.in, err)
		}
		if err == nil && size > 0 && (kind != tt.kind || n != tt.n || string(text) != tt.text) || size != tt.size {
			t.Errorf("Header(%.20q) = %q, %d, %q, %d, want %q, %d, %q, %d", tt.in, kind, n, text, size, tt.kind, tt.n, tt.text, tt.size)
		}
	}
}

func FuzzHeader(f *testing.F) {
	f.Add([]byte("$64\r\n"))
	f.Add([]byte("-ERR x\r\n"))
	f.Add([]byte(":9223372036854775807\r\n"))
	f.Fuzz(func(t *testing.T, p []byte) {
		kind, n, text, size, err := Header(p)
		if size < 0 || size > len(p) || err != nil && size != 0 {
			t.Fatalf("size %d of %d bytes, error %v", size, len(p), err)
		}
		if size == 0 {
			return
		}
		var again []byte
		switch kind {
		case Status:
			again = AppendStatus(nil, string(text))
		case Failure:
			again = AppendError(nil, string(text))
		default:
			again = appendHeader(nil, kind, n)
		}
		if k, m, x, _, err := Header(again); err != nil || k != kind || m != n || string(x) != string(text) {
			t.Errorf("%q written and read again: %q, %d, %q, %v", p[:size], k, m, x, err)
		}
	})
}
