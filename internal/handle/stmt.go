package handle

import (
	"context"
	"database/sql/driver"

	"github.com/go-lifeguard/lifeguard/internal/fallback"
	"github.com/go-lifeguard/lifeguard/internal/observe"
	"github.com/go-lifeguard/lifeguard/internal/session"
)

// stmt is a statement that a handle prepared on a lease. It owns nothing: when the lease ends, the session closes what
// is prepared, and a Close that comes later has nothing to do.
type stmt struct {
	lease    *lease
	query    string
	prepared *session.Stmt
	inputs   int
}

// convertingStmt is stmt for a driver whose statements convert arguments.
type convertingStmt struct{ *stmt }

func (st convertingStmt) ColumnConverter(i int) driver.ValueConverter {
	var c driver.ValueConverter
	if st.lease.call(func() { c = st.prepared.Converter().ColumnConverter(i) }) != nil {
		return driver.DefaultParameterConverter
	}
	return c
}

func newStmt(l *lease, query string, prepared *session.Stmt) driver.Stmt {
	st := &stmt{lease: l, query: query, prepared: prepared, inputs: prepared.NumInput()}
	if prepared.Converter() != nil {
		return convertingStmt{st}
	}
	return st
}

func (st *stmt) NumInput() int { return st.inputs }

// CheckNamedValue asks the statement and then the connection, the order in which database/sql looks for a checker.
func (st *stmt) CheckNamedValue(v *driver.NamedValue) error {
	if c := st.prepared.Checker(); c != nil {
		return st.lease.check(c, v)
	}
	return st.lease.CheckNamedValue(v)
}

// Close closes the statement if its lease has not ended. A handle closes statements of leases that lie idle, too: then
// the lease is borrowed for as long as that takes.
func (st *stmt) Close() error {
	l := st.lease
	l.mu.Lock()
	before := l.state
	if before == taken || l.doomed {
		l.mu.Unlock()
		return nil
	}
	l.state, l.Began = running, l.now()
	if before == idle {
		l.Since = l.Began // a report must not take it for the checkout before
	}
	l.mu.Unlock()
	ok := false
	defer l.guard(&ok)
	err := st.prepared.Close()
	ok = true
	l.mu.Lock()
	end := int64(0) // what lay idle was not used
	if before == held {
		end = l.now()
	}
	settled := before == running || l.settleLocked(end)
	stays := before == idle && l.state == held && !l.s.Spoiled()
	if stays {
		l.state = idle
	}
	l.mu.Unlock()
	switch {
	case stays:
		l.stayIdle(0, l.now(), true)
	case !settled:
		l.slot.Discard()
	case before == idle:
		l.drop()
	case before == held && l.op.kind == observe.Prepare: // nothing has run on it
		l.returnUnasked(false)
	}
	return err
}

func (st *stmt) Exec(args []driver.Value) (driver.Result, error) {
	return st.ExecContext(context.Background(), fallback.Ordinal(args))
}

func (st *stmt) Query(args []driver.Value) (driver.Rows, error) {
	return st.QueryContext(context.Background(), fallback.Ordinal(args))
}

func (st *stmt) ExecContext(ctx context.Context, args []driver.NamedValue) (res driver.Result, err error) {
	err = st.lease.run(ctx, observe.Exec, st.query, func() (err error) {
		res, err = st.prepared.Exec(ctx, args)
		return err
	})
	return res, err
}

func (st *stmt) QueryContext(ctx context.Context, args []driver.NamedValue) (driver.Rows, error) {
	return st.lease.runRows(ctx, st.query, func(to *session.Result) error { return st.prepared.Query(ctx, args, to) })
}
