package recorder

import (
	"database/sql/driver"
	"fmt"
	"io"
	"reflect"
)

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
