package stmtcache

import (
	"context"
	"database/sql/driver"
)

// directStmt stands for a prepared statement behind a pooler that gives each transaction another server connection. Each
// execution runs the text.
type directStmt struct {
	driver.Stmt // nil: its Exec and Query are not called, those with a context are
	conn        Conn
	text        string
}

var (
	_ driver.StmtExecContext  = (*directStmt)(nil)
	_ driver.StmtQueryContext = (*directStmt)(nil)
)

func (d *directStmt) Close() error { return nil }

// NumInput is not known: nothing has read the text.
func (d *directStmt) NumInput() int { return -1 }

func (d *directStmt) ExecContext(ctx context.Context, args []driver.NamedValue) (driver.Result, error) {
	return d.conn.Exec(ctx, d.text, args)
}

func (d *directStmt) QueryContext(ctx context.Context, args []driver.NamedValue) (driver.Rows, error) {
	return d.conn.Query(ctx, d.text, args)
}
