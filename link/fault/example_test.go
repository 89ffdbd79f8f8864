package fault_test

import (
	"fmt"
	"log"
	"time"

	"github.com/gotpa/tpa/link"
	"github.com/gotpa/tpa/link/fault"
	"github.com/gotpa/tpa/link/softnic"
)

// A card whose cable loses one frame in ten, in runs of three. The same seed
// loses the same frames each time. In a test of a server, the wrapped device
// goes into accel.Config.Link.
func Example() {
	near, err := softnic.New(softnic.Config{})
	if err != nil {
		log.Fatal(err)
	}
	far, err := softnic.New(softnic.Config{})
	if err != nil {
		log.Fatal(err)
	}
	softnic.Connect(near, far)

	dev, err := fault.Wrap(near, fault.Config{
		Seed:     42,
		Transmit: fault.Impairment{Drop: 0.1, DropBurst: 3},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer dev.Close()

	for range 200 {
		q := dev.Queue(0)
		q.Reserve(60)
		q.Commit(60, link.TxOffload{})
		if _, err := q.Flush(); err != nil {
			log.Fatal(err)
		}
	}
	_, sent := dev.Counters()
	fmt.Printf("sent %d, lost %d, arrived %d\n", sent.Frames, sent.Dropped, far.Stats().RxPackets)

	// While it runs: the path becomes good, but long.
	if err := dev.SetTransmit(fault.Impairment{Delay: 40 * time.Millisecond}); err != nil {
		log.Fatal(err)
	}
	// Output: sent 200, lost 12, arrived 188
}
