package fault

import "sync/atomic"

// Counters tell what happened to the frames of one direction since Wrap.
type Counters struct {
	// Frames counts those that met an impairment, lost ones included. The fields
	// below count what became of them; one frame may count in several.
	Frames uint64
	// Dropped were lost on purpose, Overflowed because Backlog frames waited.
	Dropped, Overflowed uint64
	// Duplicated arrived twice, Reordered were held back, Delayed waited for any
	// reason.
	Duplicated, Reordered, Delayed uint64
	// Corrupted had a bit flipped, Cut lost their end.
	Corrupted, Cut uint64
	// Waiting is how many wait now.
	Waiting int
}

type counters struct {
	frames, dropped, overflowed, duplicated, reordered, delayed, corrupted, cut atomic.Uint64
}

func (c *counters) load(waiting int) Counters {
	return Counters{
		Frames: c.frames.Load(), Dropped: c.dropped.Load(), Overflowed: c.overflowed.Load(),
		Duplicated: c.duplicated.Load(), Reordered: c.reordered.Load(), Delayed: c.delayed.Load(),
		Corrupted: c.corrupted.Load(), Cut: c.cut.Load(), Waiting: waiting,
	}
}
