package handle

import (
	"context"
	"database/sql/driver"

	"github.com/go-lifeguard/lifeguard/internal/observe"
)

// The types of connections that a handle gets: a lease with the methods that the wrapped connection has. For one without
// ExecerContext or its older form database/sql prepares a statement, and converts the arguments as the statement says;
// claiming the interface and answering driver.ErrSkip would convert them otherwise.
type (
	execConn      struct{ *lease }
	queryConn     struct{ *lease }
	execQueryConn struct{ *lease }
)

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
	// Not driver.ColumnConverter, driver.Execer and driver.Queryer: the first belongs to statements, the others are what
	// database/sql falls back to.
)

// asConn gives the lease the methods that its session has.
func (l *lease) asConn() driver.Conn {
	switch exec, query := l.s.CanExec(), l.s.CanQuery(); {
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

func (c execConn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	return c.runExec(ctx, query, args)
}

func (c queryConn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	return c.runQuery(ctx, query, args)
}

func (c execQueryConn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	return c.runExec(ctx, query, args)
}

func (c execQueryConn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	return c.runQuery(ctx, query, args)
}

func (l *lease) runExec(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	if err := l.begin(ctx, observe.Exec, query); err != nil {
		return nil, err
	}
	ok := false
	defer l.guard(&ok)
	res, err := l.s.Exec(ctx, query, args)
	l.end(ctx, query, err)
	ok = true
	return res, err
}

func (l *lease) runQuery(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	if err := l.begin(ctx, observe.Query, query); err != nil {
		return nil, err
	}
	ok := false
	defer l.guard(&ok)
	r := l.newRows(ctx, query)
	err := l.s.Query(ctx, query, args, &r.res)
	l.end(ctx, query, err)
	ok = true
	if err != nil {
		l.keepRows(r)
		return nil, err
	}
	return r.opened(), nil
}

// Ping is what sql.DB.Ping calls. As on a driver without it, it is no error if the wrapped one cannot ping.
func (l *lease) Ping(ctx context.Context) error {
	if l.s.CanPing() {
		if err := l.begin(ctx, observe.Ping, ""); err != nil {
			return err
		}
		ok := false
		defer l.guard(&ok)
		err := l.s.Ping(ctx)
		l.end(ctx, "", err)
		ok = true
		return err
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
	checker := l.s.Checker()
	if checker == nil {
		return driver.ErrSkip
	}
	if l.enter() != nil {
		return nil
	}
	ok := false
	defer l.guard(&ok)
	err := checker.CheckNamedValue(v)
	ok = true
	l.leave()
	return err
}

// Prepare is not called by database/sql, which prefers PrepareContext.
func (l *lease) Prepare(query string) (driver.Stmt, error) {
	return l.PrepareContext(context.Background(), query)
}

// PrepareContext prepares a statement.
func (l *lease) PrepareContext(ctx context.Context, query string) (driver.Stmt, error) {
	if err := l.begin(ctx, observe.Prepare, query); err != nil {
		return nil, err
	}
	ok := false
	defer l.guard(&ok)
	prepared, err := l.s.PrepareStmt(ctx, query)
	var st driver.Stmt
	if err == nil {
		st = newStmt(l, query, prepared)
	}
	l.end(ctx, query, err)
	ok = true
	return st, err
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
