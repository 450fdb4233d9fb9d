package lifeguard_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"math/rand/v2"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-lifeguard/lifeguard"
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
func (c *cursor) Close() error      { return nil }

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

func (v valuer) Value() (driver.Value, error)    { return v.v, nil }
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

// execer and preparer are what *sql.DB, *sql.Conn and *sql.Tx have in common.
type execer interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
	PrepareContext(ctx context.Context, query string) (*sql.Stmt, error)
}

func (p *play) exec(on execer, ctx context.Context, query string, args ...any) {
	result, err := on.ExecContext(ctx, query, args...)
	p.error("Exec", err)
	p.result(result, err)
}

func (p *play) result(result sql.Result, err error) {
	if err != nil {
		if result != nil {
			p.note("a result beside the error")
		}
		return
	}
	n, err := result.RowsAffected()
	p.error("RowsAffected "+strconv.FormatInt(n, 10), err)
	n, err = result.LastInsertId()
	p.error("LastInsertId "+strconv.FormatInt(n, 10), err)
}

func (p *play) query(on execer, ctx context.Context, query string, args ...any) {
	rows, err := on.QueryContext(ctx, query, args...)
	p.error("Query", err)
	p.settle(ctx)
	p.rows(rows, err)
}

// settle waits for the consequences of a ctx that is over: database/sql closes
// rows and ends transactions on a goroutine, which is not to race the script.
func (p *play) settle(ctx context.Context) {
	if ctx.Err() != nil {
		synctest.Wait()
	}
}

// rows reads all there is.
func (p *play) rows(rows *sql.Rows, err error) {
	if err != nil {
		if rows != nil {
			p.note("rows beside the error")
		}
		return
	}
	for {
		columns, err := rows.Columns()
		p.error(fmt.Sprintf("Columns %q", columns), err)
		for rows.Next() {
			p.row(rows, len(columns))
		}
		p.error("Err", rows.Err())
		if !rows.NextResultSet() {
			break
		}
	}
	p.error("Err at the end", rows.Err())
	p.error("Close", rows.Close())
}

func (p *play) row(rows *sql.Rows, columns int) {
	values := make([]any, columns)
	dest := make([]any, columns)
	for i := range values {
		dest[i] = &values[i]
	}
	err := rows.Scan(dest...)
	for i, v := range values {
		if c, ok := v.(*cursor); ok {
			values[i] = fmt.Sprintf("a cursor with %d", c.left)
		}
	}
	p.error(fmt.Sprintf("Scan %#v", values), err)
}

func (p *play) queryRow(on execer, ctx context.Context, query string, args ...any) {
	var n int64
	row := on.QueryRowContext(ctx, query, args...)
	p.error("QueryRow", row.Err())
	err := row.Scan(&n)
	p.error(fmt.Sprintf("Scan %d", n), err)
}

// where shows which connection the next call gets.
func (p *play) where() { p.exec(p.db, p.ctx, "where") }

// script is all of it: some 800 calls in the long form, some 200 in the short
// one, which tries the same things with fewer variations.
func (p *play) script() {
	p.dialling()
	p.arguments()
	p.prepared()
	p.transactions()
	if p.full {
		p.resultSets()
	}
	p.connections()
	p.contexts()
	p.faulty(func(string) bool { return true })
	p.several()
	p.closing()
}

// rowsScript is what of it concerns rows.
func (p *play) rowsScript() {
	p.dialling()
	p.resultSets()
	p.faulty(func(kind string) bool { return strings.HasPrefix(kind, "Rows.") })
	p.closing()
}

func (p *play) dialling() { p.dialFails(failWith(errDriver)) }

// dialFails has the first dials fail, and waits: how soon a pool dials again
// after a failure is its own affair.
func (p *play) dialFails(faults ...fault) {
	p.step("dial fails", func() {
		p.fail("Connector.Connect", faults...)
		p.error("Ping", p.db.PingContext(p.ctx))
	})
	time.Sleep(time.Minute)
	p.step("dial", func() {
		p.error("Ping", p.db.PingContext(p.ctx))
		p.where()
	})
}

// shortOtherArgs is how many of otherArgs the short form tries.
const shortOtherArgs = 9

func (p *play) arguments() {
	ctx := p.ctx
	p.step("no arguments", func() {
		p.exec(p.db, ctx, "q")
		p.query(p.db, ctx, "q")
		p.queryRow(p.db, ctx, "q")
		p.exec(p.db, ctx, "") // whatever it means is the driver's to say
	})
	p.step("without a ctx", func() {
		result, err := p.db.Exec("q", 1)
		p.error("Exec", err)
		p.result(result, err)
		rows, err := p.db.Query("q", 1)
		p.error("Query", err)
		p.rows(rows, err)
	})
	good := goodArgs
	if !p.full {
		good = fewArgs
	}
	p.step("good arguments", func() {
		p.exec(p.db, ctx, "q", good...)
		p.query(p.db, ctx, "q", good...)
	})
	p.step("good arguments, prepared", func() {
		st, err := p.db.PrepareContext(ctx, "q")
		p.error("Prepare", err)
		if err != nil {
			return
		}
		result, err := st.ExecContext(ctx, good...)
		p.error("Exec", err)
		p.result(result, err)
		rows, err := st.QueryContext(ctx, good...)
		p.error("Query", err)
		p.rows(rows, err)
		p.error("Close", st.Close())
	})
	if !p.full {
		p.step("other arguments", func() {
			for i, other := range otherArgs[:shortOtherArgs] {
				if i%2 == 0 {
					p.exec(p.db, ctx, "q", other.args...)
				} else {
					p.query(p.db, ctx, "q", other.args...)
				}
			}
		})
		return
	}
	for _, other := range otherArgs {
		p.step(other.name, func() {
			p.exec(p.db, ctx, "q", other.args...)
			p.query(p.db, ctx, "q", other.args...)
			p.exec(p.db, ctx, "?", other.args...)
			p.exec(p.db, ctx, "? ?", other.args...)
			p.queryRow(p.db, ctx, "? ?", other.args...)
			st, err := p.db.PrepareContext(ctx, "q")
			p.error("Prepare", err)
			if err == nil {
				_, err := st.ExecContext(ctx, other.args...)
				p.error("Exec", err)
				p.error("Close", st.Close())
			}
		})
	}
}

func (p *play) prepared() {
	ctx := p.ctx
	var st *sql.Stmt
	p.step("prepare", func() {
		var err error
		st, err = p.db.PrepareContext(ctx, "? ?")
		p.error("Prepare", err)
	})
	counts := []int{0, 1, 2, 3}
	if !p.full {
		counts = []int{2, 3}
	}
	for _, n := range counts {
		p.step(fmt.Sprintf("%d arguments for 2", n), func() {
			args := make([]any, n)
			result, err := st.ExecContext(ctx, args...)
			p.error("Exec", err)
			p.result(result, err)
			rows, err := st.QueryContext(ctx, args...)
			p.error("Query", err)
			p.rows(rows, err)
			var i int
			p.error("QueryRow", st.QueryRowContext(ctx, args...).Scan(&i))
		})
	}
	p.step("a statement on another connection", func() {
		held, err := p.db.Conn(ctx)
		p.error("Conn", err)
		if err != nil {
			return
		}
		_, err = st.ExecContext(ctx, 1, 2)
		p.error("Exec", err)
		p.error("Close", held.Close())
	})
	p.step("a statement in a transaction", func() {
		tx, err := p.db.BeginTx(ctx, nil)
		p.error("Begin", err)
		if err != nil {
			return
		}
		of := tx.StmtContext(ctx, st)
		_, err = of.ExecContext(ctx, 1, 2)
		p.error("Exec", err)
		own, err := tx.PrepareContext(ctx, "three")
		p.error("Prepare", err)
		if err == nil {
			rows, err := own.QueryContext(ctx)
			p.error("Query", err)
			p.rows(rows, err)
		}
		p.error("Commit", tx.Commit())
		_, err = of.ExecContext(ctx, 1, 2)
		p.error("Exec after Commit", err)
	})
	p.step("close the statement", func() {
		p.error("Close", st.Close())
		p.error("Close", st.Close())
		_, err := st.ExecContext(ctx, 1, 2)
		p.error("Exec after Close", err)
	})
	p.step("close the statement before its rows", func() {
		st, err := p.db.PrepareContext(ctx, "three")
		p.error("Prepare", err)
		if err != nil {
			return
		}
		rows, err := st.QueryContext(ctx)
		p.error("Query", err)
		p.error("Close", st.Close())
		p.rows(rows, err)
	})
}

func (p *play) transactions() {
	ctx := p.ctx
	levels := []sql.IsolationLevel{sql.LevelDefault, sql.LevelReadUncommitted, sql.LevelReadCommitted,
		sql.LevelWriteCommitted, sql.LevelRepeatableRead, sql.LevelSnapshot, sql.LevelSerializable,
		sql.LevelLinearizable, 99}
	if !p.full {
		levels = []sql.IsolationLevel{sql.LevelDefault, sql.LevelSerializable}
	}
	for _, level := range levels {
		for _, readOnly := range []bool{false, true} {
			p.step(fmt.Sprintf("begin %v read-only=%t", level, readOnly), func() {
				tx, err := p.db.BeginTx(ctx, &sql.TxOptions{Isolation: level, ReadOnly: readOnly})
				p.error("Begin", err)
				if err != nil {
					return
				}
				p.exec(tx, ctx, "q", 1)
				p.query(tx, ctx, "three")
				p.error("Commit", tx.Commit())
				p.error("Rollback", tx.Rollback())
				p.exec(tx, ctx, "q")
			})
		}
	}
	p.step("rollback", func() {
		tx, err := p.db.Begin()
		p.error("Begin", err)
		if err != nil {
			return
		}
		p.exec(tx, ctx, "q", "a")
		p.error("Rollback", tx.Rollback())
		p.error("Commit", tx.Commit())
		p.where()
	})
	p.step("commit with rows open", func() {
		tx, err := p.db.BeginTx(ctx, nil)
		p.error("Begin", err)
		if err != nil {
			return
		}
		rows, err := tx.QueryContext(ctx, "three")
		p.error("Query", err)
		p.note("Next %t", rows.Next())
		p.exec(tx, ctx, "beside the rows")
		p.error("Commit", tx.Commit())
		p.rows(rows, nil)
	})
	p.step("rollback by the ctx", func() {
		p.ending(func(ctx context.Context, end func()) {
			tx, err := p.db.BeginTx(ctx, nil)
			p.error("Begin", err)
			if err != nil {
				return
			}
			p.exec(tx, p.ctx, "q")
			end()
			synctest.Wait()
			p.error("Commit", tx.Commit())
			p.exec(tx, p.ctx, "q")
		})
		p.where()
	})
	p.step("rollback by the ctx with rows open", func() {
		p.ending(func(ctx context.Context, end func()) {
			tx, err := p.db.BeginTx(ctx, nil)
			p.error("Begin", err)
			if err != nil {
				return
			}
			rows, err := tx.QueryContext(p.ctx, "three")
			p.error("Query", err)
			p.note("Next %t", rows.Next())
			end()
			synctest.Wait()
			p.note("Next %t", rows.Next())
			p.error("Err", rows.Err())
			p.error("Rollback", tx.Rollback())
		})
		p.where()
	})
	p.step("rollback by the ctx fails", func() {
		p.ending(func(ctx context.Context, end func()) {
			tx, err := p.db.BeginTx(ctx, nil)
			p.error("Begin", err)
			if err != nil {
				return
			}
			p.fail("Tx.Rollback", failWith(errDriver))
			end()
			synctest.Wait()
			p.error("Commit", tx.Commit())
		})
		p.where()
	})
}

func (p *play) resultSets() {
	ctx := p.ctx
	for _, query := range []string{"none", "three", "kinds", "sets"} {
		p.step("read "+query, func() {
			p.query(p.db, ctx, query)
			p.queryRow(p.db, ctx, query)
		})
	}
	p.step("column types", func() {
		rows, err := p.db.QueryContext(ctx, "types")
		p.error("Query", err)
		if err != nil {
			return
		}
		types, err := rows.ColumnTypes()
		p.error("ColumnTypes", err)
		for _, c := range types {
			length, hasLength := c.Length()
			precision, scale, hasDecimal := c.DecimalSize()
			nullable, hasNullable := c.Nullable()
			p.note("%s %s %v length %d %t, decimal %d,%d %t, nullable %t %t", c.Name(), c.DatabaseTypeName(),
				c.ScanType(), length, hasLength, precision, scale, hasDecimal, nullable, hasNullable)
		}
		p.rows(rows, nil)
		_, err = rows.ColumnTypes()
		p.error("ColumnTypes after Close", err)
		_, err = rows.Columns()
		p.error("Columns after Close", err)
	})
	p.step("rows left early", func() {
		rows, err := p.db.QueryContext(ctx, "three")
		p.error("Query", err)
		if err != nil {
			return
		}
		p.note("Next %t", rows.Next())
		p.error("Close", rows.Close())
		p.error("Close", rows.Close())
		p.note("Next %t", rows.Next())
		p.error("Err", rows.Err())
	})
	p.step("the next result set at once", func() {
		rows, err := p.db.QueryContext(ctx, "sets")
		p.error("Query", err)
		if err != nil {
			return
		}
		p.note("NextResultSet %t", rows.NextResultSet())
		p.error("Err", rows.Err())
		p.rows(rows, nil)
	})
	p.step("scans", func() {
		rows, err := p.db.QueryContext(ctx, "types")
		p.error("Query", err)
		if err != nil {
			return
		}
		var n int8
		var s sql.NullString
		var raw sql.RawBytes
		p.error("Scan before Next", rows.Scan(&n, &s, &raw))
		p.note("Next %t", rows.Next())
		p.error("Scan too few", rows.Scan(&n))
		p.error("Scan a wrong type", rows.Scan(&n, &n, &raw))
		err = rows.Scan(&n, &s, &raw)
		p.error(fmt.Sprintf("Scan %d %v %q", n, s, raw), err)
		p.error("Close", rows.Close())
	})
	p.step("a cursor", func() {
		rows, err := p.db.QueryContext(ctx, "kinds")
		p.error("Query", err)
		if err != nil {
			return
		}
		p.note("Next %t", rows.Next())
		var inner sql.Rows
		var skip any
		err = rows.Scan(&skip, &skip, &skip, &skip, &skip, &skip, &skip, &inner)
		p.error("Scan", err)
		if err == nil {
			for inner.Next() {
				var n int
				p.error(fmt.Sprintf("Scan %d", n), inner.Scan(&n))
			}
			p.error("Err", inner.Err())
		}
		p.error("Close", rows.Close())
	})
}

func (p *play) connections() {
	ctx := p.ctx
	p.step("ping", func() { p.error("Ping", p.db.PingContext(ctx)) })

	var conn *sql.Conn
	take := func() bool {
		var err error
		conn, err = p.db.Conn(ctx)
		p.error("Conn", err)
		return err == nil
	}
	p.step("conn", func() {
		if !take() {
			return
		}
		p.error("Ping", conn.PingContext(ctx))
		p.exec(conn, ctx, "q", 1)
		p.query(conn, ctx, "three")
		p.queryRow(conn, ctx, "q")
		tx, err := conn.BeginTx(ctx, nil)
		p.error("Begin", err)
		if err == nil {
			p.exec(tx, ctx, "q")
			p.error("Commit", tx.Commit())
		}
		st, err := conn.PrepareContext(ctx, "?")
		p.error("Prepare", err)
		if err == nil {
			_, err := st.ExecContext(ctx, 1)
			p.error("Exec", err)
		}
		p.error("Close", conn.Close())
		p.error("Close", conn.Close())
		p.error("Ping", conn.PingContext(ctx))
		p.exec(conn, ctx, "q")
		p.error("Raw", conn.Raw(func(any) error { return nil }))
	})
	p.step("the driver's connection", func() {
		if !take() {
			return
		}
		err := conn.Raw(func(dc any) error {
			own := lifeguard.Unwrap(dc)
			p.note("connection %d with %010b", p.r.ConnID(own), recorder.ConnSetOf(own))
			return errDriver
		})
		p.error("Raw", err)
		p.error("Close", conn.Close())
		p.where()
	})
	p.step("Raw finds a broken connection", func() {
		if !take() {
			return
		}
		p.error("Raw", conn.Raw(func(any) error { return driver.ErrBadConn }))
		p.error("Raw", conn.Raw(func(any) error { return nil }))
		p.error("Close", conn.Close())
		p.where()
	})
	p.step("Raw panics", func() {
		if !take() {
			return
		}
		p.panics(func() { conn.Raw(func(any) error { panic("in Raw") }) })
		p.error("Close", conn.Close())
		p.where()
	})
}

func (p *play) panics(f func()) {
	defer func() { p.note("recovered %v", recover()) }()
	f()
}

func (p *play) contexts() {
	ended, cancel := context.WithCancel(p.ctx)
	cancel()
	p.step("a ctx that is over", func() {
		p.error("Ping", p.db.PingContext(ended))
		p.exec(p.db, ended, "q")
		p.query(p.db, ended, "q")
		_, err := p.db.PrepareContext(ended, "q")
		p.error("Prepare", err)
		_, err = p.db.BeginTx(ended, nil)
		p.error("Begin", err)
		_, err = p.db.Conn(ended)
		p.error("Conn", err)
	})
	p.step("a ctx that is over, on a held connection", func() {
		conn, err := p.db.Conn(p.ctx)
		p.error("Conn", err)
		if err != nil {
			return
		}
		p.error("Ping", conn.PingContext(ended))
		p.exec(conn, ended, "q", 1)
		p.query(conn, ended, "q", 1)
		st, err := conn.PrepareContext(ended, "q")
		p.error("Prepare", err)
		if err == nil {
			p.error("Close", st.Close())
		}
		st, err = conn.PrepareContext(p.ctx, "q")
		p.error("Prepare", err)
		if err == nil {
			_, err = st.ExecContext(ended, 1)
			p.error("Exec", err)
			rows, err := st.QueryContext(ended, 1)
			p.error("Query", err)
			p.settle(ended)
			p.rows(rows, err)
			p.error("Close", st.Close())
		}
		p.error("Close", conn.Close())
		p.where()
	})
	p.step("a deadline", func() {
		ctx, cancel := context.WithTimeout(p.ctx, time.Hour)
		defer cancel()
		p.error("Ping", p.db.PingContext(ctx))
		p.exec(p.db, ctx, "q", 1)
		p.query(p.db, ctx, "q", 1)
		tx, err := p.db.BeginTx(ctx, nil)
		p.error("Begin", err)
		if err == nil {
			p.exec(tx, ctx, "q")
			p.error("Rollback", tx.Rollback())
		}
	})
	// The ctx ends in the middle of a call.
	operations := map[string]func(ctx context.Context){
		"Exec":  func(ctx context.Context) { p.exec(p.db, ctx, "q", 1) },
		"Query": func(ctx context.Context) { p.query(p.db, ctx, "three", 1) },
		"Begin": func(ctx context.Context) {
			tx, err := p.db.BeginTx(ctx, nil)
			p.error("Begin", err)
			if err == nil {
				p.settle(ctx)
				p.error("Commit", tx.Commit())
			}
		},
		"Ping": func(ctx context.Context) { p.error("Ping", p.db.PingContext(ctx)) },
	}
	endsIn := func(kind, operation string) {
		p.step(fmt.Sprintf("the ctx ends in %s, called by %s", kind, operation), func() {
			p.ending(func(ctx context.Context, end func()) {
				p.fail(kind, func() error { end(); return nil })
				operations[operation](ctx)
				p.settle(ctx)
				p.noFaults()
			})
			p.where()
		})
	}
	if p.full {
		for _, kind := range []string{"Exec", "Query", "Prepare", "Begin", "Ping", "CheckNamedValue",
			"Stmt.CheckNamedValue", "Stmt.Exec", "Stmt.Query", "ResetSession"} {
			for _, operation := range []string{"Exec", "Query", "Begin", "Ping"} {
				endsIn(kind, operation)
			}
		}
	} else {
		endsIn("CheckNamedValue", "Exec") // just before the driver is called
		endsIn("CheckNamedValue", "Query")
		endsIn("Prepare", "Exec")
		endsIn("Query", "Query")
		endsIn("Begin", "Begin")
	}
	p.step("the ctx ends while rows are open", func() {
		p.ending(func(ctx context.Context, end func()) {
			rows, err := p.db.QueryContext(ctx, "three")
			p.error("Query", err)
			if err != nil {
				return
			}
			p.note("Next %t", rows.Next())
			end()
			synctest.Wait()
			p.note("Next %t", rows.Next())
			p.error("Err", rows.Err())
			p.error("Close", rows.Close())
		})
		p.where()
	})
}

// handsOnBadConn is true where database/sql hands driver.ErrBadConn on without
// giving the connection up. lifeguard does give it up, see [TestBadConnHandedOn].
func handsOnBadConn(kind, in string) bool {
	return kind == "Rows.Next" || kind == "Rows.NextResultSet" || strings.HasPrefix(in, "Tx.")
}

// faulty makes one kind of call after another fail in one way after another,
// where the filter agrees.
func (p *play) faulty(filter func(kind string) bool) {
	ctx := p.ctx
	wrapped := fmt.Errorf("the connection is gone: %w", driver.ErrBadConn)
	faults := []struct {
		name string
		err  error
		n    int
	}{
		{"an error", errDriver, 1},
		{"ErrBadConn once", driver.ErrBadConn, 1},
		{"ErrBadConn always", driver.ErrBadConn, 3},
		{"ErrBadConn twice", driver.ErrBadConn, 2},
		{"ErrBadConn, wrapped", wrapped, 1},
		{"ErrSkip", driver.ErrSkip, 1},
		{"ErrRemoveArgument", driver.ErrRemoveArgument, 1},
		{"EOF", io.EOF, 1},
		{"a canceled ctx that is not ours", context.Canceled, 1},
		{"a joined error", errors.Join(errDriver, io.EOF), 1},
	}
	if !p.full {
		faults = faults[:3]
	}
	onDB := func(do func(on execer, ctx context.Context, query string, args ...any), query string) func() {
		return func() { do(p.db, ctx, query, "a") }
	}
	inTx := func(do func(tx *sql.Tx)) func() {
		return func() {
			tx, err := p.db.BeginTx(ctx, nil)
			p.error("Begin", err)
			if err != nil {
				return
			}
			do(tx)
			p.error("Commit", tx.Commit())
		}
	}
	onConn := func(do func(c *sql.Conn)) func() {
		return func() {
			conn, err := p.db.Conn(ctx)
			p.error("Conn", err)
			if err != nil {
				return
			}
			do(conn)
			p.error("Ping", conn.PingContext(ctx))
			p.error("Close", conn.Close())
		}
	}
	onStmt := func(do func(st *sql.Stmt)) func() {
		return func() {
			st, err := p.db.PrepareContext(ctx, "? ?")
			p.error("Prepare", err)
			if err != nil {
				return
			}
			do(st)
			p.error("Close", st.Close())
		}
	}
	execStmt := func(st *sql.Stmt) {
		result, err := st.ExecContext(ctx, 1, "b")
		p.error("Exec", err)
		p.result(result, err)
	}
	queryStmt := func(st *sql.Stmt) {
		rows, err := st.QueryContext(ctx, 1, "b")
		p.error("Query", err)
		p.rows(rows, err)
	}
	exec, query := onDB(p.exec, "?"), onDB(p.query, "three")
	type faultyCall struct {
		kind string // what fails
		in   string // what is called
		do   func()
	}
	cases := []faultyCall{
		{"Exec", "Exec", exec},
		{"Prepare", "Exec", exec},
		{"Stmt.Exec", "Exec", exec},
		{"ResetSession", "Exec", exec},
		{"IsValid", "Exec", exec},
		{"CheckNamedValue", "Exec", exec},
		{"Query", "Query", query},
		{"Ping", "Ping", func() { p.error("Ping", p.db.PingContext(ctx)) }},
		{"Begin", "Begin", inTx(func(*sql.Tx) {})},
		{"Tx.Commit", "Commit", inTx(func(*sql.Tx) {})},
	}
	if p.full {
		cases = append(cases, []faultyCall{
			{"Stmt.Close", "Exec", exec},
			{"Stmt.CheckNamedValue", "Exec", exec},
			{"Stmt.ConvertValue", "Exec", exec},
			{"Result.RowsAffected", "Exec", exec},
			{"Result.LastInsertId", "Exec", exec},
			{"Close", "Exec", exec},

			{"Prepare", "Query", query},
			{"Stmt.Query", "Query", query},
			{"Stmt.Close", "Query", query},
			{"CheckNamedValue", "Query", query},
			{"Rows.Next", "Query", query},
			{"Rows.Close", "Query", query},
			{"Rows.NextResultSet", "Query", onDB(p.query, "sets")},
			{"Rows.Next", "QueryRow", onDB(p.queryRow, "three")},
			{"Rows.Close", "QueryRow", onDB(p.queryRow, "three")},

			{"Tx.Rollback", "Rollback", inTx(func(tx *sql.Tx) { p.error("Rollback", tx.Rollback()) })},
			{"Exec", "Tx.Exec", inTx(func(tx *sql.Tx) { p.exec(tx, ctx, "q", 1) })},
			{"Prepare", "Tx.Exec", inTx(func(tx *sql.Tx) { p.exec(tx, ctx, "q", 1) })},
			{"Stmt.Exec", "Tx.Exec", inTx(func(tx *sql.Tx) { p.exec(tx, ctx, "q", 1) })},
			{"Query", "Tx.Query", inTx(func(tx *sql.Tx) { p.query(tx, ctx, "q", 1) })},
			{"Rows.Next", "Tx.Query", inTx(func(tx *sql.Tx) { p.query(tx, ctx, "q", 1) })},

			{"Exec", "Conn.Exec", onConn(func(c *sql.Conn) { p.exec(c, ctx, "q", 1) })},
			{"Stmt.Exec", "Conn.Exec", onConn(func(c *sql.Conn) { p.exec(c, ctx, "q", 1) })},
			{"Ping", "Conn.Exec", onConn(func(c *sql.Conn) { p.exec(c, ctx, "q", 1) })},
			{"Begin", "Conn.Begin", onConn(func(c *sql.Conn) {
				tx, err := c.BeginTx(ctx, nil)
				p.error("Begin", err)
				if err == nil {
					p.error("Rollback", tx.Rollback())
				}
			})},

			{"Prepare", "Prepare", onStmt(execStmt)},
			{"Stmt.Exec", "Stmt.Exec", onStmt(execStmt)},
			{"Stmt.Query", "Stmt.Query", onStmt(queryStmt)},
			{"Stmt.CheckNamedValue", "Stmt.Exec", onStmt(execStmt)},
			{"CheckNamedValue", "Stmt.Query", onStmt(queryStmt)},
			{"Stmt.ConvertValue", "Stmt.Query", onStmt(queryStmt)},
			{"Stmt.Close", "Stmt.Close", onStmt(func(*sql.Stmt) {})},
			{"Rows.Close", "Stmt.Query", onStmt(queryStmt)},
		}...)
	}
	for _, f := range faults {
		for _, c := range cases {
			if !p.full && f.n > 1 && c.kind != "Exec" && c.kind != "Begin" {
				continue
			}
			if !filter(c.kind) || errors.Is(f.err, driver.ErrBadConn) && handsOnBadConn(c.kind, c.in) {
				continue
			}
			p.step(fmt.Sprintf("%s in %s, called by %s", f.name, c.kind, c.in), func() {
				queue := make([]fault, f.n)
				for i := range queue {
					queue[i] = failWith(f.err)
				}
				p.fail(c.kind, queue...)
				c.do()
				p.noFaults()
				p.where()
			})
		}
	}
}

// several uses more than one connection.
func (p *play) several() {
	ctx := p.ctx
	p.step("two connections", func() {
		first, err := p.db.Conn(ctx)
		p.error("Conn", err)
		second, err := p.db.Conn(ctx)
		p.error("Conn", err)
		p.exec(first, ctx, "first")
		p.exec(second, ctx, "second")
		p.error("Close", first.Close())
		p.where()
		p.error("Close", second.Close())
		p.where()
	})
	p.step("a statement on both", func() {
		st, err := p.db.PrepareContext(ctx, "?")
		p.error("Prepare", err)
		if err != nil {
			return
		}
		first, err := p.db.Conn(ctx)
		p.error("Conn", err)
		_, err = st.ExecContext(ctx, 1)
		p.error("Exec", err)
		p.error("Close", first.Close())
		_, err = st.ExecContext(ctx, 2)
		p.error("Exec", err)
		p.error("Close", st.Close())
	})
}

func (p *play) closing() {
	ctx := p.ctx
	var st *sql.Stmt
	var tx *sql.Tx
	p.step("close the handle in a transaction", func() {
		var err error
		st, err = p.db.PrepareContext(ctx, "?")
		p.error("Prepare", err)
		tx, err = p.db.BeginTx(ctx, nil)
		p.error("Begin", err)
		p.fail("Connector.Close", failWith(errDriver))
		p.error("Close", p.db.Close())
	})
	p.step("finish the transaction", func() {
		p.exec(tx, ctx, "q")
		p.error("Commit", tx.Commit())
	})
	p.step("use after Close", func() {
		p.error("Ping", p.db.PingContext(ctx))
		p.exec(p.db, ctx, "q")
		_, err := st.ExecContext(ctx, 1)
		p.error("Stmt.Exec", err)
		p.error("Stmt.Close", st.Close())
		_, err = p.db.BeginTx(ctx, nil)
		p.error("Begin", err)
		p.error("Close", p.db.Close())
	})
}

// opener makes a handle of a connector.
type opener func(driver.Connector) (*sql.DB, error)

func openPlain(c driver.Connector) (*sql.DB, error) { return sql.OpenDB(c), nil }

func openLifeguard(c driver.Connector) (*sql.DB, error) {
	cfg := lifeguard.DefaultConfig()
	// A statement cache changes which calls the driver sees. That is its use.
	cfg.StatementCacheSize = 0
	return lifeguard.OpenDB(c, lifeguard.WithConfig(cfg), lifeguard.WithLogger(slog.New(slog.DiscardHandler)))
}

// run plays a script in a bubble of its own, from which no goroutine of the
// handle may be left.
func run(t *testing.T, sets recorder.Sets, full bool, open opener, script func(*play)) (steps []step) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		// Not a ctx that can end, for which database/sql starts a goroutine with
		// every query: the steps that are about that make their own.
		ctx := recorder.WithTag(context.Background(), "caller's")
		p := &play{t: t, full: full, faults: make(map[string][]fault), ctx: ctx}
		p.r = recorder.New(sets, recorder.Script{
			Call: p.onCall, CheckNamedValue: checkNamedValue, Convert: convert, NumInput: numInput, Results: results,
		})
		var err error
		if p.db, err = open(p.r.Connector()); err != nil {
			t.Fatal(err)
		}
		script(p)
		if err := p.db.Close(); err != nil {
			t.Errorf("closing the handle: %v", err)
		}
		steps = p.steps
	})
	return steps
}

// difference finds the first step that went another way, and shows both.
func difference(plain, wrapped []step) string {
	for i := range min(len(plain), len(wrapped)) {
		if !plain[i].equal(wrapped[i]) {
			return fmt.Sprintf("step %q\nplain:\n%vwrapped:\n%v", plain[i].name, plain[i], wrapped[i])
		}
	}
	if len(plain) != len(wrapped) {
		return fmt.Sprintf("%d steps, %d wrapped", len(plain), len(wrapped))
	}
	return ""
}

// compare fails for sets whose connections behave otherwise behind lifeguard.
// It stops after a few: one cause shows in hundreds of them.
func compare(t *testing.T, full bool, list []recorder.Sets, script func(*play)) {
	t.Helper()
	different := 0
	for _, sets := range list {
		d := difference(run(t, sets, full, openPlain, script), run(t, sets, full, openLifeguard, script))
		if d == "" {
			continue
		}
		t.Errorf("%v: %s", sets, d)
		if different++; different == 5 {
			t.Fatal("more are not tried")
		}
	}
}

var fullSets = recorder.Sets{Conn: recorder.ConnAll, Stmt: recorder.StmtAll, Rows: recorder.RowsAll, ConnectorCloser: true}

func TestFidelityConn(t *testing.T) {
	// In parts, to use all processors.
	const parts = 8
	for part := range recorder.ConnSet(parts) {
		t.Run(strconv.Itoa(int(part)), func(t *testing.T) {
			t.Parallel()
			var list []recorder.Sets
			for set := part; set <= recorder.ConnAll; set += parts {
				sets := fullSets
				sets.Conn = set
				list = append(list, sets)
			}
			compare(t, false, list, (*play).script)
		})
	}
}

// Without the shortcuts of the connection every query goes through a
// statement.
const connWithoutShortcuts = recorder.ConnAll &^ (recorder.ConnExecer | recorder.ConnExecerContext |
	recorder.ConnQueryer | recorder.ConnQueryerContext)

func TestFidelityStmt(t *testing.T) {
	t.Parallel()
	var list []recorder.Sets
	for set := range recorder.StmtSet(recorder.StmtAll + 1) {
		for _, checker := range []recorder.ConnSet{0, recorder.ConnNamedValueChecker} {
			sets := fullSets
			sets.Conn, sets.Stmt = connWithoutShortcuts&^checker, set
			list = append(list, sets)
		}
	}
	list = append(list, fullSets)
	compare(t, true, list, (*play).script)
}

func TestFidelityRows(t *testing.T) {
	t.Parallel()
	var list []recorder.Sets
	for set := range recorder.RowsSet(recorder.RowsAll + 1) {
		sets := fullSets
		sets.Rows = set
		list = append(list, sets)
	}
	compare(t, true, list, (*play).rowsScript)
}

// TestFidelityRandom draws from all combinations. LIFEGUARD_TEST_SEED repeats a
// run.
func TestFidelityRandom(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	if text := os.Getenv("LIFEGUARD_TEST_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("LIFEGUARD_TEST_SEED: %v", err)
		}
	}
	t.Logf("LIFEGUARD_TEST_SEED=%d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	var list []recorder.Sets
	for range 24 {
		list = append(list, recorder.Sets{
			Conn:            recorder.ConnSet(random.IntN(recorder.ConnAll + 1)),
			Stmt:            recorder.StmtSet(random.IntN(recorder.StmtAll + 1)),
			Rows:            recorder.RowsSet(random.IntN(recorder.RowsAll + 1)),
			ConnectorCloser: random.IntN(2) == 1,
		})
	}
	compare(t, true, list, (*play).script)
}

// A panic of the driver reaches the caller as it was, and the handle goes on
// working.
func TestFidelityPanic(t *testing.T) {
	t.Parallel()
	scripts := []struct {
		kind string
		do   func(p *play)
	}{
		{"Exec", func(p *play) { p.exec(p.db, p.ctx, "q", 1) }},
		{"CheckNamedValue", func(p *play) { p.query(p.db, p.ctx, "q", 1) }},
		{"Stmt.CheckNamedValue", func(p *play) {
			st, err := p.db.PrepareContext(p.ctx, "q")
			p.error("Prepare", err)
			st.QueryContext(p.ctx, 1)
		}},
		{"Stmt.Close", func(p *play) {
			st, err := p.db.PrepareContext(p.ctx, "q")
			p.error("Prepare", err)
			st.Close()
		}},
		{"Query", func(p *play) { p.query(p.db, p.ctx, "q", 1) }},
		{"Prepare", func(p *play) { p.db.PrepareContext(p.ctx, "q") }},
		{"CheckNamedValue", func(p *play) { p.exec(p.db, p.ctx, "q", 1) }},
		{"Begin", func(p *play) { p.db.BeginTx(p.ctx, nil) }},
		{"Ping", func(p *play) { p.db.PingContext(p.ctx) }},
		{"ResetSession", func(p *play) { p.exec(p.db, p.ctx, "q", 1) }},
		{"IsValid", func(p *play) { p.exec(p.db, p.ctx, "q", 1) }},
		{"Tx.Commit", func(p *play) {
			tx, err := p.db.BeginTx(p.ctx, nil)
			p.error("Begin", err)
			tx.Commit()
		}},
		{"Tx.Rollback", func(p *play) {
			tx, err := p.db.BeginTx(p.ctx, nil)
			p.error("Begin", err)
			tx.Rollback()
		}},
		{"Stmt.Exec", func(p *play) {
			st, err := p.db.PrepareContext(p.ctx, "q")
			p.error("Prepare", err)
			st.ExecContext(p.ctx, 1)
		}},
		{"Stmt.Query", func(p *play) {
			st, err := p.db.PrepareContext(p.ctx, "q")
			p.error("Prepare", err)
			st.QueryContext(p.ctx, 1)
		}},
		{"Rows.Next", func(p *play) {
			rows, err := p.db.QueryContext(p.ctx, "three")
			p.error("Query", err)
			defer func() { p.error("Close", rows.Close()) }()
			rows.Next()
		}},
		{"Rows.Close", func(p *play) {
			rows, err := p.db.QueryContext(p.ctx, "three")
			p.error("Query", err)
			rows.Close()
		}},
		{"Raw in a transaction", func(p *play) {
			conn, err := p.db.Conn(p.ctx)
			p.error("Conn", err)
			defer func() { p.error("Close", conn.Close()) }()
			tx, err := conn.BeginTx(p.ctx, nil)
			p.error("Begin", err)
			defer func() { p.error("Rollback", tx.Rollback()) }()
			panic("driver panic")
		}},
	}
	for _, s := range scripts {
		t.Run(s.kind, func(t *testing.T) {
			with := func(open opener, check func(p *play)) []step {
				return run(t, fullSets, true, open, func(p *play) {
					p.step("before", func() { p.where() })
					p.step("panic", func() {
						p.fail(s.kind, func() error { panic("driver panic") })
						p.panics(func() { s.do(p) })
					})
					p.step("after", func() {
						p.where()
						p.query(p.db, p.ctx, "three")
					})
					check(p)
				})
			}
			plain := with(openPlain, func(*play) {})
			wrapped := with(openLifeguard, func(p *play) {
				pool, ok := lifeguard.PoolOf(p.db)
				if !ok {
					t.Fatal("the handle has no pool")
				}
				if stats := pool.Stats(); stats.InUse != 0 {
					t.Errorf("%d connections still in use", stats.InUse)
				}
			})
			// Not the connections: one whose driver panicked is closed, where
			// database/sql uses it again or, after some of these, loses it.
			if !slices.Equal(plain[1].results, wrapped[1].results) ||
				!slices.Equal(upTo(s.kind, plain[1].calls), upTo(s.kind, wrapped[1].calls)) {
				t.Errorf("panic\nplain:\n%vwrapped:\n%v", plain[1], wrapped[1])
			}
			if !slices.Equal(plain[2].results, wrapped[2].results) {
				t.Errorf("after the panic\nplain:\n%vwrapped:\n%v", plain[2], wrapped[2])
			}
		})
	}
}

// upTo cuts calls off after the first of a kind.
func upTo(kind string, calls []recorder.Call) []recorder.Call {
	i := slices.IndexFunc(calls, func(c recorder.Call) bool { return kindOf(c.Method) == kind })
	if i < 0 {
		return calls
	}
	return calls[:i+1]
}

// The first caller meets the dial, and what it failed with.
func TestFidelityDial(t *testing.T) {
	t.Parallel()
	for _, err := range []error{errDriver, context.Canceled, driver.ErrSkip} {
		t.Run(err.Error(), func(t *testing.T) {
			compare(t, true, []recorder.Sets{fullSets, {}}, func(p *play) { p.dialFails(failWith(err)) })
		})
	}
}

// Errors of a server that is down or starting are a reason to wait for
// lifeguard, where the plain driver fails at once or after three dials.
func TestDialAgain(t *testing.T) {
	t.Parallel()
	for _, err := range []error{io.EOF, driver.ErrBadConn} {
		for n := range 5 {
			t.Run(fmt.Sprintf("%v %d times", err, n), func(t *testing.T) {
				steps := run(t, fullSets, true, openLifeguard, func(p *play) {
					faults := make([]fault, n)
					for i := range faults {
						faults[i] = failWith(err)
					}
					p.dialFails(faults...)
				})
				var want []string
				for range n + 1 {
					want = append(want, `conn 0: Connector.Connect "" ctx(caller's)`)
				}
				want = append(want, `conn 1: Ping "" ctx(caller's)`)
				var got []string
				for _, c := range steps[0].calls {
					got = append(got, c.String())
				}
				if !slices.Equal(got, want) || steps[0].results[0] != "Ping: no error" {
					t.Errorf("got\n%vwant\n\t%s", steps[0], strings.Join(want, "\n\t"))
				}
			})
		}
	}
}

// A transaction that its ctx ended leaves a session in an unknown state. Where
// the driver can neither reset nor check it, database/sql takes the connection
// from an *sql.Conn too.
func TestFidelityConnAfterRollback(t *testing.T) {
	t.Parallel()
	var list []recorder.Sets
	for _, missing := range []recorder.ConnSet{0, recorder.ConnSessionResetter, recorder.ConnValidator,
		recorder.ConnSessionResetter | recorder.ConnValidator} {
		sets := fullSets
		sets.Conn &^= missing
		list = append(list, sets)
	}
	for _, endedBefore := range []bool{false, true} {
		compare(t, true, list, func(p *play) {
			p.step("rollback by the ctx", func() {
				conn, err := p.db.Conn(p.ctx)
				p.error("Conn", err)
				p.ending(func(ctx context.Context, end func()) {
					if endedBefore {
						end()
					}
					tx, err := conn.BeginTx(ctx, nil)
					p.error("Begin", err)
					end()
					synctest.Wait()
					p.error("Commit", tx.Commit())
				})
				p.exec(conn, p.ctx, "q", 1)
				p.error("Ping", conn.PingContext(p.ctx))
				p.error("Close", conn.Close())
				p.where()
			})
		})
	}
}

// A connection that turns out to be bad while rows are read, or in the middle
// of a transaction, is not used again. The plain driver's is, and the next call
// finds out.
func TestBadConnHandedOn(t *testing.T) {
	t.Parallel()
	sets := fullSets
	sets.Conn &^= recorder.ConnExecer | recorder.ConnExecerContext
	inTx := func(do func(p *play, tx *sql.Tx)) func(p *play) {
		return func(p *play) {
			tx, err := p.db.BeginTx(p.ctx, nil)
			p.error("Begin", err)
			do(p, tx)
			p.error("Commit", tx.Commit())
		}
	}
	exec := inTx(func(p *play, tx *sql.Tx) { p.exec(tx, p.ctx, "q", 1) })
	query := inTx(func(p *play, tx *sql.Tx) { p.query(tx, p.ctx, "sets", 1) })
	for _, test := range []struct {
		kind, in string
		do       func(p *play)
	}{
		{"Rows.Next", "Query", func(p *play) { p.query(p.db, p.ctx, "sets") }},
		{"Rows.NextResultSet", "Query", func(p *play) { p.query(p.db, p.ctx, "sets") }},
		{"Query", "Tx.Query", query},
		{"Rows.Next", "Tx.Query", query},
		{"Prepare", "Tx.Exec", exec},
		{"Stmt.Exec", "Tx.Exec", exec},
	} {
		t.Run(test.kind+" in "+test.in, func(t *testing.T) {
			script := func(p *play) {
				p.step("bad connection", func() {
					p.fail(test.kind, failWith(driver.ErrBadConn))
					test.do(p)
				})
				p.step("after", func() { p.where() })
			}
			plain, wrapped := run(t, sets, true, openPlain, script), run(t, sets, true, openLifeguard, script)
			if !slices.Equal(plain[0].results, wrapped[0].results) || !slices.Equal(plain[0].calls, wrapped[0].calls) {
				t.Errorf("plain:\n%vwrapped:\n%v", plain[0], wrapped[0])
			}
			if !handsOnBadConn(test.kind, test.in) || !slices.Equal(plain[1].open, []int{1}) {
				t.Errorf("plain database/sql uses connections %v, and gives up the first itself", plain[1].open)
			}
			if !slices.Equal(wrapped[1].open, []int{2}) {
				t.Errorf("open connections %v, want only the second", wrapped[1].open)
			}
		})
	}
}

// What fails when the last connections close is told by DB.Close.
func TestFidelityClose(t *testing.T) {
	t.Parallel()
	compare(t, true, []recorder.Sets{fullSets, {}}, func(p *play) {
		p.step("two connections", func() {
			conn, err := p.db.Conn(p.ctx)
			p.error("Conn", err)
			p.where()
			p.error("Close", conn.Close())
		})
		p.step("close", func() {
			p.fail("Close", failWith(errDriver), failWith(errDriver))
			p.error("Close", p.db.Close())
			p.error("Close", p.db.Close())
		})
	})
}

// opened counts registrations: the names of drivers are for the whole process.
var opened atomic.Int64

// A driver is opened by its name as database/sql does it, with the DSN as it
// was written.
func TestFidelityOpen(t *testing.T) {
	const dsn = "user:p?ss@tcp(host)/db?a=b&c=%20#d"
	open := func(name string) (*sql.DB, error) { return sql.Open(name, dsn) }
	openWrapped := func(name string) (*sql.DB, error) {
		cfg := lifeguard.DefaultConfig()
		cfg.StatementCacheSize = 0
		return lifeguard.Open(name, dsn, lifeguard.WithConfig(cfg), lifeguard.WithLogger(slog.New(slog.DiscardHandler)))
	}
	for _, withContext := range []bool{false, true} {
		for _, failing := range []string{"", "Driver.OpenConnector", "Driver.Open", "Connector.Connect"} {
			play := func(open func(name string) (*sql.DB, error)) (out []string) {
				synctest.Test(t, func(t *testing.T) {
					sets := fullSets
					sets.DriverContext = withContext
					r := recorder.New(sets, recorder.Script{Call: func(c recorder.Call) error {
						if c.Method == failing {
							return errDriver
						}
						return nil
					}})
					name := fmt.Sprintf("fidelity-%d", opened.Add(1))
					sql.Register(name, r.Driver())
					r.Take()
					db, err := open(name)
					out = append(out, "Open: "+describeError(err))
					if err == nil {
						err = db.PingContext(t.Context())
						out = append(out, "Ping: "+describeError(err))
						db.Close()
					}
					for _, c := range r.Take() {
						if c.Method != "IsValid" {
							out = append(out, c.String())
						}
					}
				})
				return out
			}
			plain, wrapped := play(open), play(openWrapped)
			// A driver is found by its name with sql.Open alone, which makes a
			// connector of a driver that has some. It is closed, unused.
			first := []string{
				fmt.Sprintf(`conn 0: Driver.OpenConnector "" %q`, dsn),
				`conn 0: Connector.Close ""`,
			}
			if opened := plain[0] == "Open: no error"; opened && withContext {
				if i := slices.Index(wrapped, first[0]); i < 0 || !slices.Equal(wrapped[i:i+2], first) {
					t.Errorf("no %q in %q", first, wrapped)
				} else {
					wrapped = slices.Delete(wrapped, i, i+2)
				}
			}
			if !slices.Equal(plain, wrapped) {
				t.Errorf("DriverContext %t, failing %q\nplain:\n\t%s\nwrapped:\n\t%s", withContext, failing,
					strings.Join(plain, "\n\t"), strings.Join(wrapped, "\n\t"))
			}
		}
	}
}

// The comparison finds what careless wrappers do, each in the part of the
// script that is about it, and no difference between a driver and itself.
func TestFidelityFindsDifferences(t *testing.T) {
	t.Parallel()
	all := func(string) bool { return true }
	tests := []struct {
		name   string
		wrap   func(dc fullConn) driver.Conn
		script func(p *play)
	}{
		{"hidden interfaces", func(dc fullConn) driver.Conn { return struct{ driver.Conn }{dc} }, (*play).arguments},
		{"another ctx", func(dc fullConn) driver.Conn { return forgetsContext{dc} }, (*play).arguments},
		{"other arguments", func(dc fullConn) driver.Conn { return changesArguments{dc} }, (*play).arguments},
		{"no options", func(dc fullConn) driver.Conn { return dropsOptions{dc} }, (*play).transactions},
		{"no reset", func(dc fullConn) driver.Conn { return dropsReset{dc} }, (*play).arguments},
		{"wrapped errors", func(dc fullConn) driver.Conn { return wrapsErrors{dc} }, func(p *play) { p.faulty(all) }},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			open := func(c driver.Connector) (*sql.DB, error) { return sql.OpenDB(wrappingConnector{c, test.wrap}), nil }
			plain := run(t, fullSets, true, openPlain, test.script)
			if d := difference(plain, run(t, fullSets, true, openPlain, test.script)); d != "" {
				t.Errorf("the same driver twice: %s", d)
			}
			if difference(plain, run(t, fullSets, true, open, test.script)) == "" {
				t.Error("not found")
			}
		})
	}
}

type fullConn interface {
	driver.Conn
	driver.Pinger
	driver.ExecerContext
	driver.QueryerContext
	driver.ConnPrepareContext
	driver.ConnBeginTx
	driver.SessionResetter
	driver.Validator
	driver.NamedValueChecker
}

type wrappingConnector struct {
	driver.Connector
	wrap func(fullConn) driver.Conn
}

func (c wrappingConnector) Connect(ctx context.Context) (driver.Conn, error) {
	dc, err := c.Connector.Connect(ctx)
	if err != nil {
		return nil, err
	}
	return c.wrap(dc.(fullConn)), nil
}

type forgetsContext struct{ fullConn }

func (c forgetsContext) ExecContext(_ context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	return c.fullConn.ExecContext(context.Background(), query, args)
}

type changesArguments struct{ fullConn }

func (c changesArguments) CheckNamedValue(nv *driver.NamedValue) (err error) {
	nv.Value, err = driver.DefaultParameterConverter.ConvertValue(nv.Value)
	return err
}

type dropsOptions struct{ fullConn }

func (c dropsOptions) BeginTx(ctx context.Context, _ driver.TxOptions) (driver.Tx, error) {
	return c.fullConn.BeginTx(ctx, driver.TxOptions{})
}

type dropsReset struct{ fullConn }

func (dropsReset) ResetSession(context.Context) error { return nil }

type wrapsErrors struct{ fullConn }

func (c wrapsErrors) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	rows, err := c.fullConn.QueryContext(ctx, query, args)
	if err != nil {
		return nil, fmt.Errorf("query: %w", err)
	}
	return rows, nil
}
