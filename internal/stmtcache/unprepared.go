package stmtcache

import (
	"context"
	"database/sql/driver"

	"github.com/go-lifeguard/lifeguard/internal/libpq"
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

// unprepared gives the stand-in for a statement that must not be prepared by name, nil if it may be. lib/pq's COPY has no name.
func (c *Cache) unprepared(query string) *directStmt {
	if !c.shared.PgBouncer || c.kind != libpq.LibPQ && c.kind != libpq.PgxStdlib {
		return nil
	}
	if firstWord(query) == "COPY" && c.kind == libpq.LibPQ {
		return nil
	}
	return &directStmt{conn: c.conn, text: query}
}

func (d *directStmt) Close() error { return nil }

// NumInput is not known: nothing has read the text.
func (d *directStmt) NumInput() int { return -1 }

func (d *directStmt) ExecContext(ctx context.Context, args []driver.NamedValue) (driver.Result, error) {
	return d.conn.Exec(ctx, d.text, args)
}

func (d *directStmt) QueryContext(ctx context.Context, args []driver.NamedValue) (driver.Rows, error) {
	return d.conn.Query(ctx, d.text, args)
}
