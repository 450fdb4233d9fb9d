package recorder

import (
	"context"
	"database/sql/driver"
	"fmt"
	"io"
	"reflect"
	"strconv"
)

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
