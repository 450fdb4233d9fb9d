package handle

import (
	"context"
	"database/sql/driver"

	"github.com/go-lifeguard/lifeguard/internal/observe"
	"github.com/go-lifeguard/lifeguard/internal/session"
)

// The types of connections that a handle gets: a lease with the methods that the wrapped connection has. For one without
// ExecerContext or its older form database/sql prepares a statement, and converts the arguments as the statement says;
// claiming the interface and answering driver.ErrSkip would convert them otherwise.
type (
	execConn      struct{ *lease }
	queryConn     struct{ *lease }
	execQueryConn struct{ execConn }
)

// asConn gives the lease the methods that its session has.
func (l *lease) asConn() driver.Conn {
	switch exec, query := l.s.CanExec(), l.s.CanQuery(); {
	case exec && query:
		return execQueryConn{execConn{l}}
	case exec:
		return execConn{l}
	case query:
		return queryConn{l}
	default:
		return l
	}
}

func (c execConn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	return c.runExec(ctx, query, args)
}

func (c queryConn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	return c.runQuery(ctx, query, args)
}

func (c execQueryConn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	return c.runQuery(ctx, query, args)
}

func (l *lease) runExec(ctx context.Context, query string, args []driver.NamedValue) (res driver.Result, err error) {
	err = l.run(ctx, observe.Exec, query, func() (err error) {
		res, err = l.s.Exec(ctx, query, args)
		return err
	})
	return res, err
}

func (l *lease) runQuery(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	return l.runRows(ctx, query, func(to *session.Result) error { return l.s.Query(ctx, query, args, to) })
}

// runRows runs a query, whose rows are open if there is no error.
func (l *lease) runRows(ctx context.Context, query string, f func(*session.Result) error) (driver.Rows, error) {
	var r *rows
	err := l.run(ctx, observe.Query, query, func() error {
		r = newRows(ctx, l, query)
		err := f(&r.res)
		if err != nil {
			r.keep(l)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return r.opened(), nil
}

// Ping is what sql.DB.Ping calls. As on a driver without it, it is no error if the wrapped one cannot ping.
func (l *lease) Ping(ctx context.Context) error {
	if l.s.CanPing() {
		return l.run(ctx, observe.Ping, "", func() error { return l.s.Ping(ctx) })
	}
	if l.gone.Load() {
		return l.lost()
	}
	return nil
}

// CheckNamedValue asks the wrapped connection, if it wants to be asked. Where the lease is gone any value will do: the
// operation tells its caller, and database/sql would put an argument's name before the error.
func (l *lease) CheckNamedValue(v *driver.NamedValue) error {
	if l.gone.Load() {
		return nil
	}
	if c := l.s.Checker(); c != nil {
		return l.check(c, v)
	}
	return driver.ErrSkip
}

func (l *lease) check(c driver.NamedValueChecker, v *driver.NamedValue) (err error) {
	_ = l.call(func() { err = c.CheckNamedValue(v) })
	return err
}

func (l *lease) Prepare(query string) (driver.Stmt, error) {
	return l.PrepareContext(context.Background(), query)
}

func (l *lease) PrepareContext(ctx context.Context, query string) (st driver.Stmt, err error) {
	err = l.run(ctx, observe.Prepare, query, func() error {
		prepared, err := l.s.PrepareStmt(ctx, query)
		if err == nil {
			st = newStmt(l, query, prepared)
		}
		return err
	})
	return st, err
}

func (l *lease) BeginTx(ctx context.Context, opts driver.TxOptions) (driver.Tx, error) {
	var parent driver.Tx
	err := l.run(ctx, observe.Begin, "", func() (err error) {
		parent, err = l.s.BeginTx(ctx, opts)
		return err
	})
	if err != nil {
		return nil, err
	}
	t := &l.tx
	if t.lease != nil {
		t = new(tx) // the driver lets a transaction begin inside another
	}
	t.lease, t.parent, t.ctx = l, parent, ctx
	l.readOnly = opts.ReadOnly
	return t, nil
}

func (l *lease) Begin() (driver.Tx, error) {
	return l.BeginTx(context.Background(), driver.TxOptions{})
}
