package pool

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"time"
)

const (
	// firstDials may be in flight at once when demand comes up, and twice as many for each dialStep that the longest
	// waiter has waited. A burst of short queries is over before the second step; a pool that is needed fills in a few.
	firstDials = 2
	dialStep   = int64(100 * time.Millisecond)

	// After a dial that failed, the next begins no sooner than this after that one began, and twice as long after each
	// further failure, up to maxBackoff. A dead server sees a few attempts a second, and one that is back is found soon.
	// The time does not count from the end of a dial: lost ones end one after another, and each would put off the next.
	firstBackoff = 100 * time.Millisecond
	maxBackoff   = 500 * time.Millisecond

	// lostAfter is the age of a dial from which on it may be lost in the network, so that others may be tried beside it.
	lostAfter = time.Second

	// minDialTime is how long each dial has at least, however impatient the callers are.
	minDialTime = 10 * time.Second

	// outage is how long the pool bridges a server that does not answer. Callers that wait after it get the last error.
	outage = int64(20 * time.Second)
)

// dialling is how the pool opens resources, guarded by its lock. Dials run on goroutines of the pool: a caller takes
// whichever comes first, a resource that is returned or one that is opened.
type dialling[R any] struct {
	pool      *Pool[R]
	inFlight  []*dial[R] // oldest first
	connected bool       // a dial has succeeded once
	usual     int64      // how long the last successful dial took, in ns
	failures  int        // in a row
	failing   int64      // pool clock; when the first of them began
	notBefore int64      // pool clock; when the next dial may begin
	patience  int64      // how old the only dial in flight may grow where there is no slot for another
	silent    int64      // pool clock; start of the first dial without an answer while nothing was open; 0 for none
	err       error      // of the last dial that failed since one succeeded
	erredAt   int64      // pool clock
	down      error      // what every caller gets at once, after outage; nil while the pool bridges
	ids       uint64     // requests so far
	alarm     alarm
}

// dial is one in flight.
type dial[R any] struct {
	started  int64
	cancel   context.CancelFunc
	waiter   *waiter[R] // gets a permanent error; nil for MinOpen
	request  uint64     // of the waiter, which may serve another request by now
	replaced bool       // given up for another
}

// UnfinishedError says that a dial got no answer.
type UnfinishedError struct {
	For time.Duration
	Err error // how the dial was ended; nil while it goes on
}

func (e *UnfinishedError) Error() string {
	return fmt.Sprintf("connecting has not finished after %v", e.For.Round(time.Millisecond))
}

// Unwrap gives the error with which the dial was ended.
func (e *UnfinishedError) Unwrap() error { return e.Err }

// dialLocked begins the dials that waiters and MinOpen need.
func (d *dialling[R]) dialLocked(now int64) {
	p := d.pool
	if p.closed {
		return
	}
	if p.open > 0 {
		d.silent = 0
	}
	for {
		wanted, trying := d.dialsWantedLocked(), d.trying(now, d.lostTime())
		if wanted <= trying {
			break
		}
		if p.open+len(d.inFlight) >= p.limit {
			d.replaceLocked(now)
			break
		}
		if trying >= d.dialWindowLocked(now) || now < d.notBefore && (d.connected || d.callerLocked() == nil) {
			break
		}
		d.beginDialLocked(now)
	}
	d.armDialLocked(now)
}

// dialsWantedLocked is how many resources are missing.
func (d *dialling[R]) dialsWantedLocked() int {
	p := d.pool
	wanted := max(p.queue.Len(), p.cfg.MinOpen-p.open)
	if d.down != nil {
		wanted = max(wanted, 1) // probing goes on without waiters
	}
	return wanted
}

// dialWindowLocked is how many dials may be in flight.
func (d *dialling[R]) dialWindowLocked(now int64) int {
	p := d.pool
	if d.failures > 0 && d.connected {
		return 1
	}
	window := firstDials
	if w := p.queue.Oldest(); w != nil {
		window <<= min(max(now-w.Since, 0)/dialStep, 20)
	}
	if hold := p.queue.Hold(); hold > 0 && p.open > 0 {
		// Those that the open resources will not have served within a step.
		window = max(window, p.queue.Len()-int(int64(p.open)*dialStep/hold))
	}
	return window
}

// trying counts the dials that are not lost.
func (d *dialling[R]) trying(now, lost int64) int {
	n := 0
	for _, one := range d.inFlight {
		if now-one.started < lost {
			n++
		}
	}
	return n
}

// lostTime is the age from which on a dial may be lost, less where callers have so little patience that others have to
// be tried sooner, and more where dials are known to take longer.
func (d *dialling[R]) lostTime() int64 {
	p := d.pool
	if !d.connected {
		return math.MaxInt64 // it cannot tell lost from slow
	}
	lost := int64(lostAfter)
	if p.cfg.Timeout > 0 {
		lost = min(lost, max(int64(p.cfg.Timeout)/3, 2*int64(firstBackoff)))
	}
	return max(lost, 2*d.usual)
}

func (d *dialling[R]) beginDialLocked(now int64) {
	p := d.pool
	one := &dial[R]{started: now}
	base := p.ctx
	if w := d.callerLocked(); w != nil {
		w.Value.dialed = true
		if w.Value.id == 0 {
			d.ids++
			w.Value.id = d.ids
		}
		one.waiter, one.request = w, w.Value.id
		base = context.WithoutCancel(w.Value.ctx) // its values, for drivers and interceptors that read them
	}
	ctx, cancel := context.WithCancel(base)
	one.cancel = cancel
	if p.open == 0 && d.silent == 0 {
		d.silent = now
	}
	d.inFlight = append(d.inFlight, one)
	go d.dial(ctx, one) // ends with the driver's Connect, whose context ends in time and with the pool
}

// callerLocked is the waiter for which the next dial begins. In a pool that has never connected each has a dial of its
// own; in another the head of the queue hears of a permanent error, as the others may be served by what is open.
func (d *dialling[R]) callerLocked() *waiter[R] {
	if d.connected {
		return d.pool.queue.Oldest()
	}
	for w := range d.pool.queue.All() {
		if !w.Value.dialed {
			return w
		}
	}
	return nil
}

// replaceLocked gives up the newest of the dials that have taken the last slots without an answer. What they wait for may
// be lost with a network or a server that is back by now. Without this, holders that keep the others would leave a waiter
// to the end of a dial that never ends.
func (d *dialling[R]) replaceLocked(now int64) {
	p := d.pool
	if len(d.inFlight) == 0 || !d.connected || p.queue.Len() == 0 {
		return
	}
	newest := d.inFlight[len(d.inFlight)-1]
	enough := d.lostTime()
	if len(d.inFlight) == 1 {
		enough = max(enough, d.patience)
	}
	if newest.replaced || now-newest.started < enough {
		return
	}
	if len(d.inFlight) == 1 {
		d.patience = 2 * enough // a server that is slow gets longer each time
	}
	newest.replaced = true
	newest.cancel()
}

// armDialLocked has dialLocked run again when time alone changes its answer.
func (d *dialling[R]) armDialLocked(now int64) {
	p := d.pool
	next := int64(0)
	sooner := func(at int64) {
		if at > now && (next == 0 || at < next) {
			next = at
		}
	}
	lost := d.lostTime()
	if d.dialsWantedLocked() > d.trying(now, lost) {
		sooner(d.notBefore)
		failing := d.failures > 0 && d.connected
		if w := p.queue.Oldest(); w != nil && !failing && p.open+len(d.inFlight) < p.limit {
			sooner(now + dialStep - max(now-w.Since, 0)%dialStep)
		}
	}
	if d.connected && (p.queue.Len() > 0 || d.down != nil) {
		for _, one := range d.inFlight {
			sooner(one.started + max(lost, d.patience))
			sooner(one.started + lost)
		}
	}
	if d.silent != 0 && d.connected && d.down == nil && p.queue.Len() > 0 {
		sooner(d.silent + outage)
	}
	if next != 0 {
		d.alarm.setLocked(now, next)
	}
}

func (d *dialling[R]) dialAgain() {
	p := d.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.now()
	d.alarm.at = 0
	d.checkOutageLocked(now)
	d.dialLocked(now)
}

// checkOutageLocked ends the bridging of a server that has not answered for too long.
func (d *dialling[R]) checkOutageLocked(now int64) {
	p := d.pool
	if p.closed || !d.connected || p.open > 0 || d.silent == 0 || now-d.silent < outage {
		return
	}
	d.down = d.troubleLocked(true, d.silent, now)
	if d.down != nil {
		p.failLocked(d.down, func(*waiter[R]) bool { return true })
	}
}

// dial opens a resource on the pool's behalf.
func (d *dialling[R]) dial(ctx context.Context, one *dial[R]) {
	p := d.pool
	defer one.cancel()
	defer context.AfterFunc(p.ctx, one.cancel)()
	if p.cfg.Timeout > 0 {
		bounded, cancel := context.WithTimeout(ctx, max(p.cfg.Timeout, minDialTime))
		defer cancel()
		ctx = bounded
	}
	r, err := p.cfg.Open(ctx)
	now := p.now()
	if err != nil && ctx.Err() != nil {
		err = &UnfinishedError{For: time.Duration(now - one.started), Err: err}
	}

	p.mu.Lock()
	i := slices.Index(d.inFlight, one)
	d.inFlight = slices.Delete(d.inFlight, i, i+1)
	failing := d.failing
	if err != nil {
		d.dialFailedLocked(one, err, now)
		failing = d.failing
	} else {
		d.dialledLocked(r, one, now)
	}
	p.settleLocked(now)
	closed := p.closed
	p.mu.Unlock()

	since := time.Duration(0)
	if failing != 0 {
		since = time.Duration(now - failing)
	}
	switch {
	case err == nil && p.cfg.Events.Dialled != nil:
		p.cfg.Events.Dialled(time.Duration(now-one.started), since)
	case err != nil && !closed && p.cfg.Events.DialFailed != nil:
		p.cfg.Events.DialFailed(err, since)
	}
}

// dialledLocked adds a resource that was opened.
func (d *dialling[R]) dialledLocked(r R, one *dial[R], now int64) {
	p := d.pool
	d.connected, d.usual = true, now-one.started
	d.failures, d.failing, d.notBefore, d.patience, d.silent, d.err, d.down = 0, 0, 0, 0, 0, nil, nil
	s := &Slot[R]{Resource: r, pool: p, opened: p.era.Load(), answered: p.era.Load()}
	if life := int64(p.cfg.MaxLifetime); life > 0 {
		// Resources that were opened together must not all have to be replaced together.
		s.expires = now + life - rand.Int64N(life/10+1)
	}
	p.open++
	p.slots = append(p.slots, s)
	p.counts.Opened++
	if !p.keepLocked(s, now) {
		go p.close(s) // ends with the resource's Close
	}
	p.upkeep.armLocked(now)
}

// dialFailedLocked decides what a failed dial means to those who wait.
func (d *dialling[R]) dialFailedLocked(one *dial[R], err error, now int64) {
	p := d.pool
	if p.closed {
		return
	}
	p.counts.DialErrors++
	if d.failures == 0 {
		d.failing = max(one.started, 1)
	}
	d.failures++
	caller := one.waiter
	if caller != nil && (!caller.Queued() || caller.Value.id != one.request) {
		caller = nil
	}
	if one.replaced {
		d.checkOutageLocked(now)
		return // the next may begin at once: it has waited for long enough
	}
	d.err, d.erredAt = err, now
	// A dial that the pool ended lasted at least as long as its caller's wait, whose own error says more.
	_, unfinished := err.(*UnfinishedError)
	told := !unfinished && (!d.connected || !p.cfg.Retryable(err))
	if told && d.connected {
		d.failures = 1 // the server answers
	}
	backoff := min(firstBackoff<<min(d.failures-1, 8), maxBackoff)
	backoff -= rand.N(backoff / 5) // many services must not come in step
	d.notBefore = max(d.notBefore, one.started+int64(backoff))
	switch {
	case told && d.connected && p.open == 0:
		// Waiting cannot help: nothing will be returned, and the next dial would fail like this one.
		p.failLocked(err, func(*waiter[R]) bool { return true })
	case told && caller != nil:
		p.failLocked(err, func(w *waiter[R]) bool { return w == caller })
	}
	d.checkOutageLocked(now)
}

// troubleLocked is what a caller that has waited in vain since then is told about dials; nil if the pool was simply full.
func (d *dialling[R]) troubleLocked(room bool, since, now int64) error {
	if !room {
		return nil
	}
	trying := int64(0)
	if len(d.inFlight) > 0 {
		trying = d.inFlight[0].started
	}
	for _, began := range [...]int64{d.silent, d.failing} { // before it, dials may have been given up for others
		if d.err == nil && began != 0 && (trying == 0 || began < trying) {
			trying = began
		}
	}
	switch {
	case d.err != nil && (d.failures > 0 || d.erredAt >= since):
		return d.err
	case trying != 0:
		return &UnfinishedError{For: time.Duration(now - trying)}
	}
	return nil
}
