package lifeguard

import "time"

const (
	// The janitor looks at the holds ten times per leak_threshold, and at least once a second.
	looksPerThreshold = 10
	maxTick           = time.Second
	minTick           = time.Millisecond

	// hurry is how soon the janitor looks for lost rows when somebody begins to wait; then the time doubles with each
	// look that finds nothing, up to a tick.
	hurry = 10 * time.Millisecond
)

// janitor finds connections that are held too long or for ever, and takes back those that may be. It is one goroutine
// per pool, and none without a leak_threshold. It rests while nothing is leased, and costs checkouts nothing otherwise.
type janitor struct {
	pool    *Pool
	tick    int64
	handler func(Leak)
	wake    chan struct{} // of capacity one

	asleep bool // guarded by Pool.mu: nothing is leased, the next checkout wakes it
	alert  bool // guarded by Pool.mu: it knows that somebody waits
	hungry bool // somebody waited on a full pool when it last looked

	leaks map[*lease]*heldLeak // reported, and not back yet
}

// watch is what the janitor knows about the present checkout of a lease.
type watch struct {
	checkout  uint64
	quietFrom int64 // pool clock; nothing was done since then, as far as can be seen
	leakAt    int64 // age at which the next report of a leak is due
	runningAt int64 // age at which the next report of a running operation is due
	leaked    bool  // it was reported as a leak
	ran       bool  // an operation was running when a report was due

	// The operation whose rows were lost, if the connection could not be taken back at once; 0 if there is none.
	lostQuery int
	origin    origin
}

// heldLeak is a leak that was reported.
type heldLeak struct {
	leak     Leak
	checkout uint64
}

func (p *Pool) startJanitor(handler func(Leak)) {
	if p.cfg.LeakThreshold <= 0 {
		return
	}
	tick := min(max(p.cfg.LeakThreshold/looksPerThreshold, minTick), maxTick)
	j := &janitor{pool: p, tick: int64(tick), handler: handler, wake: make(chan struct{}, 1), leaks: map[*lease]*heldLeak{}}
	p.mu.Lock()
	p.janitor = j
	p.mu.Unlock()
	go j.run() // ends with the pool
}

// wakeLocked is called when there is going to be a lease.
func (j *janitor) wakeLocked() {
	if j != nil && j.asleep {
		j.asleep = false
		j.ring()
	}
}

// alertLocked is called when somebody begins to wait.
func (j *janitor) alertLocked() {
	if j != nil && !j.alert {
		j.alert = true
		j.ring()
	}
}

func (j *janitor) ring() {
	select {
	case j.wake <- struct{}{}:
	default: // it has been rung already
	}
}

func (j *janitor) run() {
	p := j.pool
	timer := time.NewTimer(time.Duration(j.tick))
	defer timer.Stop()
	scanAt := p.now() + j.tick
	var pause int64 // between looks for lost rows; 0 while nobody waits
	for {
		select {
		case <-p.ctx.Done():
			return
		case <-j.wake:
		case <-timer.C:
		}
		now := p.now()
		found := j.collectLost(now) > 0
		if now >= scanAt {
			j.scan(now)
			scanAt = now + j.tick
		}
		waiting, full, rest := j.settle()
		j.hungry = waiting && full
		next := scanAt
		switch {
		case rest:
			timer.Stop()
			pause = 0
			continue
		case !waiting:
			pause = 0
		case found || pause == 0:
			pause = int64(hurry)
		case full && j.suspectsLost(now) && collections.request():
			pause = int64(hurry)
		default:
			pause = min(2*pause, j.tick)
		}
		if pause != 0 {
			next = min(next, now+pause)
		}
		timer.Reset(time.Duration(next - now))
	}
}

// settle says whether anybody waits, whether the pool is full, and whether there is nothing to watch until the next
// wakeLocked.
func (j *janitor) settle() (waiting, full, rest bool) {
	p := j.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	j.alert = p.queue.len > 0
	j.asleep = len(j.leaks) == 0 && p.out == 0
	return j.alert, p.places >= p.limit, j.asleep && !j.alert
}

// scan looks at every hold.
func (j *janitor) scan(now int64) {
	for _, s := range *j.pool.sessions.Load() {
		if l := s.lease.Load(); l != nil {
			j.look(l, now)
		}
	}
	for l, held := range j.leaks {
		word := l.state.word.Load()
		state := word & leaseStates
		if word/leaseCheckout == held.checkout && (state == leaseHeld || state == leaseBusy || state == leaseLocked) {
			continue
		}
		delete(j.leaks, l)
		j.tellReturned(held, now)
	}
}

// verdict is what is to be done about a hold.
type verdict int

const (
	letBe verdict = iota
	sayRunning
	sayLeaked
	reclaim
)

// look decides about one lease, which the holder may be using.
func (j *janitor) look(l *lease, now int64) {
	p := j.pool
	word, ok := l.state.lock()
	if !ok {
		return
	}
	w := &l.watch
	if w.checkout != word/leaseCheckout {
		*w = watch{checkout: word / leaseCheckout, quietFrom: l.hold.since,
			leakAt: int64(p.cfg.LeakThreshold), runningAt: int64(p.cfg.LeakThreshold)}
	}
	busy := word&leaseStates == leaseBusy
	if word&leaseTouched != 0 {
		w.quietFrom = now
		if !busy { // the end of what runs counts, too
			word &^= leaseTouched
		}
	}
	running := now - l.activityOf(word).began
	v := w.judge(j, now, now-l.hold.since, running, busy, word&leaseRaw != 0)
	if w.lostQuery != 0 && l.untouchedSince(word, w.lostQuery) && now-w.quietFrom >= w.patience(j) {
		v = reclaim
	}
	switch v {
	case letBe:
		l.state.unlock(word)
	case reclaim:
		snapshot := l.snapshotLocked(word)
		l.state.unlock(word - leaseHeld + leaseReclaimed)
		j.takeBack(l)
		leak := snapshot.leak(p, now)
		leak.Reclaimed = true
		if held := j.leaks[l]; held != nil && held.checkout == w.checkout {
			leak.Kind = held.leak.Kind
		}
		j.forget(l, w.checkout, now)
		j.tell(leak, false)
	default:
		again := w.leaked
		if v == sayLeaked {
			w.leaked = true
			l.leaked = w.checkout
		}
		snapshot := l.snapshotLocked(word)
		l.state.unlock(word)
		leak := snapshot.leak(p, now)
		if v == sayRunning {
			j.tellRunning(&leak.Holder)
			return
		}
		if again {
			if held := j.leaks[l]; held != nil && held.checkout == w.checkout {
				leak.Kind = held.leak.Kind
			}
		} else {
			p.counters.leaks.Add(1)
			j.span(&leak, now)
		}
		j.remember(l, leak, now)
		j.tell(leak, again)
	}
}

// judge is called with the lease locked, which is held for age, and began its last operation running ago.
func (w *watch) judge(j *janitor, now, age, running int64, busy, raw bool) verdict {
	p := j.pool
	due := age >= w.leakAt
	switch {
	case busy:
		// Slow, not forgotten.
		w.ran = w.ran || due
		if age >= w.runningAt && running >= j.tick { // not what has just begun
			w.runningAt = doubled(w.runningAt, age)
			return sayRunning
		}
	case w.leaked && p.reclaims && !raw && now-w.quietFrom >= int64(p.cfg.LeakReclaimAfter):
		return reclaim
	case due && w.ran:
		// What ran for so long has just ended: its holder gets the time of a look to go on.
		w.ran = false
	case due:
		w.leakAt = doubled(w.leakAt, age)
		return sayLeaked
	}
	return letBe
}

// lost notes that the present checkout was reported for its rows.
func (w *watch) lost(p *Pool, t *lostTicket, from origin, now, age int64) {
	if w.checkout != t.checkout {
		*w = watch{checkout: t.checkout, quietFrom: now, runningAt: int64(p.cfg.LeakThreshold)}
	}
	w.leaked = true
	w.leakAt = doubled(int64(p.cfg.LeakThreshold), age)
	if t.alone { // other rows may be read without being seen
		w.lostQuery, w.origin = t.operations, from
	}
}

// knows says whether the rows of the operation were found to be lost.
func (w *watch) knows(word uint64, operation int) bool {
	return w.checkout == word/leaseCheckout && w.lostQuery == operation
}

// patience is for how long a connection whose rows were lost has to lie unused until it is taken back from whoever may
// still have it. While nobody needs it, a holder of a sql.Conn gets as long as any gets before he is suspected.
func (w *watch) patience(j *janitor) int64 {
	if w.origin == fromConn && !j.hungry {
		return int64(j.pool.cfg.LeakThreshold)
	}
	return j.tick
}

// doubled is the first of period, twice period, four times period and so on that is beyond age.
func doubled(period, age int64) int64 {
	for period <= age {
		period *= 2
	}
	return period
}

// takeBack ends a lease that the janitor has just moved to leaseReclaimed, and so owns. The physical connection is
// closed: only so can the server be sure to forget what the holder did in it.
func (j *janitor) takeBack(l *lease) {
	s := l.session
	l.end()
	s.bad, s.statements = true, nil
	j.pool.counters.reclaimed.Add(1)
	if l.metrics != nil {
		l.metrics.returned(l.hold.ctx, j.pool.now()-l.hold.since)
	}
	// Ends with the driver's Close, which may have to wait for the network. The janitor must not.
	go func() {
		j.pool.discard(s)
		j.pool.exit(l.handle)
	}()
}

// remember notes a leak that was reported, so that its return is.
func (j *janitor) remember(l *lease, leak Leak, now int64) {
	checkout := l.watch.checkout
	j.forget(l, checkout, now)
	j.leaks[l] = &heldLeak{leak: leak, checkout: checkout}
}

// forget drops what was remembered of a checkout. If it is of an earlier one, that has been returned meanwhile.
func (j *janitor) forget(l *lease, checkout uint64, now int64) {
	held := j.leaks[l]
	delete(j.leaks, l)
	if held != nil && held.checkout != checkout {
		j.tellReturned(held, now)
	}
}

func (j *janitor) tellReturned(held *heldLeak, now int64) {
	leak := held.leak
	leak.Returned, leak.Busy, leak.Held = true, false, j.pool.timeOf(now).Sub(leak.Since)
	j.tell(leak, false)
}
