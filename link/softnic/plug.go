package softnic

import (
	"sync"
	"time"

	"github.com/gotpa/tpa/link"
)

// pluggedPause is how long a plugged card waits before it looks again at a queue
// that cannot say when there is something.
const pluggedPause = 50 * time.Microsecond

// Plug puts the card's cable into a queue of another device, such as an end of
// link/memory or of a memif pair: what the queue receives arrives at the card, and
// what the card sends leaves by the queue. So a stack at the far end of that
// device talks to one with several queues, in another process as well. The device
// must not promise checksums that are not in the frames. Its frames that find the
// queue full are lost, and counted in TxErrors.
//
// A goroutine drives the queue until unplug is called, which waits for it, or the
// queue is closed. Nobody else may use the queue meanwhile.
func (n *NIC) Plug(q link.Queue) (unplug func()) {
	p := &plug{nic: n, queue: q, done: make(chan struct{}), ended: make(chan struct{})}
	n.Attach(p.send)
	go p.receive()
	return func() {
		n.Attach(nil)
		p.once.Do(func() { close(p.done) })
		if w, ok := q.(link.Waiter); ok {
			w.Wake()
		}
		<-p.ended
	}
}

// plug is a queue with the card's cable in it.
type plug struct {
	nic         *NIC
	queue       link.Queue
	once        sync.Once
	done, ended chan struct{}
	mu          sync.Mutex // guards sending
}

// send is the card's wire.
func (p *plug) send(frame []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	b := p.queue.Reserve(len(frame))
	if b == nil {
		p.queue.Flush()
		if b = p.queue.Reserve(len(frame)); b == nil {
			p.nic.txErrors.Add(1)
			return
		}
	}
	p.queue.Commit(copy(b, frame), link.TxOffload{})
	p.queue.Flush()
}

func (p *plug) receive() {
	defer close(p.ended)
	frames := make([]link.Frame, link.MaxBurst)
	waiter, _ := p.queue.(link.Waiter)
	for {
		select {
		case <-p.done:
			return
		default:
		}
		n, err := p.queue.Receive(frames)
		if err != nil {
			return
		}
		for _, f := range frames[:n] {
			p.nic.Deliver(f.Data)
		}
		switch {
		case n > 0:
		case waiter != nil:
			waiter.Wait(time.Second)
		default:
			time.Sleep(pluggedPause)
		}
		p.mu.Lock()
		p.queue.Flush() // what found the queue full
		p.mu.Unlock()
	}
}
