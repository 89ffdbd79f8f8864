package transport

import (
	"io"
	"strings"
	"testing"
)

// TestKernel listens, dials, and exchanges a byte.
func TestKernel(t *testing.T) {
	tr, err := Open(Kernel)
	if err != nil {
		t.Fatal(err)
	}
	defer tr.Close()
	ln, err := tr.Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go func() {
		if c, err := ln.Accept(); err == nil {
			io.Copy(c, c)
			c.Close()
		}
	}()
	c, err := tr.Dial(t.Context(), ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	b := []byte{'x'}
	if _, err := c.Write(b); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, b); err != nil || b[0] != 'x' {
		t.Errorf("got %q, %v", b, err)
	}
	if tr.Polls() || tr.Name() != Kernel {
		t.Errorf("Polls %t, Name %q", tr.Polls(), tr.Name())
	}
	if c := tr.Counters(); c.Polls != 0 || c.Lost != 0 {
		t.Errorf("counters %+v of a transport that does not poll", c)
	}
}

func TestRetransmits(t *testing.T) {
	const snmp = `Ip: Forwarding DefaultTTL
Ip: 1 64
Tcp: RtoAlgorithm RtoMin RetransSegs InErrs
Tcp: 1 200 4711 0
Udp: InDatagrams
Udp: 5
`
	if got := retransmits(snmp); got != 4711 {
		t.Errorf("%d retransmits, want 4711", got)
	}
	for _, none := range []string{"", "Tcp:\n", "Tcp: RetransSegs\n", "Tcp: A RetransSegs\nTcp: 1\n"} {
		if got := retransmits(none); got != 0 {
			t.Errorf("%d retransmits in %q", got, none)
		}
	}
}

// TestAccelNeverFallsBack asks for acceleration where there is no device, with
// a policy that would allow the kernel.
func TestAccelNeverFallsBack(t *testing.T) {
	t.Setenv("TPA_DEV", "")
	t.Setenv("TPA_FALLBACK", "auto")
	if tr, err := Open(Accel); err == nil {
		tr.Close()
		t.Error("accel opened without a device")
	}
	if _, err := Open("carrier pigeon"); err == nil || !strings.Contains(err.Error(), "want kernel or accel") {
		t.Errorf("an unknown transport: %v", err)
	}
}
