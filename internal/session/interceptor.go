package session

import (
	"context"
	"database/sql/driver"

	"github.com/ngrok/sqlmw"

	"github.com/go-lifeguard/lifeguard/internal/fallback"
	"github.com/go-lifeguard/lifeguard/internal/intercept"
	"github.com/go-lifeguard/lifeguard/internal/stmtcache"
)

// behind is the session as the last interceptor is given it.
type behind struct{ s *Session }

var _ intercept.Session = behind{}

func (b behind) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	return b.s.exec(ctx, query, args)
}

func (b behind) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	rows, k, err := b.s.query(ctx, query, args)
	if k != nil && err == nil {
		rows = keptRows{rows, k}
	}
	return rows, err
}

func (b behind) PrepareContext(ctx context.Context, query string) (driver.Stmt, error) {
	k, err := b.s.cache.Prepare(ctx, query)
	if err != nil {
		return nil, err
	}
	return &sessionStmt{of: k}, nil
}

func (b behind) BeginTx(ctx context.Context, opts driver.TxOptions) (driver.Tx, error) {
	return b.s.begin(ctx, opts)
}

func (b behind) Ping(ctx context.Context) error {
	if b.s.can.pinger == nil {
		return nil
	}
	return b.s.can.pinger.Ping(ctx)
}

func (b behind) Spoil()         { b.s.spoiled = true }
func (b behind) Unwrapped() any { return b.s.Raw() }

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
	return st.ExecContext(context.Background(), fallback.Ordinal(args))
}

func (st *sessionStmt) Query(args []driver.Value) (driver.Rows, error) {
	return st.QueryContext(context.Background(), fallback.Ordinal(args))
}

// statementBehind is the statement that says how arguments are converted: the driver's, or the one that an interceptor
// put in its place.
func statementBehind(st driver.Stmt) driver.Stmt {
	st = intercept.Behind(st)
	if own, ok := st.(*sessionStmt); ok {
		return own.of.Driver()
	}
	return st
}
