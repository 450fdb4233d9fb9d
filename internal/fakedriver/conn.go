package fakedriver

import (
	"context"
	"database/sql/driver"
	"io"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
)

// The set of a modern driver. Execer and Queryer, the forms without a ctx, are
// left out on purpose: database/sql prefers the others. ColumnConverter is
// superseded by NamedValueChecker.
var (
	_ driver.Conn               = (*Conn)(nil)
	_ driver.Pinger             = (*Conn)(nil)
	_ driver.ExecerContext      = (*Conn)(nil)
	_ driver.QueryerContext     = (*Conn)(nil)
	_ driver.ConnPrepareContext = (*Conn)(nil)
	_ driver.ConnBeginTx        = (*Conn)(nil)
	_ driver.SessionResetter    = (*Conn)(nil)
	_ driver.Validator          = (*Conn)(nil)
	_ driver.NamedValueChecker  = (*Conn)(nil)
	_ driver.StmtExecContext    = (*stmt)(nil)
	_ driver.StmtQueryContext   = (*stmt)(nil)

	_ driver.RowsColumnTypeDatabaseTypeName = (*rows)(nil)
	_ driver.RowsColumnTypeScanType         = (*rows)(nil)
)

// Conn is one connection to a [Server].
type Conn struct {
	server *Server
	id     int64

	// op is the operation in progress. One at a time is what the driver
	// contract promises, so finding one there is a violation.
	op atomic.Pointer[string]

	closed   atomic.Bool
	killed   atomic.Bool
	inTx     atomic.Bool
	stmts    atomic.Int64
	openRows atomic.Int64

	goneOnce sync.Once
	gone     chan struct{}
}

// ID is the number of the connection on its server, counted from 1.
func (c *Conn) ID() int { return int(c.id) }

// Server is the server that the connection leads to.
func (c *Conn) Server() *Server { return c.server }

// InTx tells whether a transaction is open on the connection.
func (c *Conn) InTx() bool { return c.inTx.Load() }

// Kill makes the server drop the connection: from now on every call returns
// driver.ErrBadConn, the Close calls excepted, and IsValid is false. A call in
// progress ends as its script says.
func (c *Conn) Kill() {
	c.killed.Store(true)
	c.goneOnce.Do(func() { close(c.gone) })
}

// Killed tells whether the server dropped the connection.
func (c *Conn) Killed() bool { return c.killed.Load() }

// Gone returns a channel that is closed once the connection was killed or
// closed, for scripts that block like a read from a socket.
func (c *Conn) Gone() <-chan struct{} { return c.gone }

// enter begins operation op. Its result ends it.
func (c *Conn) enter(op string) (leave func()) {
	if !c.op.CompareAndSwap(nil, &op) {
		other := "another call"
		if p := c.op.Load(); p != nil {
			other = *p
		}
		c.server.violation("conn %d: %s while %s runs", c.id, op, other)
		return func() {}
	}
	return func() { c.op.CompareAndSwap(&op, nil) }
}

// usable is what the start of every operation asks.
func (c *Conn) usable(op string) error {
	if c.closed.Load() {
		c.server.violation("conn %d: %s after Close", c.id, op)
		return driver.ErrBadConn
	}
	if c.killed.Load() {
		return driver.ErrBadConn
	}
	return nil
}

func (c *Conn) Prepare(query string) (driver.Stmt, error) {
	return c.PrepareContext(context.Background(), query)
}

func (c *Conn) PrepareContext(ctx context.Context, query string) (driver.Stmt, error) {
	defer c.enter("Prepare")()
	if err := c.usable("Prepare"); err != nil {
		return nil, err
	}
	c.server.prepares.Add(1)
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if f := c.server.onPrepare.load(); f != nil {
		if err := f(ctx, c, query); err != nil {
			return nil, err
		}
	}
	c.stmts.Add(1)
	c.server.stmts.add(1)
	return &stmt{conn: c, query: query}, nil
}

func (c *Conn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	defer c.enter("Exec")()
	return c.exec(ctx, "Exec", query, args)
}

func (c *Conn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	defer c.enter("Query")()
	return c.query(ctx, "Query", query, args)
}

func (c *Conn) exec(ctx context.Context, op, query string, args []driver.NamedValue) (driver.Result, error) {
	if err := c.run(ctx, op, query, args); err != nil {
		return nil, err
	}
	return driver.RowsAffected(1), nil
}

func (c *Conn) query(ctx context.Context, op, query string, args []driver.NamedValue) (driver.Rows, error) {
	if err := c.run(ctx, op, query, args); err != nil {
		return nil, err
	}
	c.openRows.Add(1)
	c.server.openRows.add(1)
	return &rows{conn: c, left: rowCount(query, c.server.rows.Load())}, nil
}

func (c *Conn) run(ctx context.Context, op, query string, args []driver.NamedValue) error {
	if err := c.usable(op); err != nil {
		return err
	}
	c.server.queries.Add(1)
	if err := ctx.Err(); err != nil {
		return err
	}
	if f := c.server.onQuery.load(); f != nil {
		return f(ctx, c, query, args)
	}
	return nil
}

// rowCount reads n out of "rows n".
func rowCount(query string, otherwise int64) int64 {
	if number, ok := strings.CutPrefix(query, "rows "); ok {
		if n, err := strconv.ParseInt(number, 10, 64); err == nil && n >= 0 {
			return n
		}
	}
	return otherwise
}

func (c *Conn) Begin() (driver.Tx, error) {
	return c.BeginTx(context.Background(), driver.TxOptions{})
}

func (c *Conn) BeginTx(ctx context.Context, opts driver.TxOptions) (driver.Tx, error) {
	defer c.enter("Begin")()
	if err := c.usable("Begin"); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if c.inTx.Load() {
		c.server.violation("conn %d: Begin inside a transaction", c.id)
	}
	if f := c.server.onBegin.load(); f != nil {
		if err := f(ctx, c, opts); err != nil {
			return nil, err
		}
	}
	c.inTx.Store(true)
	return &tx{conn: c}, nil
}

func (c *Conn) Ping(ctx context.Context) error {
	defer c.enter("Ping")()
	if err := c.usable("Ping"); err != nil {
		return err
	}
	c.server.pings.Add(1)
	if err := ctx.Err(); err != nil {
		return err
	}
	if f := c.server.onPing.load(); f != nil {
		return f(ctx, c)
	}
	return nil
}

func (c *Conn) ResetSession(ctx context.Context) error {
	defer c.enter("ResetSession")()
	if err := c.usable("ResetSession"); err != nil {
		return err
	}
	c.server.resets.Add(1)
	if c.inTx.Load() {
		c.server.violation("conn %d: ResetSession inside a transaction", c.id)
	}
	if n := c.openRows.Load(); n > 0 {
		c.server.violation("conn %d: ResetSession with %d rows open", c.id, n)
	}
	if f := c.server.onReset.load(); f != nil {
		return f(ctx, c)
	}
	return nil
}

func (c *Conn) IsValid() bool {
	defer c.enter("IsValid")()
	if f := c.server.onValid.load(); f != nil {
		f(c)
	}
	return c.usable("IsValid") == nil
}

// CheckNamedValue leaves every argument to the conversion of database/sql.
func (c *Conn) CheckNamedValue(*driver.NamedValue) error { return driver.ErrSkip }

func (c *Conn) Close() error {
	defer c.enter("Close")()
	if c.closed.Swap(true) {
		c.server.violation("conn %d: Close after Close", c.id)
		return nil
	}
	s := c.server
	s.mu.Lock()
	delete(s.conns, c.id)
	s.mu.Unlock()
	// A server forgets the statements of a connection together with it.
	s.stmts.add(-c.stmts.Swap(0))
	s.openRows.add(-c.openRows.Swap(0))
	c.inTx.Store(false)
	s.closed.Add(1)
	c.goneOnce.Do(func() { close(c.gone) })
	// It counts as open until the script is through: closing takes time too.
	defer s.open.add(-1)
	if f := s.onClose.load(); f != nil {
		return f(c)
	}
	return nil
}

// tx is a transaction of a [Conn].
type tx struct {
	conn *Conn
	end  atomic.Pointer[string]
}

func (t *tx) Commit() error   { return t.finish("Commit", &t.conn.server.onCommit) }
func (t *tx) Rollback() error { return t.finish("Rollback", &t.conn.server.onRollback) }

func (t *tx) finish(op string, on *script[func(*Conn) error]) error {
	c := t.conn
	defer c.enter(op)()
	if !t.end.CompareAndSwap(nil, &op) {
		c.server.violation("conn %d: %s after %s", c.id, op, *t.end.Load())
		return driver.ErrBadConn
	}
	if err := c.usable(op); err != nil {
		return err
	}
	// The script may panic: the transaction is over then too.
	defer c.inTx.Store(false)
	if f := on.load(); f != nil {
		return f(c)
	}
	return nil
}

// stmt is a prepared statement of a [Conn].
type stmt struct {
	conn   *Conn
	query  string
	closed atomic.Bool
}

func (s *stmt) NumInput() int { return -1 }

func (s *stmt) Exec(args []driver.Value) (driver.Result, error) {
	return s.ExecContext(context.Background(), named(args))
}

func (s *stmt) ExecContext(ctx context.Context, args []driver.NamedValue) (driver.Result, error) {
	defer s.conn.enter("Stmt.Exec")()
	s.check("Stmt.Exec")
	return s.conn.exec(ctx, "Stmt.Exec", s.query, args)
}

func (s *stmt) Query(args []driver.Value) (driver.Rows, error) {
	return s.QueryContext(context.Background(), named(args))
}

func (s *stmt) QueryContext(ctx context.Context, args []driver.NamedValue) (driver.Rows, error) {
	defer s.conn.enter("Stmt.Query")()
	s.check("Stmt.Query")
	return s.conn.query(ctx, "Stmt.Query", s.query, args)
}

func (s *stmt) check(op string) {
	if s.closed.Load() {
		s.conn.server.violation("conn %d: %s after Stmt.Close", s.conn.id, op)
	}
}

func (s *stmt) Close() error {
	defer s.conn.enter("Stmt.Close")()
	if s.closed.Swap(true) {
		s.conn.server.violation("conn %d: Stmt.Close after Stmt.Close", s.conn.id)
		return nil
	}
	if s.conn.closed.Load() {
		s.conn.server.violation("conn %d: Stmt.Close after Close", s.conn.id)
		return nil
	}
	s.conn.stmts.Add(-1)
	s.conn.server.stmts.add(-1)
	return nil
}

func named(args []driver.Value) []driver.NamedValue {
	list := make([]driver.NamedValue, len(args))
	for i, v := range args {
		list[i] = driver.NamedValue{Ordinal: i + 1, Value: v}
	}
	return list
}

// rows is a result set of a [Conn].
type rows struct {
	conn   *Conn
	row    int64
	left   int64
	closed atomic.Bool
}

func (r *rows) Columns() []string                     { return []string{"n"} }
func (r *rows) ColumnTypeDatabaseTypeName(int) string { return "INT8" }
func (r *rows) ColumnTypeScanType(int) reflect.Type   { return reflect.TypeFor[int64]() }

func (r *rows) Next(dest []driver.Value) error {
	defer r.conn.enter("Rows.Next")()
	if r.closed.Load() {
		r.conn.server.violation("conn %d: Rows.Next after Rows.Close", r.conn.id)
		return io.EOF
	}
	if err := r.conn.usable("Rows.Next"); err != nil {
		return err
	}
	if f := r.conn.server.onNext.load(); f != nil {
		if err := f(r.conn, int(r.row)+1); err != nil {
			return err
		}
	}
	if r.left == 0 {
		return io.EOF
	}
	r.left--
	r.row++
	dest[0] = r.row
	return nil
}

func (r *rows) Close() error {
	defer r.conn.enter("Rows.Close")()
	if r.closed.Swap(true) {
		r.conn.server.violation("conn %d: Rows.Close after Rows.Close", r.conn.id)
		return nil
	}
	if r.conn.closed.Load() {
		r.conn.server.violation("conn %d: Rows.Close after Close", r.conn.id)
		return nil
	}
	r.conn.openRows.Add(-1)
	r.conn.server.openRows.add(-1)
	return nil
}
