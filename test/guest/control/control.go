// Package control is what a test and the agent in its guest say to each other:
// JSON values, one answer for each request, in turns. Only test/guest imports it.
package control

import "time"

// Operations.
const (
	Run    = "run"    // a command until it ends
	Start  = "start"  // a command that goes on, until it has printed Until or ended
	Output = "output" // what the command Name has printed so far
	Stop   = "stop"   // send Signal to the command Name and wait for its end
	Load   = "load"   // put the kernel modules Args in, in this order
	Off    = "off"    // end the guest; there is no answer
)

// A Request asks for one operation.
type Request struct {
	Operation string
	Name      string   // of a started command
	Args      []string // the command, or files of modules
	Env       []string // in addition to the agent's
	Until     string
	Signal    int
	User      int           // who runs it, by number; 0 for root
	Timeout   time.Duration // then the command is killed (Run) or left alone
}

// A Response is the answer.
type Response struct {
	Output string // standard output and errors, together
	Code   int    // exit status, -1 for a command that has not ended or was killed
	Err    string // why the operation failed; an exit status is no failure
}
