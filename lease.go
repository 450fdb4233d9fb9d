package lifeguard

import (
	"context"
	"database/sql/driver"
	"errors"
	"io"
	"runtime"
	"sync/atomic"
)

// States of a lease. Whoever moves it out of leaseIdle, by compare-and-swap, owns the session from then on; out of the
// other states only the holder's goroutine moves it, except that leaseHeld and leaseBusy may turn into leaseLocked, and
// back, at any moment, and that the janitor may turn leaseHeld into leaseReclaimed, and owns the session from then on.
const (
	leaseIdle      uint64 = iota // in the handle's free list
	leaseHeld                    // checked out
	leaseBusy                    // checked out, and an operation runs
	leaseLocked                  // checked out, and a report is reading lease.hold: for a few instructions
	leaseDoomed                  // checked out, but to be closed by the holder's goroutine at its next step
	leaseEnding                  // the handle was told that it is not valid, and is about to close it
	leaseGone                    // closed, or taken back while it was idle; the handle may still have the husk
	leaseReclaimed               // taken back from its holder, who does not know yet

	leaseStates   uint64 = 7  // mask
	leaseActivity uint64 = 8  // which of hold.activity is the present one
	leaseRaw      uint64 = 16 // the holder got the driver's connection, whose use cannot be seen: see Unwrap
	leaseTouched  uint64 = 32 // the holder did something since the janitor last looked
	leaseCheckout uint64 = 64 // the bits above count checkouts, which makes counting free
)

// leaseState is the state of a lease. It is one word, because each further atomic write would be felt: a checkout, an
// operation's begin and end, and a return are one each, and about the only thing that lifeguard adds to an idle pool.
type leaseState struct{ word atomic.Uint64 }

func (s *leaseState) load() uint64      { return s.word.Load() & leaseStates }
func (s *leaseState) checkouts() uint64 { return s.word.Load() / leaseCheckout }

// try goes from one state to another if nothing is in the way, which is nearly always so. It is small enough to be
// inlined, move is not.
func (s *leaseState) try(from, to uint64) bool {
	word := s.word.Load()
	return word&leaseStates == from && s.word.CompareAndSwap(word, word-from+to)
}

// move goes from one state to another, waiting while the lease is locked; false if it is in neither of the two.
func (s *leaseState) move(from, to uint64) bool {
	for !s.try(from, to) {
		switch s.load() {
		case from: // changed back in this moment
		case leaseLocked:
			runtime.Gosched()
		default:
			return false
		}
	}
	return true
}

// lock keeps the holder from changing the lease while a report reads its hold, and returns what to give to unlock;
// false if it is not checked out.
func (s *leaseState) lock() (word uint64, ok bool) {
	for {
		word := s.word.Load()
		switch state := word & leaseStates; state {
		case leaseHeld, leaseBusy:
			if s.word.CompareAndSwap(word, word-state+leaseLocked) {
				return word, true
			}
		case leaseLocked:
			runtime.Gosched()
		default:
			return 0, false
		}
	}
}

func (s *leaseState) unlock(word uint64) { s.word.Store(word) }

// enter is move(leaseHeld, leaseBusy) by the holder, and tells the janitor that he is there.
func (s *leaseState) enter() bool {
	for {
		word := s.word.Load()
		switch word & leaseStates {
		case leaseHeld:
			if s.word.CompareAndSwap(word, (word-leaseHeld+leaseBusy)|leaseTouched) {
				return true
			}
		case leaseLocked:
			runtime.Gosched()
		default:
			return false
		}
	}
}

// lease is what a handle's *sql.DB has for a connection: the right to one session, from Connect until the handle
// closes it or, while it is idle, until somebody needs the connection more.
//
// What of it is a driver.Conn is one of the types at the end of this file, by what the wrapped connection can do.
type lease struct {
	pool    *Pool
	handle  *connector
	session *session
	number  uint64 // among the leases of the session
	born    int64  // pool clock
	recalls int64  // Pool.recalls when it was given
	state   leaseState
	clock   leaseClock
	inTx    atomic.Bool
	hold    hold
	leaked  uint64 // the checkout that was reported as a leak; guarded by leaseLocked
	watch   watch  // the janitor's

	// The holder's own: no report reads them.
	metrics *metrics  // nil while nobody reads them
	limit   int64     // observer.limit
	timed   bool      // every operation's begin is read from the clock
	waited  int64     // nanoseconds; how long the checkout took, until its first operation has begun
	op      operation // present one

}

// hold is what is known about the present holder of a lease, for reports that are made while he works. A report reads it
// with the lease locked. The holder writes it without: all of it before the checkout, and later the activity that is not
// the present one; the change of state that follows publishes what was written.
type hold struct {
	since    int64           // pool clock; when it was checked out
	ctx      context.Context // of the checkout; stays until the next one, or until the lease ends a second later
	stack    stack
	byOpener bool // database/sql opened the connection on a goroutine of its own: ctx and stack say nothing
	activity [2]activity
}

// activity is the last operation of a holder.
type activity struct {
	query      string // last one
	began      int64  // pool clock
	operations int    // up to this one
	endless    bool   // its context never ends, so that rows it left open may be lost
}

// newLease puts a session into ctx's hands.
func newLease(h *connector, s *session, ctx context.Context) *lease {
	p := h.pool
	l := &lease{pool: p, handle: h, session: s, born: p.now(), recalls: p.recalls.Load()}
	l.metrics = p.metrics.enabled(ctx)
	l.limit, l.timed = p.observer.limit, l.metrics != nil || p.observer.timed
	s.leases++
	l.number = s.leases
	l.prepareHold(ctx, l.born, 0)
	if l.hold.stack.isOpener() {
		l.hold.stack.n, l.hold.byOpener = 0, true
	}
	l.state.word.Store(leaseCheckout + leaseTouched + leaseHeld)
	s.used, s.sawEnd = true, false
	s.lease.Store(l)
	p.mu.Lock()
	p.armSweepLocked()
	p.janitor.wakeLocked()
	p.mu.Unlock()
	return l
}

// prepareHold writes the hold of a checkout that is about to be tried, which nobody reads unless it succeeds.
func (l *lease) prepareHold(ctx context.Context, now int64, word uint64) {
	h := &l.hold
	h.since, h.ctx, h.byOpener = now, ctx, false
	h.activity[word/leaseActivity&1] = activity{began: now}
	h.stack.capture(&l.pool.capture, now)
}

// ResetSession is called by the handle when it checks out a connection that was idle.
func (l *lease) ResetSession(ctx context.Context) error {
	s, p := l.session, l.pool
	word := l.state.word.Load()
	if word&leaseStates != leaseIdle {
		l.handle.waste()
		return driver.ErrBadConn // taken back; the handle closes the husk and looks further
	}
	now := l.now()
	l.prepareHold(ctx, now, word)
	state := leaseHeld
	if p.reclaims {
		state = leaseBusy // the driver's ResetSession must not be cut
	}
	if !l.state.word.CompareAndSwap(word, (word&^leaseRaw|leaseTouched)+leaseCheckout+state) {
		l.handle.waste()
		return driver.ErrBadConn
	}
	if p.reclaims {
		defer l.leave()
	}
	s.used, s.sawEnd = true, false
	l.waited = 0
	returned := false
	defer l.survive(&returned)
	if s.suspect() {
		// It has to be pinged. That is left to Connect, which the third of database/sql's attempts is at the latest: if
		// each of them waited for a ping, a caller would wait three times as long as he has patience for.
		returned = true
		l.handle.waste()
		l.state.move(state, leaseIdle)
		return driver.ErrBadConn
	}
	if s.expires != 0 && now >= s.expires || l.recalled() {
		err := s.makeReady(ctx, p.patience(now), false)
		returned = true
		if err != nil {
			// Whatever it was, the connection is not to be used, and this is how to say so.
			s.bad = true
			l.handle.waste()
			return driver.ErrBadConn
		}
	} else if s.resetter != nil {
		// Other errors than ErrBadConn are ignored by database/sql.
		if err := s.resetter.ResetSession(ctx); err != nil && errors.Is(err, driver.ErrBadConn) {
			returned = true
			s.broke()
			return err
		}
	}
	returned = true
	if l.metrics != nil {
		l.metrics.checkedOut(ctx, p.now()-now)
	}
	return nil
}

// survive is deferred around calls into the driver. If one panics, the connection is closed and its place freed, where
// database/sql would have lost it for good.
func (l *lease) survive(returned *bool) {
	if !*returned && (l.state.move(leaseBusy, leaseGone) || l.state.move(leaseHeld, leaseGone) || l.state.move(leaseDoomed, leaseGone)) {
		l.session.bad = true
		l.giveUp(notHeld)
	}
}

// recalled says whether the pool was reset or made smaller since the lease was given.
func (l *lease) recalled() bool { return l.recalls != l.pool.recalls.Load() }

// IsValid is called by the handle when a connection is returned: true keeps the lease in the handle, false has the
// handle close it. It may be called twice in a row for one return.
func (l *lease) IsValid() bool {
	switch l.state.load() {
	case leaseIdle:
		return true
	case leaseDoomed, leaseEnding, leaseGone, leaseReclaimed:
		return false
	}
	s, p := l.session, l.pool
	state := leaseHeld
	if p.reclaims {
		if state = leaseBusy; !l.state.enter() {
			return false
		}
	}
	if l.metrics != nil {
		l.metrics.returned(l.hold.ctx, p.now()-l.hold.since)
	}
	returned := false
	defer l.survive(&returned)
	if !s.bad && !s.valid() {
		s.broke()
	}
	returned = true
	// The checkout stands for now, which saves a look at the clock.
	if s.bad || l.hold.since-l.born > leaseLifetime || p.waiting.Load() > 0 || l.recalled() {
		l.state.move(state, leaseEnding)
		return false
	}
	return l.putBack(state, leaseEnding)
}

// putBack makes a lease in state from idle, unless somebody waits: then the lease goes to state otherwise, the caller
// keeps the session, and the answer is false.
func (l *lease) putBack(from, otherwise uint64) bool {
	if !l.state.try(from, leaseIdle) {
		l.state.move(from, leaseIdle)
	}
	// Idle first, then the look: see Pool.waiting. If the move fails, a waiter was faster and has the session.
	return l.pool.waiting.Load() == 0 || !l.state.move(leaseIdle, otherwise)
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
		if l.metrics != nil {
			l.metrics.returned(l.hold.ctx, l.pool.now()-l.hold.since)
		}
	default:
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
	l.pool.mu.Lock()
	defer l.pool.mu.Unlock()
	if l.handle.drained != nil {
		return ErrPoolClosed
	}
	return driver.ErrBadConn
}

// giveUp ends the right of a lease that is gone already, by a caller who owns its session.
func (l *lease) giveUp(held int64) {
	s, p := l.session, l.pool
	l.end()
	if s.bad {
		s.statements = nil // they go with the connection
		p.discard(s)
		p.exit(l.handle)
		return
	}
	l.closeStatements()
	p.release(s, held)
	p.exit(l.handle)
}

// end takes a lease that is gone off its session.
func (l *lease) end() {
	l.session.lease.Store(nil)
	l.pool.counters.acquired.Add(l.state.checkouts())
}

// closeStatements closes what the handle still has open on the session, or a caller forgot to close.
func (l *lease) closeStatements() {
	s := l.session
	for _, st := range s.statements {
		_ = s.release(st.prepared) // nobody is left who could be told
	}
	s.statements = nil
}

// start begins an operation of the holder. Exactly one call of done follows if it returns nil.
func (l *lease) start(ctx context.Context, kind operationKind, query string) error {
	for {
		word := l.state.word.Load()
		switch word & leaseStates {
		case leaseHeld:
			if l.session.spoiled {
				return driver.ErrBadConn
			}
		case leaseLocked:
			runtime.Gosched()
			continue
		default:
			l.over()
			return l.lost()
		}
		last, next := &l.hold.activity[word/leaseActivity&1], &l.hold.activity[word/leaseActivity&1^1]
		next.query, next.began, next.operations = query, last.began, last.operations+1
		next.endless = ctx.Done() == nil
		if query == "" {
			next.query = last.query
		}
		// At rates at which not even stacks are taken, the first operation begins when the checkout ends, which saves
		// a look at the clock; see operation.assumed. If the janitor has looked at the hold, it is not that young.
		first := last.operations == 0
		assumed := first && !l.timed && l.hold.stack.n == 0 && word&leaseTouched != 0
		if !assumed {
			next.began = l.now()
		}
		if l.hold.stack.n == 0 && (l.hold.byOpener || next.began-l.hold.since > lateAfter) {
			l.captureLate(ctx, next.began)
		}
		if l.state.word.CompareAndSwap(word, ((word-leaseHeld+leaseBusy)^leaseActivity)|leaseTouched) {
			l.op.is(kind, query, next.began, l.waited, first, assumed)
			l.waited = 0
			return nil
		}
	}
}

// enter begins a call into the driver that is no operation of its own, such as fetching a row. Exactly one call of
// fetched, or of leave, follows if it returns nil. Only where connections are taken back from holders does the janitor
// have to know of it, and the two compare-and-swaps for each row are spent.
func (l *lease) enter() error {
	if l.pool.reclaims && l.state.enter() {
		return nil
	}
	if l.over() {
		return l.lost()
	}
	return nil
}

// leave ends what enter began.
func (l *lease) leave() {
	if l.pool.reclaims && !l.state.move(leaseBusy, leaseHeld) {
		l.over()
	}
}

// done is deferred to the end of an operation with the error it returns. If the driver panicked instead, returned is
// false.
func (l *lease) done(ctx context.Context, err *error, returned *bool) {
	// A query that succeeded goes on until its rows are closed.
	if *returned && (l.op.kind != opQuery || *err != nil) {
		l.ended(ctx, &l.op, 0, *err)
	}
	l.settle(ctx, err, returned)
}

// settle looks at how an operation ended for what it means to the connection.
func (l *lease) settle(ctx context.Context, err *error, returned *bool) {
	switch {
	case !*returned:
		l.survive(returned)
		return
	case *err != nil:
		l.failed(ctx, *err)
	}
	if !l.state.try(leaseBusy, leaseHeld) && !l.state.move(leaseBusy, leaseHeld) {
		l.over()
	}
}

// fetched is done for what is done with rows, which belongs to the query that gave them.
func (l *lease) fetched(ctx context.Context, err *error, returned *bool) {
	if *returned && (*err == nil || *err == io.EOF) { // database/sql compares by identity, too
		l.leave()
		return
	}
	l.settle(ctx, err, returned)
}

// failed looks at the error of an operation for what it says about the connection.
func (l *lease) failed(ctx context.Context, err error) {
	s := l.session
	if ctx.Err() != nil {
		s.sawEnd = true
	}
	if errors.Is(err, driver.ErrBadConn) {
		s.broke()
	}
}

// Ping is what sql.DB.Ping calls. As on a driver without it, it is no error if the wrapped one cannot ping.
func (l *lease) Ping(ctx context.Context) (err error) {
	if l.session.pinger == nil {
		if l.state.load() == leaseReclaimed {
			return ErrReclaimed
		}
		return nil
	}
	if err := l.start(ctx, opPing, ""); err != nil {
		return err
	}
	returned := false
	defer l.done(ctx, &err, &returned)
	ctx, b := l.session.bound(ctx)
	if c := l.session.intercepted; c != nil {
		err = c.Ping(ctx)
	} else {
		err = l.session.pinger.Ping(ctx)
	}
	err = b.end(err)
	returned = true
	return err
}

// CheckNamedValue asks the wrapped connection, if it wants to be asked.
func (l *lease) CheckNamedValue(v *driver.NamedValue) error {
	if l.session.checker == nil {
		return driver.ErrSkip
	}
	if err := l.enter(); err != nil {
		return err
	}
	defer l.leave()
	return l.session.checker.CheckNamedValue(v)
}

// Prepare is not called by database/sql, which prefers PrepareContext.
func (l *lease) Prepare(query string) (driver.Stmt, error) {
	return l.PrepareContext(context.Background(), query)
}

func (l *lease) PrepareContext(ctx context.Context, query string) (_ driver.Stmt, err error) {
	if err := l.start(ctx, opPrepare, query); err != nil {
		return nil, err
	}
	returned := false
	defer l.done(ctx, &err, &returned)
	ctx, b := l.session.bound(ctx)
	var p *prepared
	if c := l.session.intercepted; c != nil {
		p, err = c.prepareFor(ctx, query)
	} else {
		p, err = l.session.prepareFor(ctx, query)
	}
	err = b.end(err)
	returned = true
	if err != nil {
		return nil, err
	}
	return newStmt(l, p), nil
}

// Begin is not called by database/sql, which prefers BeginTx.
func (l *lease) Begin() (driver.Tx, error) {
	return l.BeginTx(context.Background(), driver.TxOptions{})
}

func (l *lease) BeginTx(ctx context.Context, opts driver.TxOptions) (_ driver.Tx, err error) {
	if l.hold.stack.n == 0 {
		l.captureLate(ctx, l.hold.since) // what begins here will be kept for a while
	}
	if err := l.start(ctx, opBegin, ""); err != nil {
		return nil, err
	}
	returned := false
	defer l.done(ctx, &err, &returned)
	b := l.session.boundSocket(ctx)
	var parent driver.Tx
	if c := l.session.intercepted; c != nil {
		parent, err = c.BeginTx(ctx, opts)
	} else {
		parent, err = l.session.begin(ctx, opts)
	}
	err = b.end(err)
	returned = true
	if err != nil {
		return nil, err
	}
	l.inTx.Store(true)
	return &tx{lease: l, parent: parent, ctx: ctx}, nil
}

func (l *lease) exec(ctx context.Context, query string, args []driver.NamedValue) (res driver.Result, err error) {
	if err := l.start(ctx, opExec, query); err != nil {
		return nil, err
	}
	returned := false
	defer l.done(ctx, &err, &returned)
	ctx, b := l.session.bound(ctx)
	if c := l.session.intercepted; c != nil {
		res, err = c.ExecContext(ctx, query, args)
	} else {
		res, err = l.session.exec(ctx, query, args)
	}
	err = b.end(err)
	returned = true
	return res, err
}

func (l *lease) query(ctx context.Context, query string, args []driver.NamedValue) (_ driver.Rows, err error) {
	if err := l.start(ctx, opQuery, query); err != nil {
		return nil, err
	}
	returned := false
	defer l.done(ctx, &err, &returned)
	ctx, b := l.session.bound(ctx)
	var parent driver.Rows
	var p *prepared
	if c := l.session.intercepted; c != nil {
		parent, err = c.QueryContext(ctx, query, args)
		p = statementOf(parent)
	} else {
		parent, p, err = l.session.query(ctx, query, args)
	}
	if err != nil {
		err = b.end(err)
	}
	returned = true
	if err != nil {
		return nil, err
	}
	return newRows(ctx, l, parent, p, p != nil, b), nil
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

// asDriverConn gives the lease the methods that the wrapped connection has. ExecerContext and QueryerContext are
// claimed only if the wrapped connection has them (or their legacy forms): for a connection that has not, database/sql
// prepares a statement and converts the arguments by what the statement says, which claiming the interface and
// answering driver.ErrSkip would change.
func (l *lease) asDriverConn() driver.Conn {
	s := l.session
	exec := s.execer != nil || s.oldExecer != nil
	query := s.queryer != nil || s.oldQueryer != nil
	switch {
	case exec && query:
		return execQueryConn{l}
	case exec:
		return execConn{l}
	case query:
		return queryConn{l}
	default:
		return l
	}
}

type (
	execConn      struct{ *lease }
	queryConn     struct{ *lease }
	execQueryConn struct{ *lease }
)

func (c execConn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	return c.exec(ctx, query, args)
}

func (c queryConn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	return c.query(ctx, query, args)
}

func (c execQueryConn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	return c.exec(ctx, query, args)
}

func (c execQueryConn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	return c.query(ctx, query, args)
}

var (
	_ driver.Conn               = (*lease)(nil)
	_ driver.ConnPrepareContext = (*lease)(nil)
	_ driver.ConnBeginTx        = (*lease)(nil)
	_ driver.Pinger             = (*lease)(nil)
	_ driver.NamedValueChecker  = (*lease)(nil)
	_ driver.SessionResetter    = (*lease)(nil)
	_ driver.Validator          = (*lease)(nil)
	_ driver.ExecerContext      = execConn{}
	_ driver.QueryerContext     = queryConn{}
	_ driver.ExecerContext      = execQueryConn{}
	_ driver.QueryerContext     = execQueryConn{}
	// Not driver.ColumnConverter, driver.Execer and driver.Queryer: the first belongs to statements, the others are
	// what database/sql falls back to.
)
