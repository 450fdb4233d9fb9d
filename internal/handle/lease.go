package handle

import (
	"context"
	"database/sql/driver"
	"errors"
	"time"

	"github.com/go-lifeguard/lifeguard/internal/leak"
	"github.com/go-lifeguard/lifeguard/internal/observe"
	"github.com/go-lifeguard/lifeguard/internal/pool"
	"github.com/go-lifeguard/lifeguard/internal/session"
	"github.com/go-lifeguard/lifeguard/internal/veil"
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
	rested   int64             // how long it lay idle before the present checkout, in ns
	noted    bool              // stack is of the handle's checkout, not of an operation after that
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
	l.noted, l.fresh = !l.stack.Empty(), true
	l.beginLocked(ctx, p.acquired.Add(1), now, held)
	l.mu.Unlock()
	p.janitor.Wake()
}

// checkOut takes the idle lease for a caller; false if its session was taken meanwhile.
func (l *lease) checkOut(ctx context.Context, now int64, next state) bool {
	p := l.conn.pool
	capture := l.capture(now)
	l.mu.Lock()
	if l.over && next == running { // it came back, and IsValid was not called
		l.conn.library.CameBack(l.op.kind, l.fresh)
	}
	if l.state != idle {
		l.mu.Unlock()
		return false
	}
	l.rested = now - l.Touched
	l.beginLocked(ctx, p.acquired.Add(1), now, next)
	if capture {
		l.stack.Capture(2)
	}
	l.over, l.noted, l.fresh = false, capture, false
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
	return l.conn.pool.stacks.Take(now) || !l.conn.library.Asks.Seen()
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
	l.conn.library.Resets.See()
	now := l.now()
	if !l.checkOut(ctx, now, running) && !(l.returnUnseen(false) && l.checkOut(ctx, now, running)) {
		return driver.ErrBadConn // its session went to a waiter
	}
	l.first = 0
	l.lookAtMetrics(ctx, now)
	if l.s.AtMostOnce() && l.rested > int64(pool.RestlessTime) && l.s.Ended() {
		l.slot.Broke(false) // nothing was sent yet, so another attempt is safe
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
	ok := false
	defer l.guard(&ok)
	err := l.s.Reset(ctx)
	ok = true
	if err != nil {
		l.slot.Broke(ctx.Err() != nil)
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
		l.drop()
		return false
	}
	ok := l.slot.Probe(ctx, l.conn.pool.pool.Patience(), func() {
		if l.take(nil); l.doomed {
			l.slot.Spoil() // its socket may be closed
		}
	})
	if !ok {
		l.take(nil) // the slot is the pool's
	}
	return ok
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
	if l.openRows > 0 {
		l.slot.Spoil()
	} else if l.take(why) != taken {
		l.slot.Discard()
	}
}

// guard ends a lease when the driver panicked or ended the goroutine: database/sql would never return it.
func (l *lease) guard(ok *bool) {
	if !*ok {
		l.drop()
	}
}

// IsValid is called when the handle returns a connection: true keeps the lease in the handle, false has it closed. It
// may be called twice in a row for one return.
func (l *lease) IsValid() bool {
	l.conn.library.Asks.See()
	return l.comeBack(true)
}

func (l *lease) comeBack(asked bool) bool {
	p := l.conn.pool
	l.mu.Lock()
	before := l.state
	l.over = l.over && !asked
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
	valid := before == held && !l.s.Spoiled()
	if valid && !l.s.Valid() {
		valid = false
		l.slot.Broke(l.s.SawEnd()) // the driver has given it up
	}
	now := l.now()
	stay := valid && l.slot.Fit(now) && !l.conn.library.NoResetter.Seen() && !l.conn.client.Refuses() && p.pool.MayStay()
	ok = true
	return l.giveBack(now, valid, stay)
}

// giveBack ends a checkout. The lease becomes idle if it may stay, else its slot is returned.
func (l *lease) giveBack(now int64, valid, stay bool) bool {
	p, s := l.conn.pool, l.slot
	l.mu.Lock()
	if l.state == taken {
		l.mu.Unlock()
		return false
	}
	l.Touched = max(l.Touched, l.closedAt)
	ctx, since, hold := l.ctx, l.Since, l.Touched-l.Since
	valid, stay = valid && !l.doomed, stay && !l.doomed
	if stay {
		l.restLocked(now)
	} else {
		l.takeLocked(nil)
	}
	l.mu.Unlock()
	if l.timed {
		p.observer.Used(ctx, time.Duration(now-since))
	}
	switch {
	case !valid:
		s.Discard()
	case !stay:
		s.Release(hold, 0)
	default:
		return l.stayIdle(hold, now, true)
	}
	return false
}

// stayIdle gives an idle lease back all the same if the pool has begun to want it: idle first, then the look, see
// pool.Pool.wanted. The slot may have another owner by now, who alone may ask whether it is fit.
func (l *lease) stayIdle(hold, now int64, stay bool) bool {
	if stay && !l.conn.pool.pool.Wanted() && !l.conn.client.Refuses() && !l.slot.Over(now) {
		return true
	}
	if since, ok := l.TakeIdle(); ok {
		l.slot.Release(hold, since)
	}
	return false
}

// only says whether nothing is open on a lease whose stack was captured at its checkout.
func (l *lease) only() bool { return l.noted && !l.InTx && l.openRows == 0 }

// returnUnasked is called at the end of an operation. If the stack says that database/sql took the lease for that
// operation alone, it is over; and returned, where it is sure that nobody will ask, or the session cannot be used again.
func (l *lease) returnUnasked(sure bool) {
	k, pcs := &l.conn.library, l.stack.PCs()
	if !k.MayEnd() || !l.only() {
		return
	}
	valid := !l.s.Spoiled()
	if valid && l.s.SawEnd() {
		_ = l.call(func() { valid = l.s.Valid() })
	}
	sure = sure && valid && k.Ends(l.op.kind, l.fresh) && veil.Alone(pcs, l.op.kind)
	if !sure && !veil.AloneForLast(pcs, l.op.kind) {
		return
	}
	l.mu.Lock()
	again := !valid && l.op.first && l.op.failed // if driver.ErrBadConn ended it, database/sql may begin anew
	l.over = !again
	number, operations := l.Checkout, l.Operations
	l.mu.Unlock()
	switch {
	case sure || again:
		l.comeBack(false)
	case !valid:
		if l.comeBack(false); k.Resets.Seen() {
			l.explain(veil.ErrGoesOn)
		}
	default:
		time.AfterFunc(k.Rest(), func() { l.lieDown(number, operations) })
	}
}

// lieDown has a lease lie idle since whose operation number operations nothing has happened, though nobody asks.
func (l *lease) lieDown(number uint64, operations int) {
	now, stay, k := l.now(), l.conn.pool.pool.MayStay(), &l.conn.library
	l.mu.Lock()
	over := l.over && l.Checkout == number && l.Operations == operations && k.MayEnd() && !l.doomed
	rests := over && l.state == held
	if rests {
		l.restLocked(now)
	}
	closing := over && l.state == running // a statement
	l.mu.Unlock()
	switch {
	case rests:
		l.stayIdle(0, now, stay)
	case closing:
		time.AfterFunc(k.Rest(), func() { l.lieDown(number, operations) })
	}
}

// returnUnseen returns a lease that the handle has back and that is held still. At its Close only one that is over, or whose
// library is known to go on; and not where what it had set may not be undone. False: it did not stay in the handle.
func (l *lease) returnUnseen(closing bool) bool {
	k := &l.conn.library
	l.mu.Lock()
	unseen := l.state == held && !l.doomed
	if goesOn := k.GoesOn.Seen(); unseen && closing {
		over := l.over || goesOn && !k.Asks.Seen() && l.Operations > 0 && l.only() && veil.AloneForAny(l.stack.PCs())
		unseen = over && !(l.op.failed && (goesOn || l.op.kind == observe.Rollback))
	}
	l.mu.Unlock()
	return unseen && l.comeBack(false)
}

// usedUnseen checks a lease out that is used while it lies idle. If it was over, that was returned too soon. Else
// ResetSession is hidden, and no lease stays in the handle any more, where somebody may hold what seems to lie idle.
func (l *lease) usedUnseen(ctx context.Context, now int64, soon bool) bool {
	k := &l.conn.library
	switch {
	case soon:
		k.GoesOn.See()
	case k.Resets.Seen():
		return false // nothing is hidden: somebody has kept what Raw showed
	}
	if !l.checkOut(ctx, now, held) {
		if soon && !k.NoResetter.Seen() { // else this is another of the handle's callers
			l.explain(veil.ErrGoesOn)
		}
		return false
	}
	if !soon {
		k.NoResetter.See()
		l.noted = false // this is no checkout of the handle's
	}
	return true
}

// Close ends a lease. One that lay idle gives its session back. The handle takes a connection from its holder after
// driver.ErrBadConn, without asking IsValid before. By then it has closed the statements that it knows of.
func (l *lease) Close() error {
	l.returnUnseen(true) // there was no room for it
	if since, ok := l.TakeIdle(); ok {
		l.slot.Release(0, since)
	} else if l.take(nil) != taken {
		l.s.LeaveStatements()
		l.slot.Discard()
	}
	if closed := l.closed; closed != nil {
		l.closed = nil
		closed()
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
	l.Raw = true
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
