package main

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/gotpa/tpa/cmd/tpa-bench/internal/transport"
	"github.com/gotpa/tpa/cmd/tpa-bench/internal/veth"
)

// Links that compare can put between a server and a client.
const (
	linkMemif  = "memif"
	linkXDP    = "xdp"
	linkPacket = "packet"
)

var links = []string{linkMemif, linkXDP, linkPacket}

// Addresses of the two sides, from the block for benchmarks (RFC 2544).
var (
	serverIP = netip.MustParsePrefix("198.18.0.1/24")
	clientIP = netip.MustParsePrefix("198.18.0.2/24")
)

const serverPort = 6379

// A link is what lies between a server and a client.
type link interface {
	// listen is the address to listen on for a server of a transport.
	listen(transport string) string
	// server and client are the variables that configure the side's device.
	server() []string
	client() []string
	// serverNetns and clientNetns are the network namespaces of the two sides, nil
	// for that of this process.
	serverNetns() *os.File
	clientNetns() *os.File
	close()
}

// newLink makes a link with a number of queues and an MTU, 0 for the usual one.
func newLink(name string, queues, mtu int) (link, error) {
	if name != linkMemif {
		pair, err := veth.New(queues, mtu, serverIP, clientIP)
		if err != nil {
			return nil, err
		}
		return shared{pair, name}, nil
	}
	dir, err := os.MkdirTemp("", "tpa-bench-")
	if err != nil {
		return nil, err
	}
	return memif{dir}, nil
}

// chooseClient checks the name of a link, and returns the transport of the client
// in the rounds of accel. asked is empty for the default.
func chooseClient(link, asked string) (string, error) {
	if !slices.Contains(links, link) {
		return "", usageError{fmt.Errorf("unknown link %q: want one of %s", link, strings.Join(links, ", "))}
	}
	if asked != "" {
		if err := checkTransport(asked); err != nil {
			return "", err
		}
	}
	switch {
	case link == linkMemif && asked == transport.Kernel:
		return "", usageError{fmt.Errorf("--client %s: the kernel has no memif; want --link %s or %s", asked, linkXDP, linkPacket)}
	case link == linkMemif:
		return transport.Accel, nil
	case asked == "":
		return transport.Kernel, nil
	}
	return asked, nil
}

// environment returns that of this process, with the device of one side.
func environment(device []string) []string {
	return append(without(os.Environ(), "TPA_DEV", "TPA_ADDR", "TPA_GATEWAY", "TPA_CPUS"), device...)
}

// memif is loopback for the kernel, and for accel a memif pair with its socket in
// a directory.
type memif struct{ dir string }

func (m memif) listen(name string) string {
	if name == transport.Kernel {
		return "127.0.0.1:0"
	}
	return netip.AddrPortFrom(serverIP.Addr(), serverPort).String()
}

func (m memif) device(role string, addr netip.Prefix) []string {
	return []string{
		fmt.Sprintf("TPA_DEV=net_memif0,role=%s,socket=%s,socket-abstract=no", role, filepath.Join(m.dir, "memif.sock")),
		"TPA_ADDR=" + addr.String(),
	}
}

func (m memif) server() []string      { return m.device("server", serverIP) }
func (m memif) client() []string      { return m.device("client", clientIP) }
func (m memif) serverNetns() *os.File { return nil }
func (m memif) clientNetns() *os.File { return nil }
func (m memif) close()                { os.RemoveAll(m.dir) }

// shared is a veth pair with a namespace at each end, for both transports, where
// accel shares its end with the kernel in one of two ways: xdp or packet.
type shared struct {
	*veth.Pair
	by string
}

func (s shared) listen(string) string {
	return netip.AddrPortFrom(serverIP.Addr(), serverPort).String()
}

func (s shared) server() []string      { return []string{"TPA_DEV=" + s.by + ":" + veth.Interface} }
func (s shared) client() []string      { return s.server() }
func (s shared) serverNetns() *os.File { return s.First() }
func (s shared) clientNetns() *os.File { return s.Second() }
func (s shared) close()                { s.Close() }
