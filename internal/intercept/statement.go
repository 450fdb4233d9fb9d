package intercept

import (
	"context"
	"database/sql/driver"

	"github.com/ngrok/sqlmw"

	"github.com/go-lifeguard/lifeguard/internal/fallback"
)

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

// interceptedStmt is a statement whose uses go through an interceptor. What else a statement can do, [Behind] finds.
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
	parent, err := st.by.StmtExecContext(ctx, fallback.Stmt{Stmt: st.parent}, st.query, args)
	return interceptResult(st.by, parent, err)
}

func (st *interceptedStmt) QueryContext(ctx context.Context, args []driver.NamedValue) (driver.Rows, error) {
	after, parent, err := st.by.StmtQueryContext(ctx, fallback.Stmt{Stmt: st.parent}, st.query, args)
	return interceptRows(st.by, orElse(after, ctx), parent, err)
}

func (st *interceptedStmt) Exec(args []driver.Value) (driver.Result, error) {
	return st.ExecContext(st.ctx, fallback.Ordinal(args))
}

func (st *interceptedStmt) Query(args []driver.Value) (driver.Rows, error) {
	return st.QueryContext(st.ctx, fallback.Ordinal(args))
}

// Behind is the statement that says how arguments are converted: the session's, or the one that an interceptor put in its
// place.
func Behind(st driver.Stmt) driver.Stmt {
	for {
		i, ok := st.(*interceptedStmt)
		if !ok {
			return st
		}
		st = i.parent
	}
}
