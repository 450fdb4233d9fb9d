package leak

import (
	"runtime/debug"
	"slices"
	"sync/atomic"
	"time"
)

// hurry is the first pause between looks for lost rows while somebody waits. It doubles when nothing is found, up to a tick.
const hurry = int64(10 * time.Millisecond)

// Config is what a Janitor needs to know of its pool. All functions are required, except Panicked.
type Config struct {
	Threshold    time.Duration // a checkout held for longer is reported; 0: there is no janitor
	ReclaimAfter time.Duration // a leak that lies unused for so long is taken back; 0: never

	Now    func() int64                 // the pool clock, in nanoseconds
	Leases func(yield func(Lease) bool) // all leases, held or not; yield takes their own locks

	// Waiting says whether anybody waits, whether the pool has no slot left, and whether any lease is held. It must see
	// all that happened before a call of Wake or Alert.
	Waiting func() (waiting, full, leased bool)

	// Owned says whether the stack of a checkout proves that its connection was taken for one result alone.
	Owned func(stack []uintptr) bool

	Tell     func(Report)                  // called by the janitor's goroutine alone, which looks at nothing else meanwhile
	Panicked func(value any, stack []byte) // gets the panics of Tell; its own are dropped
	Done     <-chan struct{}               // closed when the pool ends
}

// Janitor looks after the checkouts of one pool. Its one goroutine rests while nothing is leased, without a timer.
type Janitor struct {
	cfg    Config
	tick   int64 // between scans: a tenth of the threshold, at most a second
	lost   *lostList
	gc     *collections
	wake   chan struct{} // of capacity one
	asleep atomic.Bool   // no timer is armed; the next Wake rings
	alert  atomic.Bool   // it is known that somebody waits

	leaks, lostRows, lostLater, reclaimed atomic.Uint64
	// The janitor's goroutine alone uses these.
	watches map[Lease]*watch
	reports []Report // not told yet
	scanAt  int64    // pool clock; 0 after a rest
	pause   int64    // until the next look for lost rows; 0 while nobody waits
}

// New starts a janitor, which ends with cfg.Done. It is nil without a threshold; all methods of a nil Janitor do nothing.
func New(cfg Config) *Janitor {
	if cfg.Threshold <= 0 {
		return nil
	}
	j := &Janitor{
		cfg: cfg, tick: int64(min(max(cfg.Threshold/10, time.Millisecond), time.Second)),
		lost: &lostList{}, gc: &process, wake: make(chan struct{}, 1), watches: map[Lease]*watch{},
	}
	j.asleep.Store(true)
	go j.run() // ends with cfg.Done
	return j
}

// Wake is called after a lease became held. It never blocks, and may be called under any lock.
func (j *Janitor) Wake() {
	if j != nil && j.asleep.Load() && j.asleep.CompareAndSwap(true, false) {
		j.ring()
	}
}

// Alert is called after somebody began to wait. It never blocks, and may be called under any lock.
func (j *Janitor) Alert() {
	if j != nil && !j.alert.Load() && j.alert.CompareAndSwap(false, true) {
		j.ring()
	}
}

func (j *Janitor) ring() {
	select {
	case j.wake <- struct{}{}:
	default: // it has been rung already
	}
}

// Counts are totals: checkouts held too long, results lost, connections taken back. lostLater is how many of the results
// had their checkout reported before, so leaks + lostRows - lostLater counts each checkout once.
func (j *Janitor) Counts() (leaks, lostRows, lostLater, reclaimed uint64) {
	if j == nil {
		return 0, 0, 0, 0
	}
	lostLater = j.lostLater.Load() // before lostRows, so that the difference is never negative
	return j.leaks.Load(), j.lostRows.Load(), lostLater, j.reclaimed.Load()
}

func (j *Janitor) run() {
	ended := false
	defer func() {
		if !ended { // Tell called runtime.Goexit, as t.FailNow does: without this, the pool would lose its janitor
			go j.run()
		}
	}()
	timer := time.NewTimer(time.Hour) // set anew at once
	for {
		if next := j.look(); next > 0 {
			timer.Reset(time.Duration(next))
		} else {
			timer.Stop()
		}
		select {
		case <-j.cfg.Done:
			ended = true
			return
		case <-j.wake:
		case <-timer.C:
		}
	}
}

// look does what is due, and says how long the next look can wait; 0 is until Wake.
func (j *Janitor) look() int64 {
	if j.asleep.Load() {
		return 0 // rung by Alert: while nothing is held, nothing can be found
	}
	now := j.cfg.Now()
	found := j.collectLost(now)
	// A rest begins only after a scan, and the first scan comes a tick after a rest. Otherwise short checkouts, one after
	// another, would each wake the janitor.
	if j.scanAt == 0 {
		j.scanAt = now + j.tick
	}
	scanned := now >= j.scanAt
	if scanned {
		j.scan(now)
		j.scanAt = now + j.tick
	}
	j.tell()
	now = j.cfg.Now()
	waiting, full, rest := j.settle(scanned)
	switch {
	case rest:
		j.scanAt, j.pause = 0, 0
		return 0
	case !waiting:
		j.pause = 0
		return max(j.scanAt-now, 1)
	case found, j.pause == 0, full && j.suspectsLost(now) && j.gc.request():
		j.pause = hurry
	default:
		j.pause = min(2*j.pause, j.tick)
	}
	return max(min(j.scanAt-now, j.pause), 1)
}

// settle says whether anybody waits, whether the pool is full, and whether the janitor rests now. It changes the flags
// before the last reading. A caller reads a flag after it waits or holds a lease. So one of the two sees the other.
func (j *Janitor) settle(scanned bool) (waiting, full, rest bool) {
	waiting, full, leased := j.cfg.Waiting()
	rest = scanned && !leased && len(j.watches) == 0
	j.alert.Store(waiting)
	j.asleep.Store(rest)
	if rest || !waiting {
		waiting, full, leased = j.cfg.Waiting()
	}
	if rest && leased {
		rest = false
		j.asleep.Store(false) // never true here: Wake may have been called, and have rung
	}
	return waiting, full, rest
}

// tell hands out the reports. They were collected first, because Tell may use the pool.
func (j *Janitor) tell() {
	for len(j.reports) > 0 {
		r := j.reports[0]
		j.reports = slices.Delete(j.reports, 0, 1) // first: Tell may not return
		j.tellOne(r)
	}
}

func (j *Janitor) tellOne(r Report) {
	defer func() {
		if v := recover(); v != nil && j.cfg.Panicked != nil {
			defer func() { _ = recover() }() // a logger that panics is met here for the second time
			j.cfg.Panicked(v, debug.Stack())
		}
	}()
	j.cfg.Tell(r)
}
