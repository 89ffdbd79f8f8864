package sim

import "testing"

// corpus are seeds that failed once, with what they found.
var corpus = []uint64{
	85,   // a peer without the timestamps that were agreed is ignored by gVisor's TCP
	104,  // NAT that rebinds leaves a side alone, which ends without a FIN
	794,  // a closed connection behind such a NAT sends its FIN for a quarter of an hour
	1557, // two of them, in buffers whose sizes change
}

// TestCorpus runs the seeds that failed once. They mean the same as long as new
// random numbers come from a source of their own, see drawField.
func TestCorpus(t *testing.T) {
	share(t, corpus, func(seed uint64) outcome { return run(t, seed, draw(seed), converse) })
}
