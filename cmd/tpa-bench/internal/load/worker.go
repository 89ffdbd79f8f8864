package load

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gotpa/tpa/accel"
)

const (
	firstBuffer = 4 << 10   // bytes of a connection's read buffer at first
	lastBuffer  = 256 << 10 // bytes that it may grow to

	// maxLatency is the greatest latency a histogram tells apart, in ns.
	maxLatency = int64(10 * time.Minute)
	// maxNap is how long a connection sleeps before it looks whether the run is
	// over.
	maxNap = 100 * time.Millisecond
	// A lost connection is dialled again after a pause that doubles.
	firstPause = time.Millisecond
	lastPause  = 100 * time.Millisecond
)

// tally is what one goroutine counts.
type tally struct {
	requests   uint64 // answered while measuring
	errors     uint64
	unanswered uint64  // no reply in time after the end
	unsent     uint64  // due while measuring, never sent
	latency    sampler // ns
}

// worker is one connection, or one after the other. Its fields belong to its
// goroutine unless said otherwise.
type worker struct {
	run   *run
	index int
	codec codec
	pacer pacer

	in      []byte
	r, w    int // in[r:w] is unread
	out     []byte
	batch   []request
	got     int           // replies to the batch
	depth   int           // requests in a batch at most
	flights chan request  // duplex: requests under way, in order
	slots   chan struct{} // duplex: as many as may be under way

	timetable *timetable // of an open loop, else nil
	// last is when the last batch was answered, which is when the next is due in a
	// closed loop: one look at the clock for both. 0: not known.
	last int64

	tally
	late     sampler       // open loop: how late sleep woke, ns
	answered atomic.Uint64 // for the live line; read by others

	mu sync.Mutex
	// mu guards the following fields
	conn     net.Conn
	deadline time.Time // what new connections get, once the run is over
}

// dial connects and lets the run's end find the connection.
func (w *worker) dial(ctx context.Context) error {
	conn, err := w.run.Dial(ctx)
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.conn = conn
	w.r, w.w = 0, 0
	w.codec.reset()
	return conn.SetDeadline(w.deadline)
}

func (w *worker) hangUp() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.conn != nil {
		w.conn.Close()
		w.conn = nil
	}
}

// expire bounds everything that the connection still does. Any goroutine may
// call it.
func (w *worker) expire(t time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.deadline = t
	if w.conn != nil {
		w.conn.SetDeadline(t)
	}
}

// prepare stores the value that GETs will find.
func (w *worker) prepare() error {
	rc, ok := w.codec.(*redisCodec)
	if !ok {
		return nil
	}
	w.batch = w.batch[:1]
	w.out = rc.encodeSet(w.out[:0], &w.batch[0])
	if _, err := w.conn.Write(w.out); err != nil {
		return err
	}
	_, err := w.reply(&w.batch[0])
	return err
}

// work sends and receives until the run is over.
func (w *worker) work() {
	pause := firstPause
	for goesOn := true; goesOn; {
		var err error
		switch {
		case w.run.Workload.fresh:
			if goesOn = w.await(); goesOn {
				if err = w.dial(w.run.ctx); err != nil {
					w.lost(w.batch, err)
				} else {
					w.exchange()
					w.hangUp()
					w.last = 0 // closing is no part of the next request
				}
			}
		case w.conn == nil:
			if goesOn = !w.run.over(); goesOn {
				if err = w.dial(w.run.ctx); err != nil {
					w.lost(make([]request, 1), err)
				}
			}
		case w.run.duplex():
			goesOn = w.duplex()
		default:
			if goesOn = w.await(); goesOn && w.exchange() != nil {
				w.hangUp()
				w.last = 0
			}
		}
		if err == nil {
			pause = firstPause
			continue
		}
		accel.Detach(func() { time.Sleep(pause) })
		pause = min(2*pause, lastPause)
	}
	w.missed()
	if w.run.Workload.oneWay && w.conn != nil {
		w.drain()
	}
	w.hangUp()
	w.latency.flush()
	w.late.flush()
}

// await fills batch with the requests that are due, at least one, and says
// whether the run goes on.
func (w *worker) await() bool {
	w.batch = w.batch[:0]
	if w.timetable == nil {
		now := w.last
		if now == 0 {
			now = w.run.now()
		}
		if now >= w.run.to.Load() {
			return false
		}
		w.last = 0
		for len(w.batch) < w.depth {
			w.batch = append(w.batch, request{intended: now})
		}
		return true
	}
	slept := false
	now := w.run.now()
	for {
		if now >= w.run.to.Load() {
			return false
		}
		if now >= w.timetable.next {
			break
		}
		w.pacer.sleep(min(time.Duration(w.timetable.next-now), maxNap))
		slept = true
		now = w.run.now()
	}
	if slept {
		w.late.add(now - w.timetable.next)
	}
	for now >= w.timetable.next && len(w.batch) < w.depth {
		w.batch = append(w.batch, request{intended: w.timetable.next})
		w.timetable.advance()
	}
	return true
}

// missed counts the requests of an open loop that the run ended before.
func (w *worker) missed() {
	if w.timetable == nil {
		return
	}
	now := w.run.now()
	for to := w.run.to.Load(); w.timetable.next < to; w.timetable.advance() {
		if w.record(w.timetable.next, now) {
			w.unsent++
		}
	}
}

// exchange sends the batch and reads its replies. An error means that the
// connection is of no more use.
func (w *worker) exchange() error {
	w.encode()
	if _, err := w.conn.Write(w.out); err != nil {
		w.lost(w.batch, err)
		return err
	}
	if w.run.Workload.oneWay {
		w.written()
		return nil
	}
	for w.got = 0; w.got < len(w.batch); {
		if err := w.fill(w.conn.Read); err != nil {
			w.lost(w.batch[w.got:], err)
			return err
		}
		if err := w.take(); err != nil {
			return err
		}
	}
	return nil
}

// written counts a batch that has no replies.
func (w *worker) written() {
	now := w.run.now()
	for i := range w.batch {
		w.done(w.batch[i].intended, now)
	}
	w.answered.Add(uint64(len(w.batch)))
	w.last = now
}

// encode makes the batch's bytes.
func (w *worker) encode() {
	w.out = w.out[:0]
	for i := range w.batch {
		w.out = w.codec.encode(w.out, &w.batch[i])
	}
}

// take counts the replies that were read, as far as they are whole. An error means
// that the connection is of no more use.
func (w *worker) take() error {
	now := w.run.now()
	before := w.got
	for w.r < w.w && w.got < len(w.batch) {
		n, done, err := w.codec.decode(w.in[w.r:w.w], &w.batch[w.got])
		w.r += n
		if err != nil && !w.refused(err) {
			w.lost(w.batch[w.got:], err)
			return err
		}
		if !done {
			break
		}
		if err == nil {
			w.done(w.batch[w.got].intended, now)
		}
		w.got++
	}
	w.answered.Add(uint64(w.got - before))
	w.last = now
	if w.got == len(w.batch) && w.r != w.w {
		w.fail(1, errSurplus)
		return errSurplus
	}
	return nil
}

var errSurplus = errors.New("the server sent more than was asked for")

// duplex keeps requests under way with a second goroutine that reads the
// replies, until the connection breaks (true) or the run is over (false).
// Meanwhile the tally belongs to that goroutine.
func (w *worker) duplex() bool {
	w.flights = make(chan request, w.run.Pipeline)
	w.slots = make(chan struct{}, w.run.Pipeline)
	received := make(chan error, 1)
	go func() { received <- w.receive() }()
	var sent error
	for sent == nil {
		w.slots <- struct{}{}
		if !w.await() {
			break
		}
		r := &w.batch[0]
		w.out = w.codec.encode(w.out[:0], r)
		w.flights <- *r
		_, sent = w.conn.Write(w.out)
	}
	close(w.flights)
	if sent != nil {
		w.conn.Close() // so that receive ends too
	}
	err := <-received
	if err == nil && sent == nil {
		return false
	}
	w.hangUp()
	return !w.run.over()
}

// receive reads the replies to all that goes through flights. After an error it
// takes what is left, so that the sender never waits for it.
func (w *worker) receive() (broken error) {
	for r := range w.flights {
		ok := false
		if broken == nil {
			if ok, broken = w.reply(&r); broken != nil {
				w.conn.Close() // so that the sender ends too
			}
		}
		switch {
		case broken != nil:
			w.lost([]request{r}, broken)
		case ok:
			w.done(r.intended, w.run.now())
			w.answered.Add(1)
		}
		<-w.slots
	}
	return broken
}

// reply reads one whole reply. ok is false for a refusal.
func (w *worker) reply(r *request) (ok bool, err error) {
	for {
		n, done, err := w.codec.decode(w.in[w.r:w.w], r)
		w.r += n
		switch {
		case err != nil && !w.refused(err):
			return false, err
		case done:
			return err == nil, nil
		}
		if err := w.fill(w.conn.Read); err != nil {
			return false, err
		}
	}
}

// drain makes sure that the server took everything.
func (w *worker) drain() {
	half, ok := w.conn.(interface{ CloseWrite() error })
	if !ok {
		return
	}
	err := half.CloseWrite()
	var got []byte
	if err == nil {
		got, err = io.ReadAll(io.LimitReader(w.conn, maxAnswer))
	}
	if sc := w.codec.(*streamCodec); err == nil && sc.digest != nil && !bytes.Equal(got, sc.digest.Sum(nil)) {
		err = errDigest
	}
	if err != nil {
		w.lost([]request{{intended: w.run.to.Load()}}, err)
	}
}

// maxAnswer is more than a server answers to a stream without replies: a digest.
const maxAnswer = 1 << 10 // bytes

var errDigest = errors.New("the server did not read what was written: its digest is another one")

// fill reads once into the buffer.
func (w *worker) fill(read func([]byte) (int, error)) error {
	if w.r == w.w {
		w.r, w.w = 0, 0
	} else if w.r > 0 && w.w == len(w.in) {
		w.w = copy(w.in, w.in[w.r:w.w])
		w.r = 0
	}
	if w.w == len(w.in) { // full of a line that has no end
		w.in = append(w.in, make([]byte, len(w.in))...)
	}
	n, err := read(w.in[w.w:])
	w.w += n
	if n == 0 {
		if err == io.EOF {
			return errLeft
		}
		return err
	}
	if n == len(w.in) && n < lastBuffer {
		w.in = append(w.in, make([]byte, n)...)
	}
	return nil
}

var errLeft = errors.New("the server closed the connection")

// done counts a request that was answered.
func (w *worker) done(intended, now int64) {
	if now >= w.run.from.Load() && now < w.run.to.Load() {
		w.requests++
	}
	w.record(intended, now)
}

// record counts the latency of a request that was due while measuring.
func (w *worker) record(intended, now int64) bool {
	if intended < w.run.from.Load() || intended >= w.run.to.Load() {
		return false
	}
	w.latency.add(now - intended)
	return true
}

// lost counts requests that will not be answered, with the age that they have
// reached. Running out of time after the end is told apart from errors.
func (w *worker) lost(batch []request, err error) {
	now := w.run.now()
	for _, r := range batch {
		w.record(r.intended, now)
	}
	if errors.Is(err, os.ErrDeadlineExceeded) || w.run.ctx.Err() != nil {
		w.unanswered += uint64(len(batch))
		return
	}
	w.fail(uint64(len(batch)), err)
}

// refused counts an error reply, if that is what err is.
func (w *worker) refused(err error) bool {
	var r refusal
	if !errors.As(err, &r) {
		return false
	}
	w.fail(1, err)
	return true
}

func (w *worker) fail(n uint64, err error) {
	w.errors += n
	w.run.failed(n, err)
}
