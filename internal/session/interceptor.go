package session

import (
	"context"
	"database/sql/driver"

	"github.com/ngrok/sqlmw"

	"github.com/go-lifeguard/lifeguard/internal/stmtcache"
)

// intercepted is a connection as an interceptor is given it: behind it are the interceptors that follow and, last, the
// session. It makes no difference whether one is called once, again, or not at all.
type intercepted struct {
	session *Session
	by      sqlmw.Interceptor // nil in the last one
	next    *intercepted      // what by is given
}

var (
	_ driver.Conn               = (*intercepted)(nil)
	_ driver.ConnPrepareContext = (*intercepted)(nil)
	_ driver.ConnBeginTx        = (*intercepted)(nil)
	_ driver.Pinger             = (*intercepted)(nil)
	_ driver.ExecerContext      = (*intercepted)(nil)
	_ driver.QueryerContext     = (*intercepted)(nil)
)

// intercept puts the interceptors before a session; nil if there are none.
func intercept(s *Session, by []sqlmw.Interceptor) *intercepted {
	if len(by) == 0 {
		return nil
	}
	c := &intercepted{session: s}
	for i := range by {
		c = &intercepted{session: s, by: by[len(by)-1-i], next: c}
	}
	return c
}

// orElse is the context that follows from a call: what the interceptor returned, or, if that is nothing, what it was
// given.
func orElse(returned, given context.Context) context.Context {
	if returned == nil {
		return given
	}
	return returned
}

func (c *intercepted) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	switch s := c.session; {
	case c.by != nil:
		parent, err := c.by.ConnExecContext(ctx, c.next, query, args)
		return interceptResult(c.by, parent, err)
	default:
		return s.exec(ctx, query, args)
	}
}

func (c *intercepted) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	switch s := c.session; {
	case c.by != nil:
		after, parent, err := c.by.ConnQueryContext(ctx, c.next, query, args)
		return interceptRows(c.by, orElse(after, ctx), parent, err)
	default:
		rows, k, err := s.query(ctx, query, args)
		if k != nil && err == nil {
			rows = keptRows{rows, k}
		}
		return rows, err
	}
}

// keptRows are rows of a kept statement that stood in for a direct query.
type keptRows struct {
	driver.Rows
	of *stmtcache.Statement
}

func (r keptRows) Unwrap() driver.Rows { return r.Rows }

// statementOf is the kept statement that gave the rows of a direct query, behind what interceptors have put around
// them; nil if it was none.
func statementOf(r driver.Rows) *stmtcache.Statement {
	for {
		if k, ok := r.(keptRows); ok {
			return k.of
		}
		u, ok := r.(sqlmw.RowsUnwrapper)
		if !ok {
			return nil
		}
		r = u.Unwrap()
	}
}

func (c *intercepted) PrepareContext(ctx context.Context, query string) (driver.Stmt, error) {
	if c.by == nil {
		k, err := c.session.cache.Prepare(ctx, query)
		if err != nil {
			return nil, err
		}
		return &sessionStmt{of: k}, nil
	}
	after, parent, err := c.by.ConnPrepareContext(ctx, c.next, query)
	if err != nil || parent == nil {
		return nil, err
	}
	return &interceptedStmt{by: c.by, ctx: orElse(after, ctx), query: query, parent: parent}, nil
}

func (c *intercepted) BeginTx(ctx context.Context, opts driver.TxOptions) (driver.Tx, error) {
	if c.by == nil {
		return c.session.begin(ctx, opts)
	}
	after, parent, err := c.by.ConnBeginTx(ctx, c.next, opts)
	if err != nil || parent == nil {
		return nil, err
	}
	return &interceptedTx{by: c.by, ctx: orElse(after, ctx), parent: parent}, nil
}

func (c *intercepted) Ping(ctx context.Context) error {
	switch {
	case c.by != nil:
		return c.by.ConnPing(ctx, c.next)
	case c.session.can.pinger == nil:
		return nil
	default:
		return c.session.can.pinger.Ping(ctx)
	}
}

func (c *intercepted) Prepare(query string) (driver.Stmt, error) {
	return c.PrepareContext(context.Background(), query)
}

func (c *intercepted) Begin() (driver.Tx, error) {
	return c.BeginTx(context.Background(), driver.TxOptions{})
}

// Close is for an interceptor that wants the connection gone. The pool closes it, when it comes back.
func (c *intercepted) Close() error {
	c.session.spoiled = true
	return nil
}

// Unwrapped is how lifeguard.Unwrap finds the wrapped driver's connection, for interceptors that need it.
func (c *intercepted) Unwrapped() any { return c.session.raw }

// interceptedConnector is a connector as an interceptor is given it.
type interceptedConnector struct {
	driver.Connector
	by []sqlmw.Interceptor
}

func (c interceptedConnector) Connect(ctx context.Context) (driver.Conn, error) {
	if len(c.by) == 0 {
		return c.Connector.Connect(ctx)
	}
	return c.by[0].ConnectorConnect(ctx, interceptedConnector{c.Connector, c.by[1:]})
}

// interceptedResult is a result whose questions go through an interceptor.
type interceptedResult struct {
	by     sqlmw.Interceptor
	parent driver.Result
}

func interceptResult(by sqlmw.Interceptor, parent driver.Result, err error) (driver.Result, error) {
	if err != nil || parent == nil {
		return nil, err
	}
	return interceptedResult{by, parent}, nil
}

func (r interceptedResult) LastInsertId() (int64, error) { return r.by.ResultLastInsertId(r.parent) }
func (r interceptedResult) RowsAffected() (int64, error) { return r.by.ResultRowsAffected(r.parent) }

// interceptedTx is a transaction whose end goes through an interceptor.
type interceptedTx struct {
	by     sqlmw.Interceptor
	ctx    context.Context
	parent driver.Tx
}

func (t *interceptedTx) Commit() error   { return t.by.TxCommit(t.ctx, t.parent) }
func (t *interceptedTx) Rollback() error { return t.by.TxRollback(t.ctx, t.parent) }

// sessionStmt is a statement of the session as the last interceptor is given it.
type sessionStmt struct {
	of     *stmtcache.Statement
	closed bool
}

var (
	_ driver.StmtExecContext  = (*sessionStmt)(nil)
	_ driver.StmtQueryContext = (*sessionStmt)(nil)
)

func (st *sessionStmt) NumInput() int { return st.of.NumInput() }

func (st *sessionStmt) Close() error {
	if st.closed {
		return nil
	}
	st.closed = true
	return st.of.Close()
}

func (st *sessionStmt) ExecContext(ctx context.Context, args []driver.NamedValue) (driver.Result, error) {
	return st.of.Exec(ctx, args)
}

func (st *sessionStmt) QueryContext(ctx context.Context, args []driver.NamedValue) (driver.Rows, error) {
	return st.of.Query(ctx, args)
}

func (st *sessionStmt) Exec(args []driver.Value) (driver.Result, error) {
	return st.ExecContext(context.Background(), ordinal(args))
}

func (st *sessionStmt) Query(args []driver.Value) (driver.Rows, error) {
	return st.QueryContext(context.Background(), ordinal(args))
}

// interceptedStmt is a statement whose uses go through an interceptor. What else a statement can do, stmt asks of the
// one that statementBehind finds.
type interceptedStmt struct {
	by     sqlmw.Interceptor
	ctx    context.Context // of its preparation
	query  string
	parent driver.Stmt
}

var (
	_ driver.StmtExecContext  = (*interceptedStmt)(nil)
	_ driver.StmtQueryContext = (*interceptedStmt)(nil)
)

func (st *interceptedStmt) NumInput() int { return st.parent.NumInput() }
func (st *interceptedStmt) Close() error  { return st.by.StmtClose(st.ctx, st.parent) }

func (st *interceptedStmt) ExecContext(ctx context.Context, args []driver.NamedValue) (driver.Result, error) {
	parent, err := st.by.StmtExecContext(ctx, contextStmt{st.parent}, st.query, args)
	return interceptResult(st.by, parent, err)
}

func (st *interceptedStmt) QueryContext(ctx context.Context, args []driver.NamedValue) (driver.Rows, error) {
	after, parent, err := st.by.StmtQueryContext(ctx, contextStmt{st.parent}, st.query, args)
	return interceptRows(st.by, orElse(after, ctx), parent, err)
}

func (st *interceptedStmt) Exec(args []driver.Value) (driver.Result, error) {
	return st.ExecContext(st.ctx, ordinal(args))
}

func (st *interceptedStmt) Query(args []driver.Value) (driver.Rows, error) {
	return st.QueryContext(st.ctx, ordinal(args))
}

// contextStmt is a statement as an interceptor is given it, with the fallbacks that database/sql has for one without
// the methods with a context.
type contextStmt struct{ driver.Stmt }

func (st contextStmt) ExecContext(ctx context.Context, args []driver.NamedValue) (driver.Result, error) {
	if e, ok := st.Stmt.(driver.StmtExecContext); ok {
		return e.ExecContext(ctx, args)
	}
	values, err := positional(ctx, args)
	if err != nil {
		return nil, err
	}
	return st.Exec(values)
}

func (st contextStmt) QueryContext(ctx context.Context, args []driver.NamedValue) (driver.Rows, error) {
	if q, ok := st.Stmt.(driver.StmtQueryContext); ok {
		return q.QueryContext(ctx, args)
	}
	values, err := positional(ctx, args)
	if err != nil {
		return nil, err
	}
	return st.Query(values)
}

// statementBehind is the statement that says how arguments are converted: the driver's, or the one that an interceptor
// put in its place.
func statementBehind(st driver.Stmt) driver.Stmt {
	for {
		switch i := st.(type) {
		case *interceptedStmt:
			st = i.parent
		case *sessionStmt:
			return i.of.Driver()
		default:
			return st
		}
	}
}

// interceptedRows are rows whose reading goes through an interceptor. What else rows can do, RowsCan finds behind them.
type interceptedRows struct {
	by     sqlmw.Interceptor
	ctx    context.Context
	parent driver.Rows
}

var _ sqlmw.RowsUnwrapper = (*interceptedRows)(nil)

func interceptRows(by sqlmw.Interceptor, ctx context.Context, parent driver.Rows, err error) (driver.Rows, error) {
	if err != nil || parent == nil {
		return nil, err
	}
	return &interceptedRows{by, ctx, parent}, nil
}

func (r *interceptedRows) Columns() []string { return r.parent.Columns() }
func (r *interceptedRows) Next(dest []driver.Value) error {
	return r.by.RowsNext(r.ctx, r.parent, dest)
}
func (r *interceptedRows) Close() error        { return r.by.RowsClose(r.ctx, r.parent) }
func (r *interceptedRows) Unwrap() driver.Rows { return r.parent }

// RowsCan is r as one of the optional interfaces of driver.Rows. Behind interceptors it is the driver's rows that
// decide whether there is one, and the outermost that have it are asked: an interceptor's, which may answer
// differently, before the driver's.
func RowsCan[T driver.Rows](r driver.Rows) (can T, ok bool) {
	if _, behind := r.(*interceptedRows); !behind {
		can, ok = r.(T)
		return can, ok
	}
	for {
		if t, has := r.(T); has && !ok {
			can, ok = t, true
		}
		u, more := r.(sqlmw.RowsUnwrapper)
		if !more {
			_, has := r.(T)
			return can, ok && has
		}
		r = u.Unwrap()
	}
}

// ordinal numbers arguments for the methods that take a context.
func ordinal(args []driver.Value) []driver.NamedValue {
	named := make([]driver.NamedValue, len(args))
	for i, v := range args {
		named[i] = driver.NamedValue{Ordinal: i + 1, Value: v}
	}
	return named
}
