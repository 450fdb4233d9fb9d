package lifeguard

import (
	"context"
	"database/sql/driver"
	"errors"
	"io"
	"runtime"
)

// start begins an operation of the holder. Exactly one call of finish, or of survive, follows if it returns nil.
func (l *lease) start(ctx context.Context, kind operationKind, query string) error {
	for {
		word := l.state.word.Load()
		if word&leaseStates != leaseHeld {
			if word&leaseStates == leaseLocked {
				runtime.Gosched()
				continue
			}
			if l.due {
				if err := l.checkOut(ctx); err != nil {
					return err
				}
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
		if h.site == nil && (h.byOpener || began-h.since > lateAfter) {
			l.noteLate(ctx, began)
		}
		next.is(word/leaseCheckout, query, began, operations, kind == opQuery && ctx.Done() == nil)
		if l.state.word.CompareAndSwap(word, ((word-leaseHeld+leaseBusy)^leaseActivity)|leaseTouched) {
			l.op.is(kind, began, l.waited, operations == 1)
			l.waited = 0
			return nil
		}
	}
}

// startChecked is start for an operation that may be the one which the checkout was put off for. Its caller expects the
// driver to panic, when it is asked to reset the session.
func (l *lease) startChecked(ctx context.Context, kind operationKind, query string) error {
	word := l.state.word.Load()
	if !l.due || word&leaseStates != leaseIdle {
		return l.start(ctx, kind, query)
	}
	now := l.note()
	l.hold.activity[word/leaseActivity&1].is(word/leaseCheckout+1, query, now, 1, kind == opQuery && ctx.Done() == nil)
	if !l.state.word.CompareAndSwap(word, checkedOut(word)+leaseBusy) {
		return l.start(ctx, kind, query)
	}
	l.due = false
	l.op.is(kind, now, 0, true)
	err := l.reset(ctx, now, leaseBusy)
	if err != nil {
		l.state.move(leaseBusy, leaseHeld) // if it is not idle again
	}
	return err
}

// finishQuick is finish for an operation that succeeded, if it took next to no time, and nobody has to be told.
func (l *lease) finishQuick() bool { return l.clock.repeats() && l.state.try(leaseBusy, leaseHeld) }

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
func (l *lease) seen() bool { return l.reclaims || l.session != nil && l.session.kept.rows > 0 }

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
	if l.session == nil {
		return l.lost()
	}
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
	if l.due {
		if err := l.checkOut(l.hold.ctx); err != nil {
			return err
		}
	}
	if l.session == nil {
		return nil // the operation that follows says why; database/sql would call it an error of the argument
	}
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

func (l *lease) PrepareContext(ctx context.Context, query string) (driver.Stmt, error) {
	st := &stmt{lease: l, text: query}
	if err := st.prepare(ctx); err != nil {
		return nil, err
	}
	return st.asDriverStmt(), nil
}

// Begin is not called by database/sql, which prefers BeginTx.
func (l *lease) Begin() (driver.Tx, error) {
	return l.BeginTx(context.Background(), driver.TxOptions{})
}

func (l *lease) BeginTx(ctx context.Context, opts driver.TxOptions) (_ driver.Tx, err error) {
	if l.hold.site == nil {
		l.noteLate(ctx, l.hold.since) // what begins here will be kept for a while
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

func (c *execConn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (res driver.Result, err error) {
	l := &c.lease
	if l.sole != soleDue {
		return l.execGuarded(ctx, query, args)
	}
	l.sole = soleRuns
	if err := l.startChecked(ctx, opExec, query); err != nil {
		l.sole = soleNot
		return nil, err
	}
	switch s := l.session; {
	case s.plain:
		res, err = s.execer.ExecContext(ctx, query, args)
	case l.direct:
		res, err = s.exec(ctx, query, args)
	default:
		res, err = l.execAround(ctx, query, args)
	}
	if err == nil && l.clock.repeats() {
		l.sole = soleEnded
		return res, nil
	}
	l.sole = soleNot
	l.finish(ctx, query, err)
	return res, err
}

func (l *lease) execGuarded(ctx context.Context, query string, args []driver.NamedValue) (res driver.Result, err error) {
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
	if err != nil || !l.finishQuick() {
		l.finish(ctx, query, err)
	}
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
	returned := false
	defer func() {
		if !returned {
			l.survive()
		}
	}()
	if err := l.startChecked(ctx, opQuery, query); err != nil {
		returned = true
		return nil, err
	}
	var parent driver.Rows
	var p *prepared
	var b *bound
	bounded := ctx
	switch s := l.session; {
	case s.plain:
		parent, err = s.queryer.QueryContext(ctx, query, args)
	case l.direct:
		parent, p, err = s.query(ctx, query, args)
	default:
		bounded, parent, p, b, err = l.queryAround(ctx, query, args)
	}
	var rows driver.Rows
	if err == nil {
		rows = newRows(bounded, l, query, parent, p, p != nil, b)
	}
	if err != nil || !l.state.try(leaseBusy, leaseHeld) {
		l.finish(ctx, query, err)
	}
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
