package guest

// knownFailures are cells that fail, and why. A cell that begins to pass fails the
// test, so that the list stays true.
var knownFailures = map[string]string{
	"6.12/vmxnet3/xdp": "vmxnet3 takes an MTU of 4000 while XDP runs, and then gives frames to the kernel in its place",
}

func known(c cell) string { return knownFailures[c.String()] }
