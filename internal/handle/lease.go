package handle

import (
	"context"
	"database/sql/driver"
	"errors"
	"time"

	"github.com/go-lifeguard/lifeguard/internal/callsite"
	"github.com/go-lifeguard/lifeguard/internal/leak"
	"github.com/go-lifeguard/lifeguard/internal/observe"
	"github.com/go-lifeguard/lifeguard/internal/pool"
	"github.com/go-lifeguard/lifeguard/internal/session"
)

// ErrReclaimed is what the holder of a connection that was taken back is told.
var ErrReclaimed = errors.New("lifeguard: the connection was taken back from a holder that kept it without using it")

type slot = pool.Slot[*session.Session]

// lease is the handle's driver.Conn: the right to one session until the pool wants it back.
type lease struct {
	record
	conn *Connector
	slot *slot            // the holder's, or of whoever took the lease
	s    *session.Session // slot.Resource

	closed func() // is called by Close; nil for none

	// The holder's own.
	op       operation
	unasked  bool              // it was returned by returnUnasked
	first    int64             // how long the checkout took, in ns, until its first operation has begun
	timed    bool              // durations are collected
	timedAt  int64             // pool clock; when that was last looked at
	closedAt int64             // pool clock; when rows were last closed
	openRows int               // results that are out
	readOnly bool              // its transaction is read-only
	tx       tx                // for the next transaction
	begun    *observe.Caller   // began the last transaction, where each operation has a span
	shown    observe.Operation // room for the operation that is shown
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
	capture := l.capture(now)
	l.mu.Lock()
	if l.state != idle {
		l.mu.Unlock()
		return false
	}
	l.beginLocked(ctx, p.acquired.Add(1), now, next)
	if l.unasked = false; capture {
		l.stack.Capture(2)
		l.checkedOut = true
	}
	l.mu.Unlock()
	p.janitor.Wake()
	return true
}

// noteWhere captures the stack of a caller in Connect, once: while it waits, if it does.
func (l *lease) noteWhere(now int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.stack.Empty() && l.capture(now) {
		l.stack.Capture(2)
	}
}

// capture says whether a checkout's stack is to be captured. Where IsValid is hidden each is: without it the return stays
// unseen, see returnUnasked.
func (l *lease) capture(now int64) bool {
	return l.conn.pool.stacks.Take(now) || !l.conn.asks.Load()
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
	if c := l.conn; !c.resets.Load() {
		c.resets.Store(true)
	}
	now := l.now()
	next := held
	if l.s.Resets() {
		next = running
	}
	if !l.checkOut(ctx, now, next) && !(l.returnedUnseen() && l.checkOut(ctx, now, next)) {
		return driver.ErrBadConn // its session went to a waiter
	}
	l.first = 0
	l.lookAtMetrics(ctx, now)
	if l.s.AtMostOnce() && l.slot.Restless(now) && l.s.Ended() {
		l.slot.Broke() // nothing was sent yet, so another attempt is safe
		l.drop()
		return driver.ErrBadConn
	}
	if !l.slot.Fit(now) || l.slot.Suspect() {
		if !l.revive(ctx, now) {
			return driver.ErrBadConn
		}
		l.first = l.now() - now
	}
	if l.timed { // a caller that is sent on waits in Connect, and is measured there
		p.observer.Waited(ctx, time.Duration(l.first), nil)
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

// retire closes the session of a lease that the caller holds, and has the holder told why at its next step. Results that
// are open beside go on, and the session is closed at its return.
func (l *lease) retire(why error) {
	l.slot.Spoil()
	if l.openRows == 0 && l.take(why) != taken {
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
	if c := l.conn; !c.asks.Load() {
		c.asks.Store(true)
	}
	return l.comeBack()
}

func (l *lease) comeBack() bool {
	p := l.conn.pool
	l.mu.Lock()
	before, last := l.state, l.last
	if before == held {
		// The driver is asked, and may not be while another goroutine takes the connection back.
		l.state, l.returning = running, true
	}
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
	stay := valid && s.Fit(last) && !l.conn.noResetter.Load() && !l.conn.client.Refuses() && p.pool.MayStay()
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
	valid, stay = valid && !l.doomed, stay && !l.doomed
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
	default:
		return l.stayIdle(hold)
	}
	return false
}

// stayIdle gives an idle lease back all the same if the pool has begun to want it: idle first, then the look, see
// pool.Pool.wanted. The slot may have another owner by now, who alone may ask whether it is fit.
func (l *lease) stayIdle(hold int64) bool {
	if !l.conn.pool.pool.Wanted() && !l.conn.client.Refuses() && !l.slot.Retired() {
		return true
	}
	if l.TakeIdle() {
		l.slot.Release(hold)
	}
	return false
}

// returnedUnseen returns a lease that is held while its ResetSession is called. False: it did not stay in the handle.
//
// A library that wraps the driver may hide IsValid, ResetSession or both from database/sql: then a handle has leases back,
// or uses them, unseen. Without this and the next two every checkout would cost a dial, and a waiter would wait beside a
// connection that nobody uses. Until IsValid is called for the first time, it counts as hidden.
func (l *lease) returnedUnseen() bool {
	l.mu.Lock()
	unseen := l.state == held && !l.doomed
	l.mu.Unlock()
	return unseen && l.comeBack()
}

// returnUnasked returns a lease at the end of an operation, if the handle will not ask and the stack proves that the lease
// was taken for that operation alone.
func (l *lease) returnUnasked() {
	c := l.conn
	if !c.asks.Load() && !c.goesOn.Load() && !l.inTx && l.openRows == 0 && l.checkedOut && callsite.OwnedByDB(l.stack.PCs()) {
		l.unasked = true
		l.comeBack()
	}
}

// usedUnseen checks a lease out that is used while it lies idle. If it was returned unasked, that was too soon: the library
// runs operations of its own beside the caller's. Else ResetSession is hidden: then no lease stays in the handle any more,
// where somebody may hold what seems to lie idle.
func (l *lease) usedUnseen(ctx context.Context, now int64) bool {
	soon := l.unasked
	if !soon && l.conn.resets.Load() {
		return false // nothing is hidden: somebody has kept what Raw showed
	}
	l.conn.goesOn.CompareAndSwap(false, soon) // also where the lease was taken meanwhile: another attempt follows
	if !l.checkOut(ctx, now, held) {
		return false
	}
	l.checkedOut = false // this is no checkout of the handle's
	l.conn.noResetter.Store(!soon)
	return true
}

// Close ends a lease. One that lay idle gives its session back. The handle takes a connection from its holder after
// driver.ErrBadConn, without asking IsValid before. By then it has closed the statements that it knows of.
func (l *lease) Close() error {
	switch l.take(nil) {
	case taken:
	case idle:
		l.slot.Release(0)
	default:
		l.s.LeaveStatements()
		l.slot.Discard()
	}
	if l.closed != nil {
		l.closed()
	}
	return nil
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
