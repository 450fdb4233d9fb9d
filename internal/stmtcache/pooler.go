package stmtcache

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"log/slog"

	"github.com/lib/pq"

	"github.com/go-lifeguard/lifeguard/internal/libpq"
)

// trust says whether statements may be kept. It asks before the first one is.
//
// A pooler in transaction mode gives each transaction another server connection. There a name stands for nothing, or for a
// statement of another client: lib/pq numbers them from 1 on every connection. The wrong statement would run. A pooler
// that translates names, such as PgBouncer from 1.21 on, gives all clients the same statement for the same text, however
// old it is: what is prepared again there is not prepared anew. So nothing is kept behind a pooler.
//
// PostgreSQL tells each client the number of its process, for cancelling queries, and a pooler has to tell another.
func (c *Cache) trust(ctx context.Context) bool {
	if c.trusted || c.kind == libpq.GoMySQL {
		return true
	}
	told, ok := libpq.BackendPID(c.raw)
	if !ok {
		c.size = 0
		return false
	}
	pid, err := c.ask(ctx, "SELECT pg_backend_pid()")
	if err != nil {
		return false // the caller's own statement meets the cause
	}
	if pid != told {
		c.size = 0
		if !c.shared.warned.Swap(true) {
			c.shared.Log.Warn("lifeguard: a connection pooler stands before PostgreSQL: the statement cache is off;"+
				" if the pooler is in transaction mode, add pgbouncer=true to the DSN", slog.String("pool", c.shared.Name))
		}
		return false
	}
	c.trusted = true
	return true
}

// unprepared gives the stand-in for a statement that must not be prepared by name, nil if it may be. lib/pq's COPY has no name.
func (c *Cache) unprepared(query string) *directStmt {
	if !c.shared.PgBouncer || c.kind != libpq.PgxStdlib && (c.kind != libpq.LibPQ || firstWord(query) == "COPY") {
		return nil
	}
	return &directStmt{conn: c.conn, text: query}
}

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

// prepare prepares query on the driver.
func (c *Cache) prepare(ctx context.Context, query string) (driver.Stmt, error) {
	st, err := c.conn.Prepare(ctx, query)
	if err != nil && c.kind == libpq.GoMySQL && c.open == 0 && libpq.Code(err) == "1461" {
		return c.shared.clear(ctx, c, query, err)
	}
	return st, err
}

const poolerHint = "; prepared statements do not survive a pooler in transaction mode: " +
	"if there is one, such as PgBouncer, add pgbouncer=true to the DSN"

// Explain adds to an error by which the server says that it does not know a statement, or knows another by its name, what
// may be the cause. lib/pq's errors keep their type.
func (c *Cache) Explain(err error) error {
	c.failed = c.failed || err != nil && err != driver.ErrSkip // by which MySQL's driver asks for a statement
	if err == nil || c.forgot || c.kind != libpq.LibPQ && c.kind != libpq.PgxStdlib {
		return err
	}
	if code := libpq.Code(err); code != "26000" && code != "42P05" {
		return err
	}
	var e *pq.Error
	switch {
	case !errors.As(err, &e):
		return fmt.Errorf("%w%s", err, poolerHint)
	case e.Where != "": // a function's own
		return err
	}
	explained := *e
	explained.Message += poolerHint
	return &explained
}
