package resp

import "bytes"

// Kinds of replies.
const (
	Status  = '+'
	Failure = '-'
	Integer = ':'
	Bulk    = '$'
	Array   = '*'
)

// Header reads the first line of a reply from p.
//
// size is the line's length with its ending, 0 when p does not hold all of it.
// n is the number of an Integer, the length of a Bulk (-1: no such string; the
// string and CR LF follow) or of an Array (the elements follow). text is that
// of a Status or Failure, and is a part of p. The error is a ProtocolError.
func Header(p []byte) (kind byte, n int64, text []byte, size int, err error) {
	i := bytes.IndexByte(p, '\n')
	if i < 0 {
		if len(p) > maxLine {
			return 0, 0, nil, 0, ProtocolError("a reply line of more than 64 KB")
		}
		return 0, 0, nil, 0, nil
	}
	if i < 2 || p[i-1] != '\r' {
		return 0, 0, nil, 0, ProtocolError("a reply line without CR LF")
	}
	kind, text, size = p[0], p[1:i-1], i+1
	switch kind {
	case Status, Failure:
		return kind, 0, text, size, nil
	case Integer, Bulk, Array:
		n, ok := Int(text)
		if !ok || kind != Integer && n < -1 {
			return 0, 0, nil, 0, ProtocolError("a reply with a length that is none")
		}
		return kind, n, nil, size, nil
	}
	return 0, 0, nil, 0, ProtocolError("a reply of unknown kind")
}
