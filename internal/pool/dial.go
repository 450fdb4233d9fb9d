package pool

import (
	"context"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/go-lifeguard/lifeguard/internal/alarm"
	"github.com/go-lifeguard/lifeguard/internal/pace"
)

// minDialTime is how long each dial has at least, however impatient the callers are.
const minDialTime = 10 * time.Second

// dialling is how the pool opens resources, guarded by its lock. Dials run on goroutines of the pool: a caller takes
// whichever comes first, a resource that is returned or one that is opened.
type dialling[R any] struct {
	pool     *Pool[R]
	pace     pace.Pace
	inFlight []*dial[R] // oldest first
	patience int64      // how old the only dial in flight may grow where there is no slot for another
	down     error      // what every caller gets at once after an outage; nil while the pool bridges
	ids      uint64     // requests so far
	missing  int        // dials that would begin if the budget had tokens for them
	lookAt   int64      // pool clock; when leases that are in transit will lie idle
	alarm    alarm.Alarm
}

// dial is one in flight.
type dial[R any] struct {
	started  int64
	cancel   context.CancelFunc
	waiter   *waiter[R] // gets a permanent error; nil for MinOpen
	request  uint64     // of the waiter, which may serve another request by now
	replaced bool       // given up for another
	token    int        // of the budget
}

// dialLocked begins the dials that waiters and MinOpen need.
func (d *dialling[R]) dialLocked(now int64) {
	p := d.pool
	if p.closed {
		return
	}
	if p.open > 0 {
		d.pace.Open()
	}
	d.missing = 0
	for {
		wanted, trying := d.dialsWantedLocked(), d.trying(now, d.lostTime())
		if wanted <= trying || now < d.lookAt && p.queue.Len() > 0 { // then dialAgain looks
			break
		}
		if p.open+len(d.inFlight) >= p.limit {
			d.replaceLocked(now)
			break
		}
		window := d.dialWindowLocked(now)
		if trying >= window || now < d.pace.NotBefore() && (d.pace.Connected() || d.callerLocked() == nil) {
			break
		}
		missing := min(min(wanted, window)-trying, p.limit-p.open-len(d.inFlight))
		token, ok := p.cfg.Budget.Take(missing)
		if !ok {
			d.missing = missing
			d.replaceLocked(now)
			break
		}
		d.beginDialLocked(now, token)
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
	p, longest := d.pool, int64(0)
	if w := p.queue.Oldest(); w != nil {
		longest = now - w.Since
	}
	return d.pace.Window(p.queue.Len(), longest, p.open, p.queue.Hold())
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

func (d *dialling[R]) lostTime() int64 { return d.pace.Lost(d.pool.cfg.Timeout) }

func (d *dialling[R]) beginDialLocked(now int64, token int) {
	p := d.pool
	one := &dial[R]{started: now, token: token}
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
	if p.open == 0 {
		d.pace.Began(now)
	}
	d.inFlight = append(d.inFlight, one)
	go d.dial(ctx, one) // ends with the driver's Connect, whose context ends in time and with the pool
}

// callerLocked is the waiter for which the next dial begins. In a pool that has never connected each has a dial of its
// own; in another the head of the queue hears of a permanent error, as the others may be served by what is open.
func (d *dialling[R]) callerLocked() *waiter[R] {
	if d.pace.Connected() {
		return d.pool.queue.Oldest()
	}
	for w := range d.pool.queue.All() {
		if !w.Value.dialed {
			return w
		}
	}
	return nil
}

// replaceLocked gives up the newest of the dials that have taken the last slots, or the last tokens, without an answer. What
// they wait for may be lost with a network or a server that is back by now. Without this, holders that keep the others would
// leave a waiter to the end of a dial that never ends.
func (d *dialling[R]) replaceLocked(now int64) {
	p := d.pool
	if len(d.inFlight) == 0 || !d.pace.Connected() || p.queue.Len() == 0 {
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
		sooner(d.pace.NotBefore())
		if w := p.queue.Oldest(); w != nil && !d.pace.OneByOne() && p.open+len(d.inFlight) < p.limit {
			sooner(now + pace.Step - max(now-w.Since, 0)%pace.Step)
		}
	}
	if d.pace.Connected() && (p.queue.Len() > 0 || d.down != nil) {
		for _, one := range d.inFlight {
			sooner(one.started + max(lost, d.patience))
			sooner(one.started + lost)
		}
	}
	if d.down == nil && p.queue.Len() > 0 {
		sooner(d.pace.Outage())
	}
	if p.queue.Len() > 0 {
		sooner(d.lookAt)
	}
	if next != 0 {
		d.alarm.Set(now, next)
	}
}

func (d *dialling[R]) dialAgain() {
	p := d.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.now()
	d.alarm.Rang()
	for w := p.queue.Oldest(); w != nil; w = p.queue.Oldest() {
		s := p.takeLeaseLocked(now, w.Value.client)
		if s == nil {
			break
		}
		if !p.keepLocked(s, now) {
			go p.close(s) // ends with the resource's Close
		}
	}
	d.checkOutageLocked(now)
	d.dialLocked(now)
}

// checkOutageLocked ends the bridging of a server that has not answered for too long.
func (d *dialling[R]) checkOutageLocked(now int64) {
	p := d.pool
	at := d.pace.Outage()
	if p.closed || p.open > 0 || at == 0 || now < at {
		return
	}
	if d.down = d.pace.Down(d.oldest(), now); d.down != nil {
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
	r, err := p.cfg.Budget.Open(ctx, one.token)
	now := p.now()
	if err != nil && ctx.Err() != nil {
		err = &pace.UnfinishedError{For: time.Duration(now - one.started), Err: err}
	}

	p.mu.Lock()
	i := slices.Index(d.inFlight, one)
	d.inFlight = slices.Delete(d.inFlight, i, i+1)
	failing := d.pace.Failing()
	if err != nil {
		p.cfg.Budget.Return(one.token)
		d.dialFailedLocked(one, err, now)
		failing = d.pace.Failing()
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
	d.pace.Succeeded(now - one.started)
	d.patience, d.down = 0, nil
	p.counts.Opened++
	s := &Slot[R]{Resource: r, token: one.token, pool: p, serial: p.counts.Opened, born: now, idleAt: now, opened: p.eras.Now(), answered: p.eras.Now()}
	if life := int64(p.cfg.MaxLifetime); life > 0 {
		// Resources that were opened together must not all have to be replaced together.
		s.expires = now + life - rand.Int64N(life/10+1)
	}
	p.open++
	p.slots = append(p.slots, s)
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
	caller := one.waiter
	if caller != nil && (!caller.Queued() || caller.Value.id != one.request) {
		caller = nil
	}
	if one.replaced {
		d.pace.GaveUp(one.started, err)
		d.checkOutageLocked(now)
		return
	}
	// A dial that the pool ended lasted at least as long as its caller's wait, whose own error says more.
	_, unfinished := err.(*pace.UnfinishedError)
	connected := d.pace.Connected()
	told := !unfinished && (!connected || !p.cfg.Retryable(err))
	d.pace.Failed(err, one.started, now, told && connected)
	switch {
	case told && connected && p.open == 0:
		// Waiting cannot help: nothing will be returned, and the next dial would fail like this one.
		p.failLocked(err, func(*waiter[R]) bool { return true })
	case told && caller != nil:
		p.failLocked(err, func(w *waiter[R]) bool { return w == caller })
	}
	d.checkOutageLocked(now)
}

// oldest is when the oldest dial in flight began; 0 if there is none.
func (d *dialling[R]) oldest() int64 {
	if len(d.inFlight) == 0 {
		return 0
	}
	return d.inFlight[0].started
}
