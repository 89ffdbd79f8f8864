package limits

import (
	"net/netip"
	"slices"
	"sync/atomic"
	"time"
)

const (
	// censusEvery is the shortest time between two counts, and calmEvery the time
	// while all is far from its limit.
	censusEvery = 100 * time.Millisecond
	calmEvery   = time.Second
	// censusShare is the part of one processor that counting may take: with many
	// connections counts come less often.
	censusShare = 50
	// shortFor is how long memory may be short before connections are reset.
	shortFor = time.Second
)

// A Budget keeps the limits that all shards of a runtime share. It counts
// connections and what they hold ten times a second while there is traffic.
type Budget struct {
	limits   atomic.Pointer[Limits] // with defaults
	accounts atomic.Pointer[[]*Account]
	// sources are those that may connect, none for all.
	sources atomic.Pointer[[]netip.Prefix]

	// closed is set while memory is short: no connection comes in.
	closed atomic.Bool
	// urgent asks for a census as soon as may be.
	urgent    atomic.Bool
	shielding shielding

	// The following fields belong to Keep.
	frames uint64 // received until the last census
	last   time.Time
	took   time.Duration
	tight  bool // something is near its limit
	// shortSince is since when memory is short, zero while it is not.
	shortSince time.Time
}

// NewBudget returns a budget for shards that are made with it. sources are those that may
// connect, none for all.
func NewBudget(l Limits, sources []netip.Prefix) *Budget {
	b := &Budget{}
	b.SetSources(sources)
	b.accounts.Store(new([]*Account))
	b.SetLimits(l)
	return b
}

// SetSources changes who may connect.
func (b *Budget) SetSources(sources []netip.Prefix) {
	sources = slices.Clone(sources)
	b.sources.Store(&sources)
}

// Open opens the account of a shard, one at a time. buffers are TCP's settings.
func (b *Budget) Open(s Shard, o Settings) *Account {
	a := &Account{shard: s, budget: b, settings: o, counters: s.Counters()}
	a.resets.setRate(int64(b.Limits().Resets))
	a.census.Store(new(Census))
	a.setBuffers(false)
	accounts := append(slices.Clip(*b.accounts.Load()), a)
	if c := accounts[0].shard.Cookies(); c != nil {
		s.ShareCookies(c)
	}
	b.accounts.Store(&accounts)
	return a
}

// Limits returns the limits, defaults filled in.
func (b *Budget) Limits() Limits { return *b.limits.Load() }

// SetLimits changes the limits. Any goroutine may call it, one at a time. What is
// beyond new ones is dealt with at the next census.
func (b *Budget) SetLimits(l Limits) {
	l = l.WithDefaults()
	b.limits.Store(&l)
	for _, a := range *b.accounts.Load() {
		a.resets.setRate(int64(l.Resets))
	}
	b.urgent.Store(true)
}

// Full tells whether there may be no further connection.
func (b *Budget) Full() bool {
	n := 0
	for _, a := range *b.accounts.Load() {
		n += a.connections()
	}
	if n < b.limits.Load().Connections {
		return false
	}
	b.urgent.Store(true) // some may be in TIME-WAIT meanwhile
	return true
}

// MaxConnections is Limits.Connections as it is now.
func (a *Account) MaxConnections() int { return a.budget.limits.Load().Connections }

// connections is how many of Limits.Connections the shard uses.
func (a *Account) connections() int {
	return int(a.counters.CurrentConnected.Value()) - int(a.timeWait.Load()) + a.halfOpen()
}

// Keep keeps the limits until stop is closed. One goroutine runs it.
func (b *Budget) Keep(stop <-chan struct{}) {
	tick := time.NewTicker(censusEvery)
	defer tick.Stop()
	defer b.shielding.rest()
	for {
		select {
		case <-stop:
			return
		case now := <-tick.C:
			b.keep(now)
			b.tendShield(now)
		}
	}
}

// keep counts if it is time to.
func (b *Budget) keep(now time.Time) {
	frames := uint64(0)
	for _, a := range *b.accounts.Load() {
		frames += a.shard.Received()
	}
	since, pressed := now.Sub(b.last), b.tight || b.urgent.Load()
	pause := b.took * censusShare
	if pressed {
		// What made the last count slow may be what it is to stop.
		pause = min(pause, calmEvery)
	}
	if since < pause || !pressed && (frames == b.frames || since < calmEvery) {
		return
	}
	b.frames, b.last = frames, now
	b.urgent.Store(false)
	start := time.Now()
	b.count()
	b.took = time.Since(start)
}

// count takes a census of all shards and does what the limits ask for.
func (b *Budget) count() {
	var bytes int64
	b.tight = false
	limits := b.limits.Load()
	accounts := *b.accounts.Load()
	all := make([][]holder, len(accounts))
	for i, a := range accounts {
		var c Census
		c, all[i] = a.count()
		bytes += c.ReceiveBytes + c.SendBytes
		if c.HalfOpen > limits.HalfOpen/4 || a.cookies.Load() {
			b.tight = true
		}
	}
	short := bytes > limits.Memory/4*3
	if b.closed.Load() {
		short = bytes > limits.Memory/2
	}
	b.tight = b.tight || short || bytes > limits.Memory/8
	if was := b.closed.Swap(short); was != short {
		for _, a := range accounts {
			a.squeeze(short)
		}
	}
	for i, a := range accounts {
		a.resetExcess(all[i])
		if short {
			a.cutBuffers(all[i])
		}
	}
	if !short {
		b.shortSince = time.Time{}
	} else if b.shortSince.IsZero() {
		b.shortSince = b.last
	}
	// Who holds much and gives nothing back must not shut the others out.
	if bytes > limits.Memory || short && b.last.Sub(b.shortSince) >= shortFor {
		b.resetLargest(slices.Concat(all...), bytes-limits.Memory/2)
	}
}

// resetLargest resets the connections that hold most until they have given up so
// many bytes.
func (b *Budget) resetLargest(holders []holder, bytes int64) {
	sortLargestFirst(holders)
	for _, h := range holders {
		if bytes <= 0 || h.bytes == 0 {
			return
		}
		bytes -= int64(h.bytes)
		h.conn.Abort()
		h.account.resetMemory.Add(1)
	}
}
