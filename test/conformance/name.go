package conformance

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// Host names, which a name server of the probe's own resolves.

// The names end with a dot: no search list applies.
const (
	nameBoth    = "both.test."
	name4       = "four.test."
	name6       = "six.test."
	nameSecond  = "second.test." // its first address is the client's
	nameMissing = "missing.test."
)

// resolver is a resolver that knows the names above.
func resolver(e *Env) *net.Resolver {
	hosts := map[string][]string{
		nameBoth: {e.T.Server4, e.T.Server6}, name4: {e.T.Server4}, name6: {e.T.Server6},
		nameSecond: {e.T.Client4, e.T.Server4},
	}
	return &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		client, server := net.Pipe()
		go func() {
			defer server.Close()
			for answer(server, hosts) == nil {
			}
		}()
		return client, nil
	}}
}

// silent is a resolver that gets no answer.
func silent() *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}}
}

// answer answers a question, in the format of DNS over TCP (RFC 1035 section
// 4.2.2).
func answer(c net.Conn, hosts map[string][]string) error {
	var size [2]byte
	if _, err := io.ReadFull(c, size[:]); err != nil {
		return err
	}
	b := make([]byte, binary.BigEndian.Uint16(size[:]))
	if _, err := io.ReadFull(c, b); err != nil {
		return err
	}
	var m dnsmessage.Message
	if err := m.Unpack(b); err != nil {
		return err
	}
	if len(m.Questions) != 1 {
		return errors.New("want one question")
	}
	q := m.Questions[0]
	addrs, known := hosts[q.Name.String()]
	m = dnsmessage.Message{Header: dnsmessage.Header{ID: m.ID, Response: true, Authoritative: true}, Questions: m.Questions}
	if !known {
		m.RCode = dnsmessage.RCodeNameError
	}
	for _, a := range addrs {
		ip := netip.MustParseAddr(a)
		var body dnsmessage.ResourceBody
		switch {
		case ip.Is4() && q.Type == dnsmessage.TypeA:
			body = &dnsmessage.AResource{A: ip.As4()}
		case ip.Is6() && q.Type == dnsmessage.TypeAAAA:
			body = &dnsmessage.AAAAResource{AAAA: ip.As16()}
		default:
			continue
		}
		m.Answers = append(m.Answers, dnsmessage.Resource{
			Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: 1}, Body: body,
		})
	}
	b, err := m.Pack()
	if err != nil {
		return err
	}
	_, err = c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...))
	return err
}

// dialName connects and notes what came of it.
func dialName(e *Env, d net.Dialer, network, name, port string) {
	if d.Resolver == nil {
		d.Resolver = resolver(e)
	}
	c, err := e.DialWith(context.Background(), d, network, net.JoinHostPort(name, port))
	if err != nil {
		e.Note(network+" "+name, err)
		if dns, ok := errors.AsType[*net.DNSError](err); ok {
			e.Note("DNS error", dns.Name, dns.IsNotFound, dns.IsTimeout, dns.IsTemporary)
		}
		return
	}
	e.NamePort(c.LocalAddr(), "C")
	e.Note(network+" "+name, c.RemoteAddr())
}

// listenName listens on a network at all addresses.
func listenName(e *Env, network string) (port string) {
	ln, err := e.Listen(network, ":0")
	e.Must(err)
	e.NamePort(ln.Addr(), "L")
	_, port, _ = net.SplitHostPort(ln.Addr().String())
	return port
}

func lacksRace(t Transport) string {
	if t.Serial {
		return "dials that race"
	}
	return ""
}

var nameProbes = []Probe{
	{Name: "name/dial", Run: func(e *Env) {
		port := listenName(e, "tcp")
		for _, name := range []string{nameBoth, name4, name6, nameMissing} {
			for _, network := range []string{"tcp", "tcp4", "tcp6"} {
				dialName(e, net.Dialer{FallbackDelay: -1}, network, name, port)
			}
		}
	}},
	{Name: "name/of both IP versions", Lacks: lacksRace, Run: func(e *Env) {
		// Which is the first depends on the routes of this machine.
		port := listenName(e, "tcp")
		_, err := e.DialWith(context.Background(), net.Dialer{Resolver: resolver(e)}, "tcp", net.JoinHostPort(nameBoth, port))
		e.Note("dial", err)
	}},
	{Name: "name/of both IP versions, one served", Lacks: lacksRace, Run: func(e *Env) {
		for _, network := range []string{"tcp4", "tcp6"} {
			port := listenName(e, network)
			for _, delay := range []time.Duration{0, -1, 1} {
				dialName(e, net.Dialer{FallbackDelay: delay}, "tcp", nameBoth, port)
			}
		}
	}},
	{Name: "name/of both IP versions, none served", Lacks: lacksRace, Run: func(e *Env) {
		_, port, _ := net.SplitHostPort(e.Refused(e.T.Server4))
		for _, delay := range []time.Duration{0, -1, 1} {
			d := net.Dialer{FallbackDelay: delay, Resolver: resolver(e)}
			_, err := e.DialWith(context.Background(), d, "tcp", net.JoinHostPort(nameBoth, port))
			e.Note("dial", types(err), identity(err))
		}
	}},
	{Name: "name/the second address serves", Run: func(e *Env) {
		ln := e.Listener()
		_, port, _ := net.SplitHostPort(ln.Addr().String())
		dialName(e, net.Dialer{}, "tcp", nameSecond, port)
		_, port, _ = net.SplitHostPort(e.Refused(e.T.Server4))
		dialName(e, net.Dialer{}, "tcp", nameSecond, port)
	}},
	{Name: "name/from an address", Run: func(e *Env) {
		port := listenName(e, "tcp")
		for _, ip := range []string{e.T.Client4, e.T.Client6} {
			for _, name := range []string{nameBoth, name4} {
				dialName(e, net.Dialer{FallbackDelay: -1, LocalAddr: &net.TCPAddr{IP: net.ParseIP(ip)}}, "tcp", name, port)
			}
		}
	}},
	{Name: "name/service", Run: func(e *Env) {
		_, err := e.Dial("tcp", net.JoinHostPort(e.T.Server4, "https"))
		e.Note("dial", err)
	}},
	{Name: "name/cancelled while it is resolved", Run: func(e *Env) {
		ctx, cancel := context.WithCancel(context.Background())
		d := e.Go("dial", func() []any {
			_, err := e.DialWith(ctx, net.Dialer{Resolver: silent()}, "tcp", net.JoinHostPort(nameBoth, "80"))
			return []any{err}
		})
		d.Waits()
		cancel()
		d.Done()
	}},
	{Name: "name/no answer in time", Run: func(e *Env) {
		_, err := e.DialWith(context.Background(), net.Dialer{Resolver: silent(), Timeout: soon}, "tcp", net.JoinHostPort(nameBoth, "80"))
		e.Note("dial", err)
	}},
	{Name: "name/not a name", Run: func(e *Env) {
		for _, name := range []string{"a..b.", "-", "a b", "1.2.3", "256.1.1.1", "fe80::1%", "::1::"} {
			_, err := e.DialWith(context.Background(), net.Dialer{Resolver: resolver(e)}, "tcp", net.JoinHostPort(name, "80"))
			e.Note("dial "+name, err != nil, types(err))
		}
	}},
}
