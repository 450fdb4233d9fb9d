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
	"reflect"
	"strconv"
	"strings"
	"sync"
	"time"
)

//go:generate go run ./gensets

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
