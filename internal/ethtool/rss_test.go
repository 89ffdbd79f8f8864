package ethtool

import (
	"encoding/binary"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseRSS(t *testing.T) {
	u32 := binary.NativeEndian.AppendUint32
	answer := func(function, transform byte, table []uint32, key []byte) []byte {
		b := u32(u32(u32(u32(nil, 0x46), 0), uint32(len(table))), uint32(len(key)))
		b = append(b, function, transform, 0, 0, 0, 0, 0, 0)
		for _, q := range table {
			b = u32(b, q)
		}
		return append(b, key...)
	}
	key := []byte{1, 2, 3, 4, 5, 6, 7}
	for _, tt := range []struct {
		name string
		in   []byte
		want RSS
	}{
		{"Toeplitz", answer(1, 0, []uint32{0, 1, 0, 1}, key), RSS{"toeplitz", false, key, []uint32{0, 1, 0, 1}}},
		{"Toeplitz, unchanged input", answer(1, 0xff, []uint32{3}, key), RSS{"toeplitz", false, key, []uint32{3}}},
		{"symmetric", answer(1, 1, []uint32{0}, key), RSS{"toeplitz", true, key, []uint32{0}}},
		{"another hash", answer(2, 0, []uint32{0}, nil), RSS{"xor", false, []byte{}, []uint32{0}}},
		{"no table", answer(4, 0, nil, key), RSS{"crc32", false, key, nil}},
		{"a hash to come", answer(8, 0, nil, key), RSS{"an unknown function", false, key, nil}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, parseRSS(tt.in)); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}
