// Package testnet builds small networks for tests: hosts that are network
// namespaces, joined by veth pairs, all on this machine.
//
//	n := testnet.New(t)
//	client, server := n.Host("client"), n.Host("server")
//	ci, si := n.Connect(client, server, testnet.Wire{Queues: 2})
//	server.Do(func() { ln, err = net.Listen("tcp", si.IPv4.Addr().String()+":80") })
//	out, err := client.Command("curl", "http://"+si.IPv4.Addr().String()).Output()
//
// The namespaces have no name outside the test process. They, and the
// interfaces in them, go when the test ends, and when its process is killed.
// Nothing in the machine's own namespace is touched.
//
// A test says first what it needs of the machine, see Need.
package testnet
