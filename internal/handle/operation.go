package handle

import (
	"context"
	"database/sql/driver"
	"time"

	"github.com/go-lifeguard/lifeguard/internal/observe"
)

// operation is one that the holder runs.
type operation struct {
	kind   observe.Kind
	began  int64 // pool clock
	waited int64 // how long the checkout before it took, in ns; 0 for all but the first operation of a checkout
	first  bool
	failed bool
	caller *observe.Caller // of a query, where each operation has a span
}

// run runs an operation of the holder.
func (l *lease) run(ctx context.Context, kind observe.Kind, query string, f func() error) error {
	if err := l.begin(ctx, kind, query); err != nil {
		return err
	}
	ok := false
	defer l.guard(&ok)
	err := f()
	l.end(ctx, query, err)
	ok = true
	return err
}

// call runs a call into the driver that is no operation.
func (l *lease) call(f func()) error {
	if err := l.enter(); err != nil {
		return err
	}
	ok := false
	defer l.guard(&ok)
	f()
	ok = true
	l.leave()
	return nil
}

// begin starts an operation of the holder. end follows if it returns nil.
func (l *lease) begin(ctx context.Context, kind observe.Kind, query string) error {
	now := l.now()
	l.mu.Lock()
	if l.state != held || l.doomed {
		soon := l.over
		l.mu.Unlock()
		if l.usedUnseen(ctx, now, soon) {
			return l.begin(ctx, kind, query)
		}
		return l.refuse()
	}
	if l.state = running; l.over { // a library runs another operation in one that database/sql knows
		l.over = false
		l.conn.library.GoesOn.See()
	}
	l.Began = now
	l.Operations++
	first := l.Operations == 1
	if query != "" {
		l.Query = query
	}
	l.Endless = kind == observe.Query && ctx.Done() == nil
	if l.stack.Empty() && l.conn.pool.stacks.Take(now) {
		l.stack.Capture(2)
	}
	l.mu.Unlock()
	if l.s.Silenced() {
		if !l.settle(now) {
			l.slot.Discard()
		}
		return driver.ErrBadConn
	}
	l.op = operation{kind: kind, began: now, waited: l.first, first: first}
	l.first = 0
	return nil
}

// refuse answers the holder of a lease that is gone, and closes one that is doomed.
func (l *lease) refuse() error {
	l.mu.Lock()
	mine := l.doomed && l.takeLocked(l.why) != taken
	l.mu.Unlock()
	if mine {
		l.slot.Discard()
	}
	return l.lost()
}

// end ends an operation with the error that its caller gets. A query that succeeded goes on until its rows are closed.
func (l *lease) end(ctx context.Context, query string, err error) {
	now := l.now()
	l.op.failed = err != nil
	l.judge(ctx, err)
	l.mu.Lock()
	if err == nil && l.op.kind == observe.Begin {
		l.InTx = true
	}
	if l.op.kind == observe.Commit || l.op.kind == observe.Rollback {
		l.InTx = false
	}
	settled := l.settleLocked(now)
	l.mu.Unlock()
	if err != nil || l.op.kind != observe.Query {
		l.show(ctx, &l.op, query, 0, now, err)
	}
	switch kind := l.op.kind; {
	case !settled:
		l.slot.Discard()
	case err == driver.ErrSkip || err == nil && kind == observe.Prepare: // database/sql goes on with a statement
	case err == nil && kind == observe.Query: // it ends with its rows
	default:
		l.returnUnasked(kind != observe.Rollback || ctx.Err() == nil) // else database/sql may close the connection, or Rollback
	}
}

// judge notes what the outcome of a call says about the connection.
func (l *lease) judge(ctx context.Context, err error) {
	switch {
	case err == nil:
		l.slot.Answered()
	case l.s.Judge(ctx, err):
		l.slot.Broke(false)
	case !l.readOnly && l.s.Demoted(ctx, err):
		l.slot.Demoted()
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
	if !l.conn.pool.cfg.Reclaims {
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
	l.state, l.Began, l.Touched = running, now, now
	l.mu.Unlock()
	return nil
}

func (l *lease) leave() {
	if l.conn.pool.cfg.Reclaims && !l.settle(l.now()) {
		l.slot.Discard()
	}
}
