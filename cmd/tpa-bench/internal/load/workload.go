package load

import (
	"fmt"
	"strings"
)

// Workload is what the connections do.
type Workload struct {
	Name     string
	Protocol string // what the server must speak
	About    string

	payload  int  // default, bytes
	pipeline int  // default, requests
	fresh    bool // a new connection for each request
	duplex   bool // reads while it writes
	oneWay   bool // has no replies
}

const (
	smallPayload = 64       // bytes
	bulkPayload  = 16 << 10 // bytes
	bulkPipeline = 16       // requests
)

// Workloads lists all there are.
var Workloads = []Workload{
	{Name: "get", Protocol: "resp", payload: smallPayload, pipeline: 1,
		About: "GET of a value of --payload bytes, one key per connection"},
	{Name: "set", Protocol: "resp", payload: smallPayload, pipeline: 1,
		About: "SET of such a value"},
	{Name: "mixed", Protocol: "resp", payload: smallPayload, pipeline: 1,
		About: "one SET to ten GETs"},
	{Name: "rr", Protocol: "echo", payload: smallPayload, pipeline: 1,
		About: "request and response: --payload bytes there and back"},
	{Name: "crr", Protocol: "echo", payload: smallPayload, pipeline: 1, fresh: true,
		About: "connect, request, response, close: a new connection for each"},
	{Name: "read", Protocol: "resp", payload: bulkPayload, pipeline: bulkPipeline,
		About: "bulk from the server: GETs of large values, --pipeline of them under way"},
	{Name: "write", Protocol: "discard", payload: bulkPayload, pipeline: 1, oneWay: true,
		About: "bulk to the server: a request is one write of --payload bytes that the transport took; with --verify it wants --protocol digest"},
	{Name: "rw", Protocol: "echo", payload: bulkPayload, pipeline: bulkPipeline, duplex: true,
		About: "bulk both ways at once: --pipeline messages under way, read while others are written"},
}

// Find returns the workload of that name.
func Find(name string) (Workload, error) {
	var names []string
	for _, w := range Workloads {
		if w.Name == name {
			return w, nil
		}
		names = append(names, w.Name)
	}
	return Workload{}, fmt.Errorf("unknown workload %q: want one of %s", name, strings.Join(names, ", "))
}
