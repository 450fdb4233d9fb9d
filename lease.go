package lifeguard

import (
	"context"
	"database/sql/driver"
	"errors"
	"io"
	"log/slog"
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

	leaseStates   uint64 = 7   // mask
	leaseActivity uint64 = 8   // which of hold.activity is the present one
	leaseRaw      uint64 = 16  // the holder got the driver's connection, whose use cannot be seen: see Unwrap
	leaseTouched  uint64 = 32  // the holder did something since the janitor last looked
	leaseInTx     uint64 = 64  // the holder is in a transaction
	leaseReclaims uint64 = 128 // for good: the connection may be taken back from its holder
	leaseCheckout uint64 = 256 // the bits above count checkouts, which makes counting free
)

// leaseState is the state of a lease. It is one word, because each further atomic write would be felt: a checkout, an
// operation's begin and end, and a return are one each, and about the only thing that lifeguard adds to an idle pool.
type leaseState struct{ word atomic.Uint64 }

func (s *leaseState) load() uint64      { return s.word.Load() & leaseStates }
func (s *leaseState) checkouts() uint64 { return s.word.Load() / leaseCheckout }
func (s *leaseState) inTx() bool        { return s.word.Load()&leaseInTx != 0 }

// quiet says whether the holder may go on, and nobody has to be told that he does.
func (s *leaseState) quiet() bool {
	return s.word.Load()&(leaseStates|leaseReclaims)-leaseHeld <= leaseLocked-leaseHeld
}

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
	number  uint64       // among the leases of the session
	born    atomic.Int64 // pool clock
	state   leaseState
	counted atomic.Uint64 // checkouts that Pool.counters has
	hold    hold
	leaked  uint64 // the checkout that was reported as a leak; guarded by leaseLocked
	watch   watch  // the janitor's

	// The holder's own: no report reads them.
	clock     leaseClock
	recalls   int64     // Pool.recalls when it was given
	metrics   *metrics  // nil while nobody reads them
	limit     int64     // observer.limit
	waited    int64     // nanoseconds; how long the checkout took, until its first operation has begun
	op        operation // present one
	tx        tx        // used again and again: database/sql does not touch a transaction after its end
	timed     bool      // every operation's begin is read from the clock
	reclaims  bool      // Pool.reclaims
	direct    bool      // nothing stands between an operation and the driver: no interceptor, no socket_timeout
	spans     bool      // each operation has one
	unsampled bool      // the last span was made for nothing
}

// hold is what is known about the present holder of a lease, for reports that are made while he works. A report reads it
// with the lease locked. The holder writes it without: all of it before the checkout, and later the activity that is not
// the present one; the change of state that follows publishes what was written.
type hold struct {
	since    int64           // pool clock; when it was checked out
	ctx      context.Context // of the checkout; stays until the next one, or until the lease ends a second later or so
	stack    stack
	byOpener bool // database/sql opened the connection on a goroutine of its own: ctx and stack say nothing
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

// activityOf is what the holder did last, as of when the lease's state was word. It is called with the lease locked, or
// by the holder.
func (l *lease) activityOf(word uint64) activity {
	a := l.hold.activity[word/leaseActivity&1]
	if a.checkout != word/leaseCheckout {
		return activity{checkout: word / leaseCheckout, began: l.hold.since} // nothing yet
	}
	return a
}

// newLease puts a session into ctx's hands. If the last lease on it has ended as most do, it is used again.
func newLease(h *connector, s *session, ctx context.Context, c *checkout) *lease {
	p := h.pool
	l := s.spare
	if l == nil || l.handle != h {
		l = &lease{pool: p, handle: h, session: s, reclaims: p.reclaims}
		l.limit = p.observer.limit
		l.spans = p.observer.tracer != nil && p.observer.trace == TraceAll
		l.clock.ticks = &p.tick.count
		l.direct = s.intercepted == nil && p.cfg.SocketTimeout <= 0
		s.leases++
		l.number = s.leases
	}
	s.spare = nil
	now := p.now()
	l.born.Store(now)
	l.clock.last, l.clock.quick, l.clock.spare = now, 0, 0
	l.recalls = p.recalls.Load()
	l.metrics = p.metrics.enabled(ctx)
	l.timed = l.metrics != nil || p.observer.timed
	l.waited = now - c.start
	c.note(p, now, 2) // below newLease and Connect
	hold := &l.hold
	hold.since, hold.ctx, hold.byOpener = now, ctx, false
	hold.stack = c.stack
	if hold.stack.isOpener() {
		hold.stack.n, hold.byOpener = 0, true
	}
	// The count goes on, so that no two checkouts of a lease are the same.
	word := l.state.checkouts()*leaseCheckout + leaseCheckout + leaseTouched + leaseHeld
	if l.reclaims {
		word += leaseReclaims
	}
	l.state.word.Store(word)
	s.used, s.sawEnd = true, false
	s.lease.Store(l)
	return l
}

// ResetSession is called by the handle when it checks out a connection that was idle.
func (l *lease) ResetSession(ctx context.Context) (err error) {
	s, p := l.session, l.pool
	word := l.state.word.Load()
	if word&leaseStates != leaseIdle {
		l.handle.waste()
		return driver.ErrBadConn // taken back; the handle closes the husk and looks further
	}
	now := l.now()
	h := &l.hold
	h.since, h.ctx, h.byOpener = now, ctx, false // nobody reads this unless the checkout succeeds
	switch {
	case l.spans && !l.unsampled:
		// The first operation's span will ask for it, and from where that ends the stack is twice as deep.
		h.stack.captureAlways(&p.capture, 1) // below ResetSession
	case p.capture.spent(now):
		h.stack.n = 0
	default:
		h.stack.capture(&p.capture, now, 1)
	}
	state := leaseHeld
	if l.reclaims {
		state = leaseBusy // the driver's ResetSession must not be cut
	}
	if !l.state.word.CompareAndSwap(word, (word&^(leaseRaw|leaseInTx)|leaseTouched)+leaseCheckout+state) {
		l.handle.waste()
		return driver.ErrBadConn
	}
	returned := false
	defer func() {
		if !returned {
			l.survive()
		}
	}()
	s.used, s.sawEnd = true, false
	l.waited = 0
	switch {
	case s.suspect():
		// It has to be pinged. That is left to Connect, which the third of database/sql's attempts is at the latest: if
		// each of them waited for a ping, a caller would wait three times as long as he has patience for.
		returned = true
		l.handle.waste()
		l.state.move(state, leaseIdle)
		return driver.ErrBadConn
	case s.expires != 0 && now >= s.expires || l.recalled():
		if s.makeReady(ctx, p.patience(now), false) != nil {
			// Whatever it was, the connection is not to be used, and this is how to say so.
			s.bad = true
			l.handle.waste()
			err = driver.ErrBadConn
		}
	case s.resetter != nil:
		// Other errors than ErrBadConn are ignored by database/sql.
		if err = s.resetter.ResetSession(ctx); err != nil {
			if errors.Is(err, driver.ErrBadConn) {
				s.broke()
			} else {
				err = nil
			}
		}
	}
	l.leave()
	if l.metrics != nil && err == nil {
		l.metrics.checkedOut(ctx, p.now()-now)
	}
	returned = true
	return err
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
	if l.reclaims {
		if state = leaseBusy; !l.state.enter() {
			return false
		}
	}
	returned := false
	defer func() {
		if !returned {
			l.survive()
		}
	}()
	l.measureUse()
	if s.validator != nil && !s.bad && !s.validator.IsValid() {
		s.broke()
	}
	returned = true
	// The checkout stands for now, which saves a look at the clock.
	if s.bad || l.hold.since-l.born.Load() > leaseLifetime || p.waiting.Load() > 0 {
		l.state.move(state, leaseEnding)
		return false
	}
	if !l.state.try(state, leaseIdle) && !l.state.move(state, leaseIdle) {
		return false // a shutdown has just ended
	}
	return l.stays(leaseEnding)
}

// putBack makes a lease in state from idle, unless somebody waits: then the lease goes to state otherwise, the caller
// keeps the session, and the answer is false.
func (l *lease) putBack(from, otherwise uint64) bool {
	l.state.move(from, leaseIdle)
	return l.stays(otherwise)
}

// stays says whether a lease that has just become idle may remain so. Idle first, then the look: see Pool.waiting. If it
// may not and the move fails, whoever looked for idle leases was faster, and has the session.
func (l *lease) stays(otherwise uint64) bool {
	return l.pool.waiting.Load() == 0 && !l.recalled() || !l.state.move(leaseIdle, otherwise)
}

// Close gives the session back. A handle that closes a connection without having been told that it is not valid any
// more considers it broken: that ends the physical connection, as it would without lifeguard.
func (l *lease) Close() error {
	held := int64(notHeld)
	switch {
	case l.state.move(leaseEnding, leaseGone):
		held = l.pool.now() - l.hold.since
		if len(l.session.statements) == 0 {
			// Nobody has it any more: a handle closes a connection once. A statement of a sql.Conn that is still open
			// may be closed at any time later.
			l.hold.ctx = nil
			l.session.spare = l
		}
	case l.state.move(leaseIdle, leaseGone):
		// The handle keeps fewer idle connections, or is closing.
	case l.state.move(leaseHeld, leaseGone), l.state.move(leaseDoomed, leaseGone):
		l.session.bad = true
		l.measureUse()
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
	l.pool.mu.Lock()
	defer l.pool.mu.Unlock()
	if l.handle.drained != nil {
		return ErrPoolClosed
	}
	return driver.ErrBadConn
}

// giveUp ends the right of a lease that is gone already, by a caller who owns its session. The lease may be somebody
// else's when it returns.
func (l *lease) giveUp(held int64) {
	s, p, h := l.session, l.pool, l.handle
	l.end()
	if s.bad {
		s.statements = nil // they go with the connection
	}
	l.closeStatements()
	if s.bad {
		p.discard(s)
		p.exit(h)
		return
	}
	p.release(s, held, h)
}

// end takes a lease that is gone off its session.
func (l *lease) end() {
	l.session.lease.Store(nil)
	checkouts := l.state.checkouts()
	l.pool.counters.acquired.Add(checkouts - l.counted.Swap(checkouts))
}

// closeStatements closes what the handle still has open on the session, or a caller forgot to close. Nobody is left who
// could be told of an error; a panic must not cost the place.
func (l *lease) closeStatements() {
	s := l.session
	for _, st := range s.statements {
		func() {
			defer func() {
				if v := recover(); v != nil {
					s.bad = true
					s.pool.log.Error("lifeguard: the driver panicked while it closed a statement",
						slog.String("pool", s.pool.name), slog.Any("panic", v))
				}
			}()
			_ = s.release(st.prepared)
		}()
		if s.bad {
			break // the others go with the connection
		}
	}
	s.statements = nil
}

// start begins an operation of the holder. Exactly one call of finish, or of survive, follows if it returns nil.
func (l *lease) start(ctx context.Context, kind operationKind, query string) error {
	for {
		word := l.state.word.Load()
		if word&leaseStates != leaseHeld {
			if word&leaseStates == leaseLocked {
				runtime.Gosched()
				continue
			}
			l.over()
			return l.lost()
		}
		if l.session.spoiled {
			return driver.ErrBadConn
		}
		h := &l.hold
		last, next := &h.activity[word/leaseActivity&1], &h.activity[word/leaseActivity&1^1]
		operations := 1
		if last.checkout == word/leaseCheckout {
			operations = last.operations + 1
			if query == "" {
				query = last.query
			}
		}
		began := l.now()
		if h.stack.n == 0 && (h.byOpener || began-h.since > lateAfter) {
			l.captureLate(ctx, began)
		}
		next.checkout, next.query, next.began, next.operations = word/leaseCheckout, query, began, operations
		next.endless = kind == opQuery && ctx.Done() == nil
		if l.state.word.CompareAndSwap(word, ((word-leaseHeld+leaseBusy)^leaseActivity)|leaseTouched) {
			l.op.is(kind, began, l.waited, operations == 1)
			l.waited = 0
			return nil
		}
	}
}

// finish ends an operation with the error that its caller gets. A query that succeeded goes on until its rows are closed.
func (l *lease) finish(ctx context.Context, query string, err error) {
	if err != nil {
		l.ended(ctx, &l.op, query, 0, err)
		l.failed(ctx, err)
	} else if l.op.kind != opQuery {
		l.ended(ctx, &l.op, query, 0, nil)
	}
	for {
		word := l.state.word.Load()
		if word&leaseStates != leaseBusy {
			if word&leaseStates == leaseLocked {
				runtime.Gosched()
				continue
			}
			l.over()
			return
		}
		next := word - leaseBusy + leaseHeld
		switch l.op.kind {
		case opBegin:
			if err == nil {
				next |= leaseInTx
			}
		case opCommit, opRollback:
			next &^= leaseInTx
		}
		if l.state.word.CompareAndSwap(word, next) {
			return
		}
	}
}

// enter begins a call into the driver that is no operation of its own, such as fetching a row. Exactly one call of
// leave, or of survive, follows if it returns nil. Only where connections are taken back from holders does the janitor
// have to know of it, and the two compare-and-swaps for each row are spent.
func (l *lease) enter() error {
	if l.state.quiet() {
		return nil
	}
	return l.enterBusy()
}

func (l *lease) enterBusy() error {
	if l.reclaims && l.state.enter() {
		return nil
	}
	if l.over() {
		return l.lost()
	}
	return nil
}

// leave ends what enter began.
func (l *lease) leave() {
	if l.reclaims {
		l.leaveBusy()
	}
}

func (l *lease) leaveBusy() {
	if !l.state.move(leaseBusy, leaseHeld) {
		l.over()
	}
}

// enterBeside is enter for what is called on the connection or on a statement, rather than on rows. While rows are open
// it has to be seen in every pool: rows that were lost may cost a sql.Conn its connection, which its holder may just be
// using. What is done with rows need not be, as nothing is taken back for lost ones while others may be in use.
func (l *lease) enterBeside() error {
	if !l.seen() {
		return l.enter()
	}
	if l.state.enter() {
		return nil
	}
	if l.over() {
		return l.lost()
	}
	return nil
}

// leaveBeside is deferred to the end of what enterBeside began. If the driver panicked, returned is false: database/sql
// loses the connection of a query when that happens before it, as when it looks at the arguments.
func (l *lease) leaveBeside(returned *bool) {
	switch {
	case !*returned:
		l.survive()
	case l.seen():
		l.leaveBusy()
	}
}

// seen says whether the janitor has to know of calls beside operations and rows.
func (l *lease) seen() bool { return l.reclaims || l.session.kept.rows > 0 }

// fetched is leave for what is done with rows, which may fail.
func (l *lease) fetched(ctx context.Context, err error) {
	if err != nil && err != io.EOF { // database/sql compares by identity, too
		l.failed(ctx, err)
	}
	l.leave()
}

// failed looks at the error of an operation for what it says about the connection.
func (l *lease) failed(ctx context.Context, err error) {
	s := l.session
	s.outOfStep(err)
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
	defer func() {
		if !returned {
			l.survive()
		}
	}()
	bounded, b := l.session.bound(ctx)
	if c := l.session.intercepted; c != nil {
		err = c.Ping(bounded)
	} else {
		err = l.session.pinger.Ping(bounded)
	}
	err = b.end(err)
	l.finish(ctx, "", err)
	returned = true
	return err
}

// CheckNamedValue asks the wrapped connection, if it wants to be asked.
func (l *lease) CheckNamedValue(v *driver.NamedValue) error {
	checker := l.session.checker
	if checker == nil {
		return driver.ErrSkip
	}
	if err := l.enterBeside(); err != nil {
		return err
	}
	returned := false
	defer l.leaveBeside(&returned)
	err := checker.CheckNamedValue(v)
	returned = true
	return err
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
	defer func() {
		if !returned {
			l.survive()
		}
	}()
	bounded, b := l.session.bound(ctx)
	var p *prepared
	if c := l.session.intercepted; c != nil {
		p, err = c.prepareFor(bounded, query)
	} else {
		p, err = l.session.prepareFor(bounded, query)
	}
	err = b.end(err)
	var st driver.Stmt
	if err == nil {
		st = newStmt(l, p)
	}
	l.finish(ctx, query, err)
	returned = true
	return st, err
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
	defer func() {
		if !returned {
			l.survive()
		}
	}()
	var parent driver.Tx
	if l.direct {
		parent, err = l.session.begin(ctx, opts)
	} else {
		parent, err = l.beginAround(ctx, opts)
	}
	l.finish(ctx, "", err)
	returned = true
	if err != nil {
		return nil, err
	}
	t := &l.tx
	if t.lease != nil {
		t = new(tx) // the driver lets a transaction begin inside another
	}
	t.lease, t.parent, t.ctx = l, parent, ctx
	return t, nil
}

// beginAround, execAround and queryAround are for when something stands between an operation and the driver.

func (l *lease) beginAround(ctx context.Context, opts driver.TxOptions) (parent driver.Tx, err error) {
	b := l.session.boundSocket(ctx)
	if c := l.session.intercepted; c != nil {
		parent, err = c.BeginTx(ctx, opts)
	} else {
		parent, err = l.session.begin(ctx, opts)
	}
	return parent, b.end(err)
}

func (l *lease) exec(ctx context.Context, query string, args []driver.NamedValue) (res driver.Result, err error) {
	if err := l.start(ctx, opExec, query); err != nil {
		return nil, err
	}
	returned := false
	defer func() {
		if !returned {
			l.survive()
		}
	}()
	if l.direct {
		res, err = l.session.exec(ctx, query, args)
	} else {
		res, err = l.execAround(ctx, query, args)
	}
	l.finish(ctx, query, err)
	returned = true
	return res, err
}

func (l *lease) execAround(ctx context.Context, query string, args []driver.NamedValue) (res driver.Result, err error) {
	ctx, b := l.session.bound(ctx)
	if c := l.session.intercepted; c != nil {
		res, err = c.ExecContext(ctx, query, args)
	} else {
		res, err = l.session.exec(ctx, query, args)
	}
	return res, b.end(err)
}

func (l *lease) query(ctx context.Context, query string, args []driver.NamedValue) (_ driver.Rows, err error) {
	if err := l.start(ctx, opQuery, query); err != nil {
		return nil, err
	}
	returned := false
	defer func() {
		if !returned {
			l.survive()
		}
	}()
	var parent driver.Rows
	var p *prepared
	var b *bound
	bounded := ctx
	if l.direct {
		parent, p, err = l.session.query(ctx, query, args)
	} else {
		bounded, parent, p, b, err = l.queryAround(ctx, query, args)
	}
	var rows driver.Rows
	if err == nil {
		rows = newRows(bounded, l, query, parent, p, p != nil, b)
	}
	l.finish(ctx, query, err)
	returned = true
	return rows, err
}

// queryAround also gives what the rows are bound by.
func (l *lease) queryAround(ctx context.Context, query string, args []driver.NamedValue) (
	_ context.Context, parent driver.Rows, p *prepared, b *bound, err error,
) {
	ctx, b = l.session.bound(ctx)
	if c := l.session.intercepted; c != nil {
		parent, err = c.QueryContext(ctx, query, args)
		p = statementOf(parent)
	} else {
		parent, p, err = l.session.query(ctx, query, args)
	}
	if err != nil {
		err = b.end(err)
	}
	return ctx, parent, p, b, err
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
