package handle

import (
	"context"
	"database/sql/driver"
	"time"

	"github.com/go-lifeguard/lifeguard/internal/leak"
	"github.com/go-lifeguard/lifeguard/internal/observe"
	"github.com/go-lifeguard/lifeguard/internal/pool"
	"github.com/go-lifeguard/lifeguard/internal/session"
)

type slot = pool.Slot[*session.Session]

// lease is the handle's driver.Conn: the right to one session until the pool wants it back.
type lease struct {
	record
	conn *Connector
	slot *slot            // the holder's, or of whoever took the lease
	s    *session.Session // slot.Resource

	// The holder's own.
	op       operation
	first    int64             // how long the checkout took, in ns, until its first operation has begun
	timed    bool              // durations are collected
	timedAt  int64             // pool clock; when that was last looked at
	closedAt int64             // pool clock; when rows were last closed
	rows     *rows             // for the next query; nil while they are out, so that only their user refers to them
	openRows int               // results that are out
	tx       tx                // for the next transaction
	begun    *observe.Caller   // began the last transaction, where each operation has a span
	shown    observe.Operation // room for the operation that is shown
}

// operation is one that the holder runs.
type operation struct {
	kind   observe.Kind
	began  int64 // pool clock
	waited int64 // how long the checkout before it took, in ns; 0 for all but the first operation of a checkout
	first  bool
	caller *observe.Caller // of a query, where each operation has a span
}

func (l *lease) now() int64 { return l.conn.pool.cfg.Now() }

// attach begins the first checkout of a lease, whose slot the caller owns.
func (l *lease) attach(ctx context.Context, s *slot, now, waited int64) {
	l.slot, l.s, l.first = s, s.Resource, waited
	l.lookAtMetrics(ctx, now)
	p := l.conn.pool
	l.mu.Lock()
	l.beginLocked(ctx, p.acquired.Add(1), now, held)
	l.mu.Unlock()
	p.janitor.Wake()
}

// checkOut takes the idle lease for a caller; false if its session was taken meanwhile.
func (l *lease) checkOut(ctx context.Context, now int64, next state) bool {
	p := l.conn.pool
	capture := p.stacks.Take(now)
	l.mu.Lock()
	if l.state != idle {
		l.mu.Unlock()
		return false
	}
	l.beginLocked(ctx, p.acquired.Add(1), now, next)
	if capture {
		l.stack.Capture(2)
	}
	l.mu.Unlock()
	p.janitor.Wake()
	return true
}

// Hold copies the record for a report; false if nobody has the lease.
func (l *lease) Hold() (leak.Hold, bool) { return l.hold(l.now()) }

// lookAtMetrics asks once a second whether durations are collected: meter providers may be set at any time.
func (l *lease) lookAtMetrics(ctx context.Context, now int64) {
	if l.timedAt == 0 || now-l.timedAt > int64(time.Second) {
		l.timed, l.timedAt = l.conn.pool.observer.Timed(ctx), now
	}
}

// ResetSession is called when the handle checks out a lease that was idle. After driver.ErrBadConn database/sql makes
// another attempt, the last of them in Connect.
func (l *lease) ResetSession(ctx context.Context) error {
	p := l.conn.pool
	now := l.now()
	next := held
	if l.s.Resets() {
		next = running
	}
	if !l.checkOut(ctx, now, next) {
		return driver.ErrBadConn // its session went to a waiter
	}
	l.first = 0
	l.lookAtMetrics(ctx, now)
	if l.timed {
		p.observer.Waited(ctx, 0, nil)
	}
	if l.s.AtMostOnce() && l.slot.Restless(now) && l.s.Ended() {
		l.slot.Broke() // nothing was sent yet, so another attempt is safe
		l.drop()
		return driver.ErrBadConn
	}
	if !l.slot.Fit(now) || l.slot.Suspect() {
		if !l.revive(ctx, now) {
			return driver.ErrBadConn
		}
	}
	if next == held {
		return nil
	}
	ok := false
	defer l.guard(&ok)
	err := l.s.Reset(ctx)
	ok = true
	if err != nil {
		l.slot.Broke()
		l.drop()
		return err
	}
	if !l.settle(l.now()) {
		l.slot.Discard()
		return driver.ErrBadConn
	}
	return nil
}

// revive pings a session that may be dead, and closes one that is not to be used again. It does not wait for long: the
// handle has another attempt, and for a lock that it holds meanwhile others may wait who close a statement.
func (l *lease) revive(ctx context.Context, now int64) bool {
	if !l.slot.Fit(now) || !l.s.CanPing() {
		l.slot.Spoil()
		l.drop()
		return false
	}
	l.mu.Lock()
	before := l.state
	l.state = running // so that it is not taken meanwhile
	l.mu.Unlock()
	if !l.slot.Probe(ctx, l.conn.pool.pool.Patience()) {
		l.take(nil) // the slot is the pool's
		return false
	}
	if before == held && !l.settle(l.now()) {
		l.slot.Discard()
		return false
	}
	return true
}

// drop closes the session of a lease that the caller holds.
func (l *lease) drop() {
	if l.take(nil) != taken {
		l.slot.Discard()
	}
}

// guard ends a lease when the driver panicked or ended the goroutine: database/sql would never return it.
func (l *lease) guard(ok *bool) {
	if !*ok {
		l.slot.Spoil()
		l.drop()
	}
}

// IsValid is called when the handle returns a connection: true keeps the lease in the handle, false has it closed. It
// may be called twice in a row for one return.
func (l *lease) IsValid() bool {
	p := l.conn.pool
	l.mu.Lock()
	before := l.state
	l.mu.Unlock()
	switch before {
	case idle:
		return true
	case taken:
		return false
	}
	ok := false
	defer l.guard(&ok)
	s := l.slot
	valid := before == held && !l.s.Spoiled() && l.validAtReturn()
	stay := valid && s.Fit(l.last) && !l.conn.client.Refuses() && p.pool.MayStay()
	ok = true
	return l.giveBack(valid, stay)
}

// validAtReturn asks the driver. A connection that it has given up broke, unless a context ended on it.
func (l *lease) validAtReturn() bool {
	if l.s.Valid() {
		return true
	}
	if l.s.SawEnd() {
		l.slot.Spoil()
	} else {
		l.slot.Broke()
	}
	return false
}

// giveBack ends a checkout. The lease becomes idle if it may stay, else its slot is returned.
func (l *lease) giveBack(valid, stay bool) bool {
	p, s := l.conn.pool, l.slot
	l.mu.Lock()
	if l.state == taken {
		l.mu.Unlock()
		return false
	}
	l.last = max(l.last, l.closedAt)
	ctx, since, hold := l.ctx, l.since, l.last-l.since
	stay = stay && !l.doomed
	if stay {
		l.state, l.ctx, l.query = idle, nil, "" // neither context nor query outlives its use
		l.stack.Clear()
	} else {
		l.takeLocked(nil)
	}
	l.mu.Unlock()
	if l.timed {
		p.observer.Used(ctx, time.Duration(l.now()-since))
	}
	switch {
	case !valid:
		s.Discard()
	case !stay:
		s.Release(hold)
	case p.pool.Wanted() || l.conn.client.Refuses() || !s.Fit(l.last): // idle first, then the look: see pool.Pool.wanted
		if l.TakeIdle() {
			s.Release(hold)
		}
		return false
	}
	return stay
}

// Close ends a lease. A handle that closes a connection which was used, and of which it was not told that it is
// invalid, considers it broken.
func (l *lease) Close() error {
	l.mu.Lock()
	unused := !l.doomed && (l.state == idle || l.state == held && l.operations == 0)
	l.mu.Unlock()
	if l.take(nil) == taken {
		return nil
	}
	if unused && !l.s.Spoiled() {
		l.slot.Release(0)
	} else {
		l.slot.Discard()
	}
	return nil
}

// begin starts an operation of the holder. end follows if it returns nil.
func (l *lease) begin(ctx context.Context, kind observe.Kind, query string) error {
	now := l.now()
	l.mu.Lock()
	if l.state != held || l.doomed {
		l.mu.Unlock()
		return l.refuse()
	}
	l.state = running
	l.began = now
	l.operations++
	first := l.operations == 1
	if query != "" {
		l.query = query
	}
	l.endless = kind == observe.Query && ctx.Done() == nil
	if l.stack.Empty() && l.conn.pool.stacks.Take(now) {
		l.stack.Capture(2)
	}
	l.mu.Unlock()
	if l.s.Silenced() {
		l.settle(now)
		return driver.ErrBadConn
	}
	l.op = operation{kind: kind, began: now, waited: l.first, first: first}
	l.first = 0
	return nil
}

// refuse answers the holder of a lease that is gone, and closes one that is doomed.
func (l *lease) refuse() error {
	l.mu.Lock()
	mine := l.doomed && l.state != taken
	if mine {
		l.state = taken
	}
	l.mu.Unlock()
	if mine {
		l.slot.Discard()
	}
	return l.lost()
}

// end ends an operation with the error that its caller gets. A query that succeeded goes on until its rows are closed.
func (l *lease) end(ctx context.Context, query string, err error) {
	now := l.now()
	l.judge(ctx, err)
	l.mu.Lock()
	if err == nil && l.op.kind == observe.Begin {
		l.inTx = true
	}
	if l.op.kind == observe.Commit || l.op.kind == observe.Rollback {
		l.inTx = false
	}
	settled := l.settleLocked(now)
	l.mu.Unlock()
	if err != nil || l.op.kind != observe.Query {
		l.show(ctx, &l.op, query, 0, now, err)
	}
	if !settled {
		l.slot.Discard()
	}
}

// judge notes what the outcome of a call says about the connection.
func (l *lease) judge(ctx context.Context, err error) {
	switch {
	case err == nil:
		l.slot.Answered()
	case l.s.Judge(ctx, err):
		l.slot.Broke()
	}
	if l.s.Spoiled() {
		l.slot.Spoil()
	}
}

// show shows an operation that has ended, if it was slow, failed, or all are asked for.
func (l *lease) show(ctx context.Context, op *operation, query string, rows int, now int64, err error) {
	took := now - op.began
	if err == nil && took < l.conn.pool.limit && !l.timed || err == driver.ErrSkip {
		return
	}
	o := &l.shown
	*o = observe.Operation{
		Kind: op.kind, Query: query, Took: time.Duration(took), Waited: time.Duration(op.waited), At: time.Now(),
		First: op.first, Rows: rows, Err: err, Stack: l.stack.PCs(), Caller: op.caller,
	}
	if op.kind == observe.Commit || op.kind == observe.Rollback {
		o.Begun = l.begun
	}
	l.conn.pool.observer.Ended(ctx, o)
	if op.kind == observe.Begin {
		l.begun = o.Caller
	}
	*o = observe.Operation{} // no context, query or error outlives its use
}

// enter begins a call into the driver that is no operation, such as fetching a row. leave follows if it returns nil.
// Only where connections are taken back from holders must the record show it.
func (l *lease) enter() error {
	if !l.conn.pool.reclaims {
		if l.gone.Load() {
			return l.refuse()
		}
		if !l.stirred.Load() {
			l.stirred.Store(true)
		}
		return nil
	}
	now := l.now()
	l.mu.Lock()
	if l.state != held || l.doomed {
		l.mu.Unlock()
		return l.refuse()
	}
	l.state, l.last = running, now
	l.mu.Unlock()
	return nil
}

func (l *lease) leave() {
	if l.conn.pool.reclaims && !l.settle(l.now()) {
		l.slot.Discard()
	}
}

// Unwrapped gives the wrapped driver's connection. What its holder does with it cannot be seen, so it is not taken back.
func (l *lease) Unwrapped() any {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.state == taken && l.why != nil {
		return l.why
	}
	l.raw = true
	return l.s.Raw()
}

// Reclaim takes the connection from its holder, and closes it on a goroutine that ends with the driver's Close.
func (l *lease) Reclaim(checkout uint64, operations int) bool {
	if !l.reclaim(checkout, operations, ErrReclaimed) {
		return false
	}
	go l.slot.Discard()
	return true
}
