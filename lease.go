package lifeguard

import (
	"context"
	"database/sql/driver"
	"errors"
	"log/slog"
	"runtime"
	"sync/atomic"
	"unsafe"

	"github.com/go-lifeguard/lifeguard/internal/callsite"
)

// lease is what a handle's *sql.DB has for a connection: the right to one session, from a checkout until somebody needs
// the connection more. database/sql's object for it stays: a bare lease gets another session when it is checked out again,
// which spares the handle to close an object and make another for each change of hands.
//
// What of it is a driver.Conn is one of the types at the end of this file, by what the wrapped connection can do.
type lease struct {
	pool    *Pool
	handle  *connector
	session *session     // nil while bare
	can     abilities    // of the wrapped connections that it may stand for
	number  uint64       // of all leases of the pool
	born    atomic.Int64 // pool clock; when it got the session
	state   leaseState
	counted atomic.Uint64 // checkouts that Pool.counters has
	hold    hold
	leaked  uint64 // the checkout that was reported as a leak; guarded by leaseLocked
	watch   watch  // the janitor's
	failure error  // of its last checkout, whose caller could not be told at once; the lease is gone then

	// The holder's own: no report reads them.
	clock     leaseClock
	recalls   int64     // Pool.recalls when it got the session
	metrics   *metrics  // nil while nobody reads them
	limit     int64     // observer.limit
	waited    int64     // nanoseconds; how long the checkout took, until its first operation has begun
	op        operation // present one
	tx        tx        // used again and again: database/sql does not touch a transaction after its end
	timed     bool      // every operation's begin is read from the clock
	reclaims  bool      // Pool.reclaims
	direct    bool      // nothing stands between an operation and the driver: no interceptor, no socket_timeout
	due       bool      // the checkout is put off until the first operation: see ResetSession
	sole      soleExec  // how far a checkout for one Exec has come
	spans     bool      // each operation has one
	lastBegin *caller   // who began the last transaction, if each operation has a span

	spanOptions *spanOptions // nil before the first span
	finder      callsite.Finder
	follows     callsite.Followed
}

// soleExec follows a checkout that is for one Exec, after which database/sql returns the connection whatever happens. So
// its end need not be made known, as the return will be in a moment; nor has ExecContext to look whether the driver
// panicked, which the return shows.
type soleExec uint8

const (
	soleNot   soleExec = iota // it may be for more
	soleDue                   // it has not begun
	soleRuns                  // the driver was called, and has not returned
	soleEnded                 // it succeeded; the state of the lease is still leaseBusy
)

// hold is what is known about the present holder of a lease, for reports that are made while he works. A report reads it
// with the lease locked. The holder writes it without: all of it before the checkout, and later the activity that is not
// the present one; the change of state that follows publishes what was written.
type hold struct {
	since    int64           // pool clock; when it was checked out
	ctx      context.Context // of the checkout; stays until the next one, or until the lease is bare
	site     *callsite.Site  // where that came from; nil if it was not noted
	byOpener bool            // database/sql opened the connection on a goroutine of its own: ctx and site say nothing
	activity [2]activity
}

// activity is the last operation of a holder. That of another checkout says nothing: see activityOf.
type activity struct {
	checkout   uint64
	query      string // last one
	began      int64  // pool clock
	operations int    // up to this one
	endless    bool   // a query whose context never ends, so that rows it left open may be lost
}

// is sets the fields of an operation that begins.
func (a *activity) is(checkout uint64, query string, began int64, operations int, endless bool) {
	a.checkout, a.began, a.operations, a.endless = checkout, began, operations, endless
	if !sameText(a.query, query) {
		a.query = query
	}
}

// sameText says whether two texts are at the same place in memory, as those of a query in a program are from call to
// call. To write a pointer down again is a message to the garbage collector while it works.
func sameText(a, b string) bool {
	return len(a) == len(b) && unsafe.StringData(a) == unsafe.StringData(b)
}

// activityOf is what the holder did last, as of when the lease's state was word. It is called with the lease locked, or
// by the holder.
func (l *lease) activityOf(word uint64) activity {
	a := l.hold.activity[word/leaseActivity&1]
	if a.checkout != word/leaseCheckout {
		return activity{checkout: word / leaseCheckout, began: l.hold.since} // nothing yet
	}
	return a
}

// newLease makes a bare lease, for connections like that of s, and what the handle gets.
func newLease(h *connector, s *session) (*lease, driver.Conn) {
	p := h.pool
	can := s.abilities()
	l, conn := can.newConn()
	l.pool, l.handle, l.can, l.number = p, h, can, p.leases.Add(1)
	l.limit = p.observer.limit
	l.reclaims = p.reclaims
	l.direct = s.intercepted == nil && p.cfg.SocketTimeout <= 0
	l.spans = p.observer.tracer != nil && p.observer.trace == TraceAll
	l.clock.ticks = &p.tick.count
	l.state.word.Store(leaseBare)
	return l, conn
}

// attach puts a session into the hands of the bare lease's holder.
func (l *lease) attach(s *session, ctx context.Context, c *checkout) {
	p := l.pool
	now := p.now()
	l.session = s
	l.born.Store(now)
	l.clock.last, l.clock.quick, l.clock.spare = now, 0, 0
	l.recalls = p.recalls.Load()
	l.metrics = p.metrics.enabled(ctx)
	l.timed = l.metrics != nil || p.observer.timed
	l.due, l.sole = false, soleNot
	l.waited = now - c.start
	c.note(p, now)
	hold := &l.hold
	hold.since, hold.ctx, hold.site, hold.byOpener = now, ctx, c.site, false
	if c.site != nil && c.site.Opener {
		hold.site, hold.byOpener = nil, true
	}
	// The count goes on, so that no two checkouts of a lease are the same.
	word := l.state.checkouts()*leaseCheckout + leaseCheckout + leaseTouched + leaseHeld
	if l.reclaims {
		word += leaseReclaims
	}
	l.state.word.Store(word)
	s.used, s.sawEnd = true, false
	s.lease.Store(l)
}

// ResetSession is called by the handle when it checks out a connection that was idle.
//
// It does that for one operation nearly always, which it then begins at once, under the same lock of its own. So the
// checkout is put off until that moment, and both are one step: see startChecked. Until then the lease is idle, and may be
// taken from the handle as before. A sql.Conn, or whatever else may keep the connection for a while before it is used, has
// it from here on.
func (l *lease) ResetSession(ctx context.Context) error {
	l.sole = soleNot
	if l.metrics == nil && !l.reclaims && l.state.load() == leaseIdle {
		if f := callsite.ToFollow(&l.follows); f != callsite.Unknown {
			l.hold.ctx = ctx // nobody reads the hold unless the checkout succeeds
			l.due = true
			if f == callsite.Exec {
				l.sole = soleDue
			}
			return nil
		}
	}
	return l.checkOut(ctx)
}

// checkOut takes the lease for a holder.
func (l *lease) checkOut(ctx context.Context) (err error) {
	l.due = false
	word := l.state.word.Load()
	if word&leaseStates != leaseIdle {
		return l.takeAnother(ctx)
	}
	l.hold.ctx = ctx
	now := l.note()
	state := leaseHeld
	if l.reclaims {
		state = leaseBusy // the driver's ResetSession must not be cut
	}
	if !l.state.word.CompareAndSwap(word, checkedOut(word)+state) {
		return l.takeAnother(ctx)
	}
	returned := false
	defer func() {
		if !returned {
			l.survive()
		}
	}()
	err = l.reset(ctx, now, state)
	l.leave()
	if l.metrics != nil && err == nil {
		l.metrics.checkedOut(ctx, l.pool.now()-now)
	}
	returned = true
	return err
}

// checkedOut is the word of a lease that was idle and is just being checked out, to which its state is to be added.
func checkedOut(word uint64) uint64 {
	return (word&^(leaseStates|leaseRaw|leaseInTx) | leaseTouched) + leaseCheckout
}

// note writes down when and from where the lease is being checked out, and gives the time.
func (l *lease) note() (now int64) {
	p, h := l.pool, &l.hold
	if now = l.clock.last; !l.clock.repeats() { // l.now(), which is not inlined
		now = l.lookAtClock()
	}
	h.since, h.byOpener = now, false
	if !p.capture.spent(now) {
		h.site = p.findSite(&l.finder, now)
	} else if h.site != nil {
		h.site = nil
	}
	return now
}

// reset makes the session ready for the holder who has just checked out the lease, which is in the state given. The only
// error is driver.ErrBadConn: the handle is to close the lease and make another attempt.
func (l *lease) reset(ctx context.Context, now int64, state uint64) error {
	s := l.session
	s.sawEnd = false
	l.waited = 0
	if s.suspect() || s.expires != 0 && now >= s.expires || l.recalled() {
		return l.reconsider(ctx, now, state)
	}
	if s.resetter == nil {
		return nil
	}
	err := s.resetter.ResetSession(ctx)
	if err == nil || !errors.Is(err, driver.ErrBadConn) {
		return nil // other errors are ignored by database/sql
	}
	s.broke()
	return driver.ErrBadConn
}

// reconsider is reset for a session that is not to be used as it is.
func (l *lease) reconsider(ctx context.Context, now int64, state uint64) error {
	s := l.session
	if s.suspect() {
		// It has to be pinged. That is left to Connect, which the third of database/sql's attempts is at the latest: if
		// each of them waited for a ping, a caller would wait three times as long as he has patience for.
		l.handle.waste()
		l.state.move(state, leaseIdle)
		return driver.ErrBadConn
	}
	if s.makeReady(ctx, l.pool.patience(now), false) != nil {
		// Whatever it was, the connection is not to be used, and this is how to say so.
		s.bad = true
		l.handle.waste()
		return driver.ErrBadConn
	}
	return nil
}

// takeAnother is ResetSession for a lease without a session. If none can be had soon, the answer is driver.ErrBadConn,
// upon which the handle closes the lease and makes another attempt; in Connect, which the last one is as a rule, the
// caller has the place in the queue that he had here. He does not wait here for long, nor for a connection to be pinged,
// because database/sql locks its object for this time, and for the lock waits who closes a statement that was once
// prepared on it: perhaps somebody who has a connection, and would have to give it back before this caller could be served.
//
// Where the handle has a limit of its own, one caller gets the lease of another also at the last attempt. Then he waits
// here, and if it was in vain, his operation says so.
func (l *lease) takeAnother(ctx context.Context) error {
	p, h := l.pool, l.handle
	c := checkout{start: p.now(), noted: true}
	c.site = l.finder.Find()
	if c.site == nil {
		c.site = p.learnSite(&l.finder, c.start)
	}
	c.brief = c.triesAgain()
	for l.state.load() != leaseBare { // its session is just being taken from it
		if c.brief {
			h.waste()
			return driver.ErrBadConn
		}
		runtime.Gosched()
	}
	s, err := p.acquire(ctx, h, &c)
	switch {
	case err == nil:
	case !c.brief:
		p.connectEnded(ctx, c.start, p.now(), err)
		l.failure = err
		l.state.move(leaseBare, leaseGone)
		return nil
	default:
		if err == ctx.Err() {
			p.connectEnded(ctx, c.start, p.now(), err) // database/sql makes no further attempt
		}
		return driver.ErrBadConn
	}
	if s.abilities() != l.can {
		p.release(s, notHeld, h)
		return driver.ErrBadConn
	}
	l.attach(s, ctx, &c)
	if h.shut.Load() {
		_ = l.Close()
		return driver.ErrBadConn
	}
	p.connectEnded(ctx, c.start, l.hold.since, nil)
	return nil
}

// survive is for a call into the driver that panicked. The connection is closed and its place freed, where database/sql
// would have lost it for good.
func (l *lease) survive() {
	if l.state.move(leaseBusy, leaseGone) || l.state.move(leaseHeld, leaseGone) || l.state.move(leaseDoomed, leaseGone) {
		l.session.bad = true
		l.measureUse()
		l.giveUp(notHeld)
	}
}

// measureUse is called when a holder's time with the connection ends.
func (l *lease) measureUse() {
	if l.metrics != nil {
		l.metrics.returned(l.hold.ctx, l.pool.now()-l.hold.since)
	}
}

// recalled says whether the pool was reset or made smaller since the lease was given.
func (l *lease) recalled() bool { return l.recalls != l.pool.recalls.Load() }

// IsValid is called by the handle when a connection is returned: true keeps the lease in the handle, with the session or
// without, false has the handle close it. It may be called twice in a row for one return.
func (l *lease) IsValid() bool {
	switch l.state.load() {
	case leaseIdle, leaseBare:
		l.due = false // it did not come to an operation
		return true
	case leaseDoomed, leaseEnding, leaseGone, leaseReclaimed:
		return false
	}
	s, p := l.session, l.pool
	state := leaseHeld
	if l.reclaims {
		if state = leaseBusy; !l.state.enter() {
			return false
		}
	}
	switch l.sole {
	case soleRuns:
		l.survive() // the driver panicked
		return false
	case soleEnded:
		state, l.sole = leaseBusy, soleNot
	}
	returned := false
	defer func() {
		if !returned {
			l.survive()
		}
	}()
	if l.metrics != nil {
		l.measureUse()
	}
	if s.validator != nil && !s.bad && !s.validator.IsValid() {
		s.broke()
	}
	returned = true
	switch {
	case s.bad:
		l.state.move(state, leaseEnding)
		return false
	// The checkout stands for now, which saves a look at the clock.
	case l.hold.since-l.born.Load() > leaseLifetime || p.waiting.Load() > 0:
		if !l.state.move(state, leaseGone) {
			return false // a shutdown has just ended
		}
		held := p.now() - l.hold.since
		l.hold.ctx = nil // it may be long until there is another
		l.strip(held)
		return true
	}
	if !l.state.try(state, leaseIdle) && !l.state.move(state, leaseIdle) {
		return false
	}
	if p.waiting.Load() > 0 || l.recalled() {
		l.staysOrStrips()
	}
	return true
}

// staysOrStrips looks whether a lease that has just become idle may remain so. Idle first, then the look: see
// Pool.waiting. If it may not and the move fails, whoever looked for idle leases was faster, and has the session.
func (l *lease) staysOrStrips() {
	if (l.pool.waiting.Load() > 0 || l.recalled()) && l.state.move(leaseIdle, leaseGone) {
		l.strip(notHeld)
	}
}

// strip gives the session of a lease away that was moved to leaseGone for it, by its last holder, who had it for held
// nanoseconds. The lease is bare then.
func (l *lease) strip(held int64) {
	p, h, s := l.pool, l.handle, l.detach()
	l.becomeBare()
	p.release(s, held, h)
}

// becomeBare is for a lease whose session was taken off it.
func (l *lease) becomeBare() {
	l.session = nil
	l.state.move(leaseGone, leaseBare)
}

// Close gives the session back. A handle that closes a connection without having been told that it is not valid any
// more considers it broken: that ends the physical connection, as it would without lifeguard.
func (l *lease) Close() error {
	held := int64(notHeld)
	switch {
	case l.state.move(leaseEnding, leaseGone):
		held = l.pool.now() - l.hold.since
	case l.state.move(leaseIdle, leaseGone):
		// The handle keeps fewer idle connections, or is closing.
	case l.state.move(leaseHeld, leaseGone), l.state.move(leaseDoomed, leaseGone):
		l.session.bad = true
		l.measureUse()
	default:
		l.state.move(leaseBare, leaseGone)
		return nil
	}
	l.giveUp(held)
	return nil
}

// over says whether the holder has lost the connection, and if he still has to close it, does so.
func (l *lease) over() bool {
	switch l.state.load() {
	case leaseDoomed:
		if l.state.move(leaseDoomed, leaseGone) {
			l.session.bad = true
			l.measureUse()
			l.giveUp(notHeld)
		}
		return true
	case leaseGone, leaseReclaimed:
		return true
	}
	return false
}

// atEnd says whether the lease is past being taken from its holder.
func (l *lease) atEnd() bool {
	switch l.state.load() {
	case leaseHeld, leaseBusy, leaseLocked:
		return false
	}
	return true
}

// lost is what the holder of a connection that he has lost is told.
func (l *lease) lost() error {
	if l.state.load() == leaseReclaimed {
		return ErrReclaimed
	}
	if l.failure != nil {
		return l.failure
	}
	l.pool.mu.Lock()
	defer l.pool.mu.Unlock()
	if l.handle.drained != nil {
		return ErrPoolClosed
	}
	return driver.ErrBadConn
}

// giveUp ends the right of a lease that is gone already, by a caller who owns its session.
func (l *lease) giveUp(held int64) {
	p, h, s := l.pool, l.handle, l.detach()
	if s.bad {
		p.discard(s)
		p.exit(h)
		return
	}
	p.release(s, held, h)
}

// detach takes the session off a lease that is gone, by a caller who owns it.
func (l *lease) detach() *session {
	s := l.session
	l.end()
	s.closeStatements()
	return s
}

// end takes a lease that is gone off its session.
func (l *lease) end() {
	p, checkouts := l.pool, l.state.checkouts()
	p.moves.begin()
	l.session.lease.Store(nil)
	p.counters.acquired.Add(checkouts - l.counted.Swap(checkouts))
	p.moves.end()
}

// closeStatements ends the hold that the statements of a lease have on those of the session. Kept ones stay, others are
// closed. Nobody is left who could be told of an error; a panic must not cost the place.
func (s *session) closeStatements() {
	for i, st := range s.statements {
		s.statements[i] = nil
		k := st.prepared
		st.prepared = nil
		st.direct, _ = k.parent.(*directStmt)
		if s.bad {
			continue // it goes with the connection
		}
		func() {
			defer func() {
				if v := recover(); v != nil {
					s.bad = true
					s.pool.log.Error("lifeguard: the driver panicked while it closed a statement",
						slog.String("pool", s.pool.name), slog.Any("panic", v))
				}
			}()
			_ = s.release(k)
		}()
	}
	s.statements = s.statements[:0]
}

// unwrap is how [Unwrap] finds the wrapped driver's connection. What its holder does with it cannot be seen, so from
// here on it is not taken back from him.
func (l *lease) unwrap() any {
	for {
		word := l.state.word.Load()
		switch word & leaseStates {
		case leaseHeld, leaseBusy:
			if !l.state.word.CompareAndSwap(word, word|leaseRaw) {
				continue
			}
		case leaseLocked:
			runtime.Gosched()
			continue
		case leaseReclaimed:
			return ErrReclaimed
		}
		return l.session.conn
	}
}

// The types of connections that a handle gets: a lease with the methods that the wrapped connection has. ExecerContext and
// QueryerContext are claimed only if that has them (or their legacy forms): for a connection that has not, database/sql
// prepares a statement and converts the arguments by what the statement says, which claiming the interface and
// answering driver.ErrSkip would change.
//
// They hold the lease itself and not a pointer to it, so that its methods are called without a detour.
type (
	execConn      struct{ lease } // its ExecContext is among the operations
	queryConn     struct{ lease }
	execQueryConn struct{ execConn }
)

func (c *queryConn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	return c.query(ctx, query, args)
}

func (c *execQueryConn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	return c.query(ctx, query, args)
}

// abilities are what a lease can only have or not have as a whole.
type abilities struct{ exec, query bool }

func (s *session) abilities() abilities {
	return abilities{exec: s.execer != nil || s.oldExecer != nil, query: s.queryer != nil || s.oldQueryer != nil}
}

// newConn gives the lease of a new connection, and the connection.
func (can abilities) newConn() (*lease, driver.Conn) {
	switch can {
	case abilities{exec: true, query: true}:
		c := &execQueryConn{}
		return &c.lease, c
	case abilities{exec: true}:
		c := &execConn{}
		return &c.lease, c
	case abilities{query: true}:
		c := &queryConn{}
		return &c.lease, c
	default:
		l := &lease{}
		return l, l
	}
}

var (
	_ driver.Conn               = (*lease)(nil)
	_ driver.ConnPrepareContext = (*lease)(nil)
	_ driver.ConnBeginTx        = (*lease)(nil)
	_ driver.Pinger             = (*lease)(nil)
	_ driver.NamedValueChecker  = (*lease)(nil)
	_ driver.SessionResetter    = (*lease)(nil)
	_ driver.Validator          = (*lease)(nil)
	_ driver.ExecerContext      = (*execConn)(nil)
	_ driver.QueryerContext     = (*queryConn)(nil)
	_ driver.ExecerContext      = (*execQueryConn)(nil)
	_ driver.QueryerContext     = (*execQueryConn)(nil)
	// Not driver.ColumnConverter, driver.Execer and driver.Queryer: the first belongs to statements, the others are
	// what database/sql falls back to.
)
