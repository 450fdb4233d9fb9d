package fakedriver

import (
	"context"
	"database/sql/driver"
	"io"
)

// Fast returns a connector to a driver that does next to nothing: Exec, Query,
// Begin and Commit allocate nothing in it, no call is counted and none is
// checked. A query has one row of one int64, "rows 100" has a hundred. It has
// the same optional interfaces as a [Server]'s connections, and takes arguments
// of any type as they are.
func Fast() driver.Connector { return fastConnector{} }

type fastConnector struct{}

func (fastConnector) Connect(context.Context) (driver.Conn, error) { return new(fastConn), nil }
func (fastConnector) Driver() driver.Driver                        { return fastDriver{} }

type fastDriver struct{}

func (fastDriver) Open(string) (driver.Conn, error) { return new(fastConn), nil }

type fastConn struct{ rows fastRows }

func (c *fastConn) Prepare(query string) (driver.Stmt, error) {
	return &fastStmt{conn: c, query: query}, nil
}

func (c *fastConn) PrepareContext(_ context.Context, query string) (driver.Stmt, error) {
	return &fastStmt{conn: c, query: query}, nil
}

func (c *fastConn) ExecContext(context.Context, string, []driver.NamedValue) (driver.Result, error) {
	return driver.RowsAffected(1), nil
}

func (c *fastConn) QueryContext(_ context.Context, query string, _ []driver.NamedValue) (driver.Rows, error) {
	r := &c.rows
	if r.open {
		// Two result sets at once on one connection, inside a transaction.
		r = new(fastRows)
	}
	r.open, r.left = true, rowCount(query, 1)
	return r, nil
}

func (c *fastConn) Begin() (driver.Tx, error) { return fastTx{}, nil }

func (c *fastConn) BeginTx(context.Context, driver.TxOptions) (driver.Tx, error) {
	return fastTx{}, nil
}

func (c *fastConn) Ping(context.Context) error               { return nil }
func (c *fastConn) ResetSession(context.Context) error       { return nil }
func (c *fastConn) IsValid() bool                            { return true }
func (c *fastConn) CheckNamedValue(*driver.NamedValue) error { return nil }
func (c *fastConn) Close() error                             { return nil }

type fastTx struct{}

func (fastTx) Commit() error   { return nil }
func (fastTx) Rollback() error { return nil }

type fastStmt struct {
	conn  *fastConn
	query string
}

func (s *fastStmt) NumInput() int { return -1 }
func (s *fastStmt) Close() error  { return nil }

func (s *fastStmt) Exec([]driver.Value) (driver.Result, error) { return driver.RowsAffected(1), nil }

func (s *fastStmt) ExecContext(context.Context, []driver.NamedValue) (driver.Result, error) {
	return driver.RowsAffected(1), nil
}

func (s *fastStmt) Query([]driver.Value) (driver.Rows, error) {
	return s.conn.QueryContext(context.Background(), s.query, nil)
}

func (s *fastStmt) QueryContext(ctx context.Context, args []driver.NamedValue) (driver.Rows, error) {
	return s.conn.QueryContext(ctx, s.query, args)
}

// fastColumns is shared by all results: database/sql only reads it.
var fastColumns = []string{"n"}

type fastRows struct {
	left int64
	open bool
}

func (r *fastRows) Columns() []string { return fastColumns }

func (r *fastRows) Next(dest []driver.Value) error {
	if r.left == 0 {
		return io.EOF
	}
	r.left--
	// Integers below 256 go into an interface without an allocation.
	dest[0] = int64(1)
	return nil
}

func (r *fastRows) Close() error {
	r.open = false
	return nil
}
