package fault

import (
	"math/rand/v2"
	"time"
)

// A fate is what is to happen to one frame.
type fate struct {
	drop, duplicate, reorder, corrupt, cut bool
	jitter                                 time.Duration
	// at is where a frame is corrupted or cut: a random number to take modulo its
	// length.
	at uint64
}

// fates decides on the frames of one direction of one queue. It belongs to the
// goroutine that moves them.
type fates struct {
	random *rand.Rand
	losing bool // within a run of losses
}

// newFates starts the stream of a queue. Streams of one seed have nothing in
// common.
func newFates(seed uint64, d direction, queue int) fates {
	return fates{random: rand.New(rand.NewPCG(seed, uint64(d)<<32|uint64(queue)))}
}

// next decides on the next frame. It draws the same amount of random numbers
// whatever the impairment is. gap tells that it is the first after a pause.
func (f *fates) next(i *Impairment, gap bool) fate {
	f.losing = f.losing && !gap
	drop, duplicate, reorder := f.random.Float64(), f.random.Float64(), f.random.Float64()
	corrupt, cut, jitter := f.random.Float64(), f.random.Float64(), f.random.Float64()
	return fate{
		drop:      f.lose(drop, i),
		duplicate: duplicate < i.Duplicate,
		reorder:   reorder < i.Reorder,
		corrupt:   corrupt < i.Corrupt,
		cut:       cut < i.Cut,
		jitter:    time.Duration(jitter * float64(i.Jitter)),
		at:        f.random.Uint64(),
	}
}

// lose draws from the Gilbert model: runs of losses end with probability
// 1/DropBurst at each frame, and begin so often that Drop is their share.
func (f *fates) lose(draw float64, i *Impairment) bool {
	if i.DropBurst == 0 || i.Drop == 0 || i.Drop == 1 {
		f.losing = false
		return draw < i.Drop
	}
	if f.losing {
		f.losing = draw >= 1/i.DropBurst
	} else {
		f.losing = draw < i.Drop/(1-i.Drop)/i.DropBurst
	}
	return f.losing
}
