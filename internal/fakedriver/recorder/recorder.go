// Package recorder is a database/sql driver with an exact set of optional
// interfaces that logs every call as it arrived. It serves to compare two ways
// to the same driver, as a differential test does.
//
// It is apart from package fakedriver because its 1,100 generated types take
// some seconds to compile.
package recorder

import (
	"context"
	"database/sql"
	"database/sql/driver"

	"fmt"
	"io"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"time"
)

//go:generate go run ./gensets

// The optional interfaces under names of this package: the generated types
// embed them, and the ones without a ctx are deprecated in database/sql/driver,
// which does not make wrapping them less of a duty.
type (
	pinger             = driver.Pinger
	execerContext      = driver.ExecerContext
	queryerContext     = driver.QueryerContext
	connPrepareContext = driver.ConnPrepareContext
	connBeginTx        = driver.ConnBeginTx
	sessionResetter    = driver.SessionResetter
	validator          = driver.Validator
	namedValueChecker  = driver.NamedValueChecker
	execer             interface {
		Exec(query string, args []driver.Value) (driver.Result, error)
	}
	queryer interface {
		Query(query string, args []driver.Value) (driver.Rows, error)
	}

	stmtExecContext  = driver.StmtExecContext
	stmtQueryContext = driver.StmtQueryContext
	columnConverter  interface {
		ColumnConverter(index int) driver.ValueConverter
	}

	// Those for rows of database/sql/driver embed driver.Rows, so two of them
	// in a struct would be ambiguous.
	rowsNextResultSet interface {
		HasNextResultSet() bool
		NextResultSet() error
	}
	rowsScanType interface {
		ColumnTypeScanType(index int) reflect.Type
	}
	rowsDatabaseTypeName interface {
		ColumnTypeDatabaseTypeName(index int) string
	}
	rowsLength interface {
		ColumnTypeLength(index int) (length int64, ok bool)
	}
	rowsNullable interface {
		ColumnTypeNullable(index int) (nullable, ok bool)
	}
	rowsPrecisionScale interface {
		ColumnTypePrecisionScale(index int) (precision, scale int64, ok bool)
	}

	closer        = io.Closer
	driverContext = driver.DriverContext
)

// ConnSet is a set of the interfaces that are optional for a connection.
type ConnSet uint16

// The optional interfaces of a connection.
const (
	ConnPinger ConnSet = 1 << iota
	ConnExecer
	ConnExecerContext
	ConnQueryer
	ConnQueryerContext
	ConnPrepareContext
	ConnBeginTx
	ConnSessionResetter
	ConnValidator
	ConnNamedValueChecker

	ConnAll = 1<<iota - 1
)

// StmtSet is a set of the interfaces that are optional for a statement.
type StmtSet uint8

// The optional interfaces of a statement.
const (
	StmtExecContext StmtSet = 1 << iota
	StmtQueryContext
	StmtNamedValueChecker
	StmtColumnConverter

	StmtAll = 1<<iota - 1
)

// RowsSet is a set of the interfaces that are optional for rows.
type RowsSet uint8

// The optional interfaces of rows.
const (
	RowsNextResultSet RowsSet = 1 << iota
	RowsScanType
	RowsDatabaseTypeName
	RowsLength
	RowsNullable
	RowsPrecisionScale

	RowsAll = 1<<iota - 1
)

func has[T any](v any) int {
	if _, ok := v.(T); ok {
		return 1
	}
	return 0
}

// ConnSetOf tells which optional interfaces v has.
func ConnSetOf(v any) ConnSet {
	return ConnSet(has[pinger](v) | has[execer](v)<<1 | has[execerContext](v)<<2 |
		has[queryer](v)<<3 | has[queryerContext](v)<<4 | has[connPrepareContext](v)<<5 |
		has[connBeginTx](v)<<6 | has[sessionResetter](v)<<7 | has[validator](v)<<8 |
		has[namedValueChecker](v)<<9)
}

// StmtSetOf tells which optional interfaces v has.
func StmtSetOf(v any) StmtSet {
	return StmtSet(has[stmtExecContext](v) | has[stmtQueryContext](v)<<1 |
		has[namedValueChecker](v)<<2 | has[columnConverter](v)<<3)
}

// RowsSetOf tells which optional interfaces v has.
func RowsSetOf(v any) RowsSet {
	return RowsSet(has[rowsNextResultSet](v) | has[rowsScanType](v)<<1 | has[rowsDatabaseTypeName](v)<<2 |
		has[rowsLength](v)<<3 | has[rowsNullable](v)<<4 | has[rowsPrecisionScale](v)<<5)
}

// Sets says which optional interfaces the values of a [Recorder] have.
type Sets struct {
	Conn ConnSet
	Stmt StmtSet
	Rows RowsSet

	ConnectorCloser bool
	DriverContext   bool
}

// String gives the bits of the three sets, the first interface rightmost.
func (s Sets) String() string {
	text := fmt.Sprintf("conn=%010b,stmt=%04b,rows=%06b", s.Conn, s.Stmt, s.Rows)
	if s.ConnectorCloser {
		text += ",closer"
	}
	if s.DriverContext {
		text += ",driverctx"
	}
	return text
}

// Call is one call that arrived at a [Recorder].
type Call struct {
	// Conn is the number of the connection, counted from 1; 0 for the driver
	// and the connector.
	Conn int
	// Method is the name of the method, with "Stmt.", "Rows.", "Tx.",
	// "Result.", "Connector." or "Driver." before it unless it is the
	// connection's.
	Method string
	// Query is the text that the call or its statement was made with.
	Query string
	// Args are the other arguments as text: their types, their values, and
	// what the ctx carries: a tag from [WithTag], whether it can end, whether
	// it has.
	Args string
}

func (c Call) String() string {
	return strings.TrimRight(fmt.Sprintf("conn %d: %s %q %s", c.Conn, c.Method, c.Query, c.Args), " ")
}

// Script decides what the calls to a [Recorder] do. Its functions are called
// without a lock, and a nil one leaves the default.
type Script struct {
	// Call runs before each call and after it was recorded; its error becomes
	// the call's. It may panic. For IsValid any error means false, and methods
	// that cannot fail ignore it.
	Call func(Call) error
	// CheckNamedValue answers the method, of connections and of statements.
	// The default is driver.ErrSkip.
	CheckNamedValue func(*driver.NamedValue) error
	// Convert answers the converters of ColumnConverter. The default is
	// driver.DefaultParameterConverter.
	Convert func(index int, v any) (driver.Value, error)
	// NumInput answers a statement's method. The default is -1.
	NumInput func(query string) int
	// Results gives the result sets of a query. The default is one row of one
	// int64, 1.
	Results func(query string) []ResultSet
}

// ResultSet is what a query returns.
type ResultSet struct {
	Columns []Column
	Rows    [][]driver.Value
}

// Column describes a column of a [ResultSet].
type Column struct {
	Name         string
	DatabaseType string
	ScanType     reflect.Type
	Length       int64
	HasLength    bool
	Nullable     bool
	HasNullable  bool
	Precision    int64
	Scale        int64
	HasPrecision bool
}

// Recorder is a driver whose values have exactly the optional interfaces of
// its [Sets], and which keeps a log of the calls. It is safe for concurrent
// use.
type Recorder struct {
	sets   Sets
	script Script

	mu    sync.Mutex
	calls []Call          // guarded by mu
	conns []*recordedConn // guarded by mu
}

// New returns a recorder.
func New(sets Sets, script Script) *Recorder {
	return &Recorder{sets: sets, script: script}
}

// Connector returns a connector to the recorder.
func (r *Recorder) Connector() driver.Connector {
	set := 0
	if r.sets.ConnectorCloser {
		set = 1
	}
	return connectorSets[set](&recordedConnector{recorder: r})
}

// Driver returns the recorder as a driver, for sql.Register.
func (r *Recorder) Driver() driver.Driver {
	set := 0
	if r.sets.DriverContext {
		set = 1
	}
	return driverSets[set](&recordedDriver{recorder: r})
}

// Take returns the log since it was last taken. Methods that only answer a question about the
// value (NumInput, Columns, HasNextResultSet, ColumnType…, Driver) are not in
// it: a wrapper may ask more often, or remember.
func (r *Recorder) Take() []Call {
	r.mu.Lock()
	defer r.mu.Unlock()
	calls := r.calls
	r.calls = nil
	return calls
}

// Open lists the numbers of the connections that are open.
func (r *Recorder) Open() []int {
	r.mu.Lock()
	defer r.mu.Unlock()
	var ids []int
	for _, c := range r.conns {
		if !c.closed {
			ids = append(ids, c.id)
		}
	}
	return ids
}

// ConnID is the number of the connection that v is, or 0 if it is none of the
// recorder's.
func (r *Recorder) ConnID(v any) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.conns {
		if any(c.value) == v {
			return c.id
		}
	}
	return 0
}

// record logs a call and asks the script about it. A call on something that
// was closed is logged as one, so that no log with it equals one without.
func (r *Recorder) record(call Call, closed bool) error {
	r.mu.Lock()
	if closed {
		call.Method += " after Close"
	}
	r.calls = append(r.calls, call)
	r.mu.Unlock()
	if r.script.Call != nil {
		return r.script.Call(call)
	}
	return nil
}

type tagKey struct{}

// WithTag returns a ctx that the log of a [Recorder] shows with its calls.
func WithTag(ctx context.Context, tag string) context.Context {
	return context.WithValue(ctx, tagKey{}, tag)
}

func describeContext(ctx context.Context) string {
	var b strings.Builder
	b.WriteString("ctx(")
	if tag, ok := ctx.Value(tagKey{}).(string); ok {
		b.WriteString(tag)
	}
	if ctx.Done() != nil {
		b.WriteString(" can end")
	}
	if _, ok := ctx.Deadline(); ok {
		b.WriteString(" deadline")
	}
	if err := ctx.Err(); err != nil {
		b.WriteString(" " + err.Error())
	}
	b.WriteString(")")
	return b.String()
}

func describeValue(v any) string {
	switch v := v.(type) {
	case nil:
		return "nil"
	case string:
		return "string(" + v + ")"
	case int64:
		return "int64(" + strconv.FormatInt(v, 10) + ")"
	case []byte:
		if v == nil {
			return "[]byte(nil)"
		}
		return "[]byte(" + strconv.Quote(string(v)) + ")"
	case time.Time:
		return "time.Time(" + v.Format(time.RFC3339Nano) + ")"
	case sql.Out:
		return fmt.Sprintf("sql.Out(%T, In: %v)", v.Dest, v.In)
	}
	if rv := reflect.ValueOf(v); rv.Kind() == reflect.Pointer && !rv.IsNil() {
		return fmt.Sprintf("%T(&%+v)", v, rv.Elem())
	}
	return fmt.Sprintf("%T(%+v)", v, v)
}

func describeValues(args []driver.Value) string {
	b := []byte{'['}
	for i, v := range args {
		if i > 0 {
			b = append(b, ", "...)
		}
		b = append(b, describeValue(v)...)
	}
	return string(append(b, ']'))
}

func describeNamed(args ...driver.NamedValue) string {
	b := []byte{'['}
	for i, nv := range args {
		if i > 0 {
			b = append(b, ", "...)
		}
		b = append(b, '$')
		b = strconv.AppendInt(b, int64(nv.Ordinal), 10)
		if nv.Name != "" {
			b = append(append(b, ':'), nv.Name...)
		}
		b = append(append(b, '='), describeValue(nv.Value)...)
	}
	return string(append(b, ']'))
}

type recordedDriver struct{ recorder *Recorder }

func (d *recordedDriver) Open(dsn string) (driver.Conn, error) {
	if err := d.recorder.record(Call{Method: "Driver.Open", Args: fmt.Sprintf("%q", dsn)}, false); err != nil {
		return nil, err
	}
	return d.recorder.connect(), nil
}

func (d *recordedDriver) OpenConnector(dsn string) (driver.Connector, error) {
	if err := d.recorder.record(Call{Method: "Driver.OpenConnector", Args: fmt.Sprintf("%q", dsn)}, false); err != nil {
		return nil, err
	}
	return d.recorder.Connector(), nil
}

type recordedConnector struct{ recorder *Recorder }

func (c *recordedConnector) Connect(ctx context.Context) (driver.Conn, error) {
	// Only the tag of this ctx is recorded: whether a dial ends with the call
	// that asked for it is the business of the pool.
	tag, _ := ctx.Value(tagKey{}).(string)
	if err := c.recorder.record(Call{Method: "Connector.Connect", Args: "ctx(" + tag + ")"}, false); err != nil {
		return nil, err
	}
	return c.recorder.connect(), nil
}

func (c *recordedConnector) Driver() driver.Driver { return c.recorder.Driver() }

func (c *recordedConnector) Close() error {
	return c.recorder.record(Call{Method: "Connector.Close"}, false)
}

func (r *Recorder) connect() driver.Conn {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := &recordedConn{recorder: r, id: len(r.conns) + 1}
	c.value = connSets[r.sets.Conn](c)
	r.conns = append(r.conns, c)
	return c.value
}

type recordedConn struct {
	recorder *Recorder
	id       int
	value    driver.Conn // what was handed out for it
	closed   bool        // guarded by recorder.mu
}

func (c *recordedConn) record(method, query, args string) error {
	c.recorder.mu.Lock()
	closed := c.closed
	c.recorder.mu.Unlock()
	return c.recorder.record(Call{Conn: c.id, Method: method, Query: query, Args: args}, closed)
}

func (c *recordedConn) Prepare(query string) (driver.Stmt, error) {
	if err := c.record("Prepare", query, ""); err != nil {
		return nil, err
	}
	return c.stmt(query), nil
}

func (c *recordedConn) PrepareContext(ctx context.Context, query string) (driver.Stmt, error) {
	if err := c.record("PrepareContext", query, describeContext(ctx)); err != nil {
		return nil, err
	}
	return c.stmt(query), nil
}

func (c *recordedConn) Close() error {
	err := c.record("Close", "", "")
	c.recorder.mu.Lock()
	defer c.recorder.mu.Unlock()
	c.closed = true
	return err
}

func (c *recordedConn) Begin() (driver.Tx, error) {
	if err := c.record("Begin", "", ""); err != nil {
		return nil, err
	}
	return &recordedTx{conn: c}, nil
}

func (c *recordedConn) BeginTx(ctx context.Context, opts driver.TxOptions) (driver.Tx, error) {
	if err := c.record("BeginTx", "", fmt.Sprintf("%s %+v", describeContext(ctx), opts)); err != nil {
		return nil, err
	}
	return &recordedTx{conn: c}, nil
}

func (c *recordedConn) Ping(ctx context.Context) error {
	return c.record("Ping", "", describeContext(ctx))
}

func (c *recordedConn) Exec(query string, args []driver.Value) (driver.Result, error) {
	if err := c.record("Exec", query, describeValues(args)); err != nil {
		return nil, err
	}
	return recordedResult{c, query}, nil
}

func (c *recordedConn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	if err := c.record("ExecContext", query, describeContext(ctx)+" "+describeNamed(args...)); err != nil {
		return nil, err
	}
	return recordedResult{c, query}, nil
}

func (c *recordedConn) Query(query string, args []driver.Value) (driver.Rows, error) {
	if err := c.record("Query", query, describeValues(args)); err != nil {
		return nil, err
	}
	return c.rows(query), nil
}

func (c *recordedConn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	if err := c.record("QueryContext", query, describeContext(ctx)+" "+describeNamed(args...)); err != nil {
		return nil, err
	}
	return c.rows(query), nil
}

func (c *recordedConn) ResetSession(ctx context.Context) error {
	return c.record("ResetSession", "", describeContext(ctx))
}

func (c *recordedConn) IsValid() bool { return c.record("IsValid", "", "") == nil }

func (c *recordedConn) CheckNamedValue(nv *driver.NamedValue) error {
	return c.check("CheckNamedValue", "", nv)
}

func (c *recordedConn) check(method, query string, nv *driver.NamedValue) error {
	if err := c.record(method, query, describeNamed(*nv)); err != nil {
		return err
	}
	if c.recorder.script.CheckNamedValue == nil {
		return driver.ErrSkip
	}
	return c.recorder.script.CheckNamedValue(nv)
}

func (c *recordedConn) stmt(query string) driver.Stmt {
	return stmtSets[c.recorder.sets.Stmt](&recordedStmt{conn: c, query: query})
}

func (c *recordedConn) rows(query string) driver.Rows {
	sets := []ResultSet{{
		Columns: []Column{{Name: "n", DatabaseType: "INT8", ScanType: reflect.TypeFor[int64]()}},
		Rows:    [][]driver.Value{{int64(1)}},
	}}
	if c.recorder.script.Results != nil {
		sets = c.recorder.script.Results(query)
	}
	return rowsSets[c.recorder.sets.Rows](&recordedRows{conn: c, query: query, sets: sets})
}

type recordedTx struct{ conn *recordedConn }

func (t *recordedTx) Commit() error   { return t.conn.record("Tx.Commit", "", "") }
func (t *recordedTx) Rollback() error { return t.conn.record("Tx.Rollback", "", "") }

type recordedResult struct {
	conn  *recordedConn
	query string
}

func (r recordedResult) LastInsertId() (int64, error) {
	return 7, r.conn.record("Result.LastInsertId", r.query, "")
}

func (r recordedResult) RowsAffected() (int64, error) {
	return 3, r.conn.record("Result.RowsAffected", r.query, "")
}

type recordedStmt struct {
	conn   *recordedConn
	query  string
	closed bool // guarded by conn.recorder.mu
}

func (s *recordedStmt) record(method, args string) error {
	s.conn.recorder.mu.Lock()
	closed := s.closed || s.conn.closed
	s.conn.recorder.mu.Unlock()
	return s.conn.recorder.record(Call{Conn: s.conn.id, Method: method, Query: s.query, Args: args}, closed)
}

func (s *recordedStmt) Close() error {
	err := s.record("Stmt.Close", "")
	s.conn.recorder.mu.Lock()
	defer s.conn.recorder.mu.Unlock()
	s.closed = true
	return err
}

func (s *recordedStmt) NumInput() int {
	if s.conn.recorder.script.NumInput == nil {
		return -1
	}
	return s.conn.recorder.script.NumInput(s.query)
}

func (s *recordedStmt) Exec(args []driver.Value) (driver.Result, error) {
	if err := s.record("Stmt.Exec", describeValues(args)); err != nil {
		return nil, err
	}
	return recordedResult{s.conn, s.query}, nil
}

func (s *recordedStmt) ExecContext(ctx context.Context, args []driver.NamedValue) (driver.Result, error) {
	if err := s.record("Stmt.ExecContext", describeContext(ctx)+" "+describeNamed(args...)); err != nil {
		return nil, err
	}
	return recordedResult{s.conn, s.query}, nil
}

func (s *recordedStmt) Query(args []driver.Value) (driver.Rows, error) {
	if err := s.record("Stmt.Query", describeValues(args)); err != nil {
		return nil, err
	}
	return s.conn.rows(s.query), nil
}

func (s *recordedStmt) QueryContext(ctx context.Context, args []driver.NamedValue) (driver.Rows, error) {
	if err := s.record("Stmt.QueryContext", describeContext(ctx)+" "+describeNamed(args...)); err != nil {
		return nil, err
	}
	return s.conn.rows(s.query), nil
}

func (s *recordedStmt) CheckNamedValue(nv *driver.NamedValue) error {
	return s.conn.check("Stmt.CheckNamedValue", s.query, nv)
}

func (s *recordedStmt) ColumnConverter(index int) driver.ValueConverter {
	return recordedConverter{s, index}
}

type recordedConverter struct {
	stmt  *recordedStmt
	index int
}

func (c recordedConverter) ConvertValue(v any) (driver.Value, error) {
	if err := c.stmt.record("Stmt.ConvertValue", fmt.Sprintf("%d %s", c.index, describeValue(v))); err != nil {
		return nil, err
	}
	if convert := c.stmt.conn.recorder.script.Convert; convert != nil {
		return convert(c.index, v)
	}
	return driver.DefaultParameterConverter.ConvertValue(v)
}

type recordedRows struct {
	conn   *recordedConn
	query  string
	sets   []ResultSet
	row    int
	closed bool // guarded by conn.recorder.mu
}

func (r *recordedRows) record(method, args string) error {
	r.conn.recorder.mu.Lock()
	closed := r.closed || r.conn.closed
	r.conn.recorder.mu.Unlock()
	return r.conn.recorder.record(Call{Conn: r.conn.id, Method: method, Query: r.query, Args: args}, closed)
}

func (r *recordedRows) Columns() []string {
	names := make([]string, len(r.sets[0].Columns))
	for i, c := range r.sets[0].Columns {
		names[i] = c.Name
	}
	return names
}

func (r *recordedRows) Close() error {
	err := r.record("Rows.Close", "")
	r.conn.recorder.mu.Lock()
	defer r.conn.recorder.mu.Unlock()
	r.closed = true
	return err
}

func (r *recordedRows) Next(dest []driver.Value) error {
	if err := r.record("Rows.Next", "into "+strconv.Itoa(len(dest))); err != nil {
		return err
	}
	if r.row == len(r.sets[0].Rows) {
		return io.EOF
	}
	copy(dest, r.sets[0].Rows[r.row])
	r.row++
	return nil
}

func (r *recordedRows) HasNextResultSet() bool { return len(r.sets) > 1 }

func (r *recordedRows) NextResultSet() error {
	if err := r.record("Rows.NextResultSet", ""); err != nil {
		return err
	}
	if len(r.sets) == 1 {
		return io.EOF
	}
	r.sets, r.row = r.sets[1:], 0
	return nil
}

func (r *recordedRows) column(i int) Column { return r.sets[0].Columns[i] }

func (r *recordedRows) ColumnTypeScanType(i int) reflect.Type   { return r.column(i).ScanType }
func (r *recordedRows) ColumnTypeDatabaseTypeName(i int) string { return r.column(i).DatabaseType }

func (r *recordedRows) ColumnTypeLength(i int) (int64, bool) {
	return r.column(i).Length, r.column(i).HasLength
}

func (r *recordedRows) ColumnTypeNullable(i int) (nullable, ok bool) {
	return r.column(i).Nullable, r.column(i).HasNullable
}

func (r *recordedRows) ColumnTypePrecisionScale(i int) (precision, scale int64, ok bool) {
	return r.column(i).Precision, r.column(i).Scale, r.column(i).HasPrecision
}
