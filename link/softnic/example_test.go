package softnic_test

import (
	"fmt"
	"log"

	"github.com/gotpa/tpa/link"
	"github.com/gotpa/tpa/link/softnic"
)

// Two cards on one cable: what one sends, the other receives on the queue that
// its rule names.
func Example() {
	a, err := softnic.New(softnic.Config{Name: "a"})
	if err != nil {
		log.Fatal(err)
	}
	b, err := softnic.New(softnic.Config{Name: "b", Queues: 4})
	if err != nil {
		log.Fatal(err)
	}
	softnic.Connect(a, b)
	if err := b.AddRule(softnic.Rule{Port: 6379, Queue: 3}); err != nil {
		log.Fatal(err)
	}

	syn := []byte{
		0x02, 0, 0, 0, 0, 2, 0x02, 0, 0, 0, 0, 1, 0x08, 0x00, // Ethernet
		0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, // IPv4
		0x9c, 0x40, 0x18, 0xeb, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0x02, 0, 0, 0, 0, 0, 0, // TCP from 40000 to 6379
	}
	tx := a.Queue(0)
	tx.Commit(copy(tx.Reserve(len(syn)), syn), link.TxOffload{})
	if _, err := tx.Flush(); err != nil {
		log.Fatal(err)
	}

	frames := make([]link.Frame, link.MaxBurst)
	for i := range b.Info().Queues {
		n, err := b.Queue(i).Receive(frames)
		if err != nil {
			log.Fatal(err)
		}
		for _, f := range frames[:n] {
			fmt.Printf("queue %d: %d bytes\n", i, len(f.Data))
		}
	}
	// Output: queue 3: 54 bytes
}
