package xdp

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/gotpa/tpa/internal/ethtool"
	"github.com/gotpa/tpa/link"
)

func TestSpread(t *testing.T) {
	key := []byte{1, 2, 3}
	for _, tt := range []struct {
		name   string
		in     ethtool.RSS
		queues int
		want   link.RSS // without a key: an error
	}{
		{"as many queues", ethtool.RSS{Function: "toeplitz", Key: key, Table: []uint32{0, 1, 0, 1}}, 2, link.RSS{Key: key, Table: []uint16{0, 1, 0, 1}}},
		{"fewer link queues", ethtool.RSS{Function: "toeplitz", Key: key, Table: []uint32{0, 1, 2, 3}}, 2, link.RSS{Key: key, Table: []uint16{0, 1, 0, 1}}},
		{"a queue without a share", ethtool.RSS{Function: "toeplitz", Key: key, Table: []uint32{0, 0}}, 2, link.RSS{}},
		{"another hash", ethtool.RSS{Function: "xor", Key: key, Table: []uint32{0, 1}}, 2, link.RSS{}},
		{"symmetric", ethtool.RSS{Function: "toeplitz", Symmetric: true, Key: key, Table: []uint32{0, 1}}, 2, link.RSS{}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := spread("eth0", tt.in, tt.queues)
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
			if failed := err != nil; failed != (tt.want.Key == nil) || failed && !errors.Is(err, errors.ErrUnsupported) {
				t.Errorf("got error %v", err)
			}
		})
	}
}
