package handle_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-lifeguard/lifeguard/internal/fakedriver/recorder"
)

// The differential test: one script of database/sql calls runs on a driver as
// it is and on the same driver behind lifeguard, and both must give the same
// results and the same errors, and show the driver the same calls with the
// same arguments in the same order, on the same connections. It is run for
// every set of optional interfaces a driver's connection can have, for those
// of statements and rows, and for combinations drawn at random.
//
// Not compared, because a pool may do it in its own time:
//   - calls of IsValid, and when a connection is closed (that it was closed, and
//     which are open after each step, is compared),
//   - a ResetSession that directly follows another,
//   - what only asks for a property (NumInput, Columns, ColumnType…).

// play is one run of the script.
type play struct {
	t    *testing.T
	r    *recorder.Recorder
	db   *sql.DB
	ctx  context.Context
	full bool // the long form

	mu     sync.Mutex
	faults map[string][]fault // guarded by mu: a pool may dial on a goroutine of its own
	steps  []step
	out    []string     // results of the step under way
	dials  atomic.Int64 // in the step under way
}

// step is what one step of the script came to.
type step struct {
	name    string
	results []string
	calls   []recorder.Call
	open    []int
}

func (s step) equal(o step) bool {
	return s.name == o.name && slices.Equal(s.open, o.open) && slices.Equal(s.results, o.results) && slices.Equal(s.calls, o.calls)
}

func (s step) String() string {
	var b strings.Builder
	for _, line := range s.results {
		fmt.Fprintf(&b, "\tresult %s\n", line)
	}
	for _, line := range s.calls {
		fmt.Fprintf(&b, "\tcall   %v\n", line)
	}
	fmt.Fprintf(&b, "\topen   %v\n", s.open)
	return b.String()
}

// fault is what a call to the driver does instead of succeeding.
type fault func() error

func failWith(err error) fault { return func() error { return err } }

// kindOf puts the forms of a method with and without a ctx under one name.
func kindOf(method string) string {
	switch method {
	case "BeginTx":
		return "Begin"
	case "PrepareContext", "ExecContext", "QueryContext", "Stmt.ExecContext", "Stmt.QueryContext":
		return strings.TrimSuffix(method, "Context")
	}
	return method
}

// fail makes the next calls of a kind do what the faults say, one each.
func (p *play) fail(kind string, faults ...fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.faults[kind] = faults
}

func (p *play) noFaults() {
	p.mu.Lock()
	defer p.mu.Unlock()
	clear(p.faults)
}

// maxDials is how often a step may dial. A pool that throws away what it has just
// opened would otherwise go on for ever, in a bubble where no time passes.
const maxDials = 50

var errTooManyDials = fmt.Errorf("more than %d dials in one step", maxDials)

func (p *play) onCall(c recorder.Call) error {
	kind := kindOf(c.Method)
	if kind == "Connector.Connect" && p.dials.Add(1) > maxDials {
		return errTooManyDials
	}
	p.mu.Lock()
	queue := p.faults[kind]
	if len(queue) > 0 {
		p.faults[kind] = queue[1:]
	}
	p.mu.Unlock()
	if len(queue) > 0 {
		return queue[0]()
	}
	return nil
}

// note adds to the results of the step.
func (p *play) note(format string, args ...any) { p.out = append(p.out, fmt.Sprintf(format, args...)) }

func (p *play) error(what string, err error) {
	p.out = append(p.out, what+": "+describeError(err))
}

// step runs one step, which takes no time. It ends when nothing moves any more,
// the goroutines of database/sql included.
func (p *play) step(name string, f func()) {
	start := time.Now()
	f()
	synctest.Wait()
	if took := time.Since(start); took != 0 {
		p.note("took %v", took)
	}
	p.noFaults()
	p.dials.Store(0)
	s := step{name: name, results: p.out, open: p.r.Open()}
	last := recorder.Call{}
	for _, c := range p.r.Take() {
		switch c.Method {
		case "IsValid", "Close":
			continue
		case "ResetSession":
			if last.Method == c.Method && last.Conn == c.Conn {
				continue
			}
		}
		last = c
		s.calls = append(s.calls, c)
	}
	p.out = nil
	p.steps = append(p.steps, s)
}

// ending runs f with a ctx that it can end, and that has ended afterwards.
func (p *play) ending(f func(ctx context.Context, end func())) {
	ctx, cancel := context.WithCancel(p.ctx)
	defer cancel()
	f(ctx, cancel)
}

// driverError is an error type of the driver's own. It is compared by
// identity, which callers do when they look for it with errors.As.
type driverError struct{ code string }

func (e *driverError) Error() string { return "driver: code " + e.code }

var errDriver = &driverError{"42"}

// sentinels are the errors that callers, and database/sql, look for.
var sentinels = []struct {
	name string
	err  error
}{
	{"errDriver", errDriver},
	{"driver.ErrBadConn", driver.ErrBadConn},
	{"driver.ErrSkip", driver.ErrSkip},
	{"driver.ErrRemoveArgument", driver.ErrRemoveArgument},
	{"io.EOF", io.EOF},
	{"context.Canceled", context.Canceled},
	{"context.DeadlineExceeded", context.DeadlineExceeded},
	{"sql.ErrNoRows", sql.ErrNoRows},
	{"sql.ErrTxDone", sql.ErrTxDone},
	{"sql.ErrConnDone", sql.ErrConnDone},
}

func describeError(err error) string {
	if err == nil {
		return "no error"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%q %T", err, err)
	for _, s := range sentinels {
		switch {
		case err == s.err:
			b.WriteString(" == " + s.name)
		case errors.Is(err, s.err):
			b.WriteString(" is " + s.name)
		}
	}
	return b.String()
}

// Arguments that CheckNamedValue, where there is one, treats specially. The
// default conversion makes a string of each of them.
type (
	acceptedArg  string // taken as it is
	removedArg   string // driver.ErrRemoveArgument
	refusedArg   string // errDriver
	rewrittenArg string // gets another name, number and value
)

func checkNamedValue(nv *driver.NamedValue) error {
	switch v := nv.Value.(type) {
	case acceptedArg, json.RawMessage:
		return nil
	case removedArg:
		return driver.ErrRemoveArgument
	case refusedArg:
		return errDriver
	case rewrittenArg:
		nv.Name, nv.Ordinal, nv.Value = "rewritten", nv.Ordinal+100, []string{string(v)}
		return nil
	case sql.Out:
		if _, ok := v.Dest.(*int); ok {
			return nil
		}
	}
	return driver.ErrSkip
}

// Strings that the converters of ColumnConverter, where there are any, treat
// specially.
const (
	convertFails = "convert: fail"
	convertWrong = "convert: to what no driver takes"
	convertSkips = "convert: skip"
)

func convert(index int, v any) (driver.Value, error) {
	switch v {
	case convertFails:
		return nil, errDriver
	case convertWrong:
		return []int{index}, nil
	case convertSkips:
		return nil, driver.ErrSkip
	}
	if s, ok := v.(string); ok {
		return fmt.Sprintf("%s@%d", s, index), nil
	}
	return driver.DefaultParameterConverter.ConvertValue(v)
}

// numInput counts the question marks. A text without any does not say how many
// arguments it takes.
func numInput(query string) int {
	if n := strings.Count(query, "?"); n > 0 {
		return n
	}
	return -1
}

var moment = time.Date(2024, 2, 29, 12, 30, 0, 123456789, time.FixedZone("", 3600))

func results(query string) []recorder.ResultSet {
	number := recorder.Column{Name: "n", DatabaseType: "INT8", ScanType: reflect.TypeFor[int64](), HasNullable: true}
	text := recorder.Column{Name: "s", DatabaseType: "VARCHAR", ScanType: reflect.TypeFor[string](),
		Length: 80, HasLength: true, Nullable: true, HasNullable: true}
	decimal := recorder.Column{Name: "d", DatabaseType: "NUMERIC", ScanType: reflect.TypeFor[[]byte](),
		Precision: 10, Scale: 2, HasPrecision: true}
	switch query {
	case "none":
		return []recorder.ResultSet{{Columns: []recorder.Column{number}}}
	case "three":
		return []recorder.ResultSet{{Columns: []recorder.Column{number},
			Rows: [][]driver.Value{{int64(1)}, {int64(2)}, {int64(3)}}}}
	case "kinds":
		columns := make([]recorder.Column, 8)
		for i := range columns {
			columns[i].Name = strconv.Itoa(i)
		}
		return []recorder.ResultSet{{Columns: columns,
			Rows: [][]driver.Value{{int64(-1), 1.5, true, []byte("bytes"), "string", moment, nil, &cursor{left: 2}}}}}
	case "types":
		return []recorder.ResultSet{{Columns: []recorder.Column{number, text, decimal},
			Rows: [][]driver.Value{{int64(1), "a", []byte("1.50")}}}}
	case "sets":
		return []recorder.ResultSet{
			{Columns: []recorder.Column{number}, Rows: [][]driver.Value{{int64(1)}, {int64(2)}}},
			{Columns: []recorder.Column{text, decimal}, Rows: [][]driver.Value{{"a", []byte("1")}}},
			{Columns: []recorder.Column{}},
			{Columns: []recorder.Column{number}},
		}
	}
	return []recorder.ResultSet{{Columns: []recorder.Column{number}, Rows: [][]driver.Value{{int64(1)}}}}
}

// cursor is a value that is rows itself, which Scan takes into an *sql.Rows.
type cursor struct{ left int }

func (c *cursor) Columns() []string { return []string{"c"} }

func (c *cursor) Close() error { return nil }

func (c *cursor) Next(dest []driver.Value) error {
	if c.left == 0 {
		return io.EOF
	}
	dest[0] = int64(c.left)
	c.left--
	return nil
}

type (
	ownInt    int
	ownBytes  []byte
	ownStruct struct{ A int }

	valuer      struct{ v any }
	valuerFails struct{}
	valuerOnPtr struct{ n int64 }
)

func (v valuer) Value() (driver.Value, error) { return v.v, nil }

func (valuerFails) Value() (driver.Value, error) { return nil, errDriver }

func (v *valuerOnPtr) Value() (driver.Value, error) {
	if v == nil {
		return "called on nil", nil
	}
	return v.n, nil
}

var (
	someInt    = 7
	somePtr    = &someInt
	someString = "pointed at"

	// goodArgs are taken by every driver.
	goodArgs = []any{
		int(-1), int8(-8), int16(16), int32(-32), int64(math.MinInt64),
		uint(1), uint8(8), uint16(16), uint32(32), uint64(math.MaxInt64),
		float32(0.5), float64(math.MaxFloat64), math.Inf(-1), true, false,
		"string", "", "\x00\xff", []byte("bytes"), []byte{}, []byte(nil), nil, moment,
		sql.NullString{}, sql.NullString{String: "s", Valid: true}, sql.NullInt64{Int64: 9, Valid: true},
		sql.NullTime{Time: moment, Valid: true}, sql.Null[string]{V: "v", Valid: true}, sql.Null[int]{},
		valuer{int64(3)}, valuer{nil}, &valuer{"by pointer"}, &valuerOnPtr{4}, (*valuer)(nil), (*valuerOnPtr)(nil),
		somePtr, &somePtr, &someString, (*int)(nil),
		json.RawMessage(`{"a": 1}`), sql.RawBytes("raw"), ownInt(5), ownBytes("own"),
		acceptedArg("accepted"), rewrittenArg("rewritten"),
	}

	// fewArgs stand for them in the short form.
	fewArgs = []any{
		int(-1), float32(0.5), "string", []byte("bytes"), nil, moment, sql.NullString{String: "s", Valid: true},
		valuer{int64(3)}, somePtr, json.RawMessage(`{"a": 1}`), acceptedArg("accepted"), rewrittenArg("rewritten"),
	}

	// otherArgs are refused, or not by every driver; each is tried alone. The
	// short form tries only the first of them, every other with Query.
	otherArgs = []struct {
		name string
		args []any
	}{
		{"a high uint64", []any{uint64(math.MaxUint64)}},
		{"a struct", []any{ownStruct{1}}},
		{"a Valuer that fails", []any{valuerFails{}}},
		{"named arguments", []any{sql.Named("a", "x"), sql.Named("b", nil), "and one without"}},
		{"a bad name", []any{sql.Named("1st", 1)}},
		{"an output argument", []any{sql.Out{Dest: &someInt}}},
		{"an output argument that is refused", []any{sql.Out{Dest: &someString, In: true}}},
		{"a removed argument", []any{1, removedArg("gone"), 2}},
		{"a refused argument", []any{1, refusedArg("no")}},
		{"a channel", []any{make(chan int)}},
		{"a function", []any{func() {}}},
		{"a map", []any{map[string]int{"a": 1}}},
		{"a slice", []any{[]int{1}}},
		{"an array", []any{[2]int{1, 2}}},
		{"a complex number", []any{complex(1, 2)}},
		{"a bad one second", []any{1, []string{"a"}}},
		{"a pointer to a struct", []any{&ownStruct{2}}},
		{"a Valuer of a wrong type", []any{valuer{[]int{1}}}},
		{"a Valuer of a convertible type", []any{valuer{int(1)}}},
		{"a named argument", []any{sql.Named("name", 1)}},
		{"an empty name", []any{sql.Named("", 1)}},
		{"a bad value with a name", []any{sql.Named("a", []int{1})}},
		{"a named output argument", []any{sql.Named("out", sql.Out{Dest: &someInt, In: true})}},
		{"only removed arguments", []any{removedArg("gone"), removedArg("gone too")}},
		{"a named removed argument", []any{sql.Named("a", removedArg("gone")), 5}},
		{"a failing conversion", []any{"a", convertFails}},
		{"a conversion to a wrong type", []any{convertWrong}},
		{"a conversion that skips", []any{convertSkips}},
	}
)
