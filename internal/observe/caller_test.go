package observe

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"reflect"
	"runtime"
	"sync"
	"testing"
	"text/template"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/go-lifeguard/lifeguard/internal/callsite"
)

const slow = time.Second

// checkouts captures the stack of each connection that a handle of database/sql asks for.
type checkouts struct{ stacks chan []uintptr }

func (c checkouts) Connect(context.Context) (driver.Conn, error) {
	var s callsite.Stack
	s.Capture(1) // tests are applications, and so would this method be
	c.stacks <- s.PCs()
	return nil, errors.New("no connection")
}

func (checkouts) Driver() driver.Driver { return nil }

func stackOf(run func(db *sql.DB)) []uintptr {
	c := checkouts{make(chan []uintptr, 1)}
	db := sql.OpenDB(c)
	defer db.Close()
	run(db)
	return <-c.stacks
}

func takeForQuery(db *sql.DB) { _, _ = db.Query("SELECT") }
func takeConn(db *sql.DB)     { _, _ = db.Conn(context.Background()) }
func takeTx(db *sql.DB)       { _, _ = db.Begin() }

const (
	queryTaker = "takeForQuery"
	connTaker  = "takeConn"
	txTaker    = "takeTx"
	closer     = `\(\*recorder\).end`
)

// The caller is the one that ran the operation, as far as it is known.
func TestCallerOfOperation(t *testing.T) {
	forQuery, conn, tx := stackOf(takeForQuery), stackOf(takeConn), stackOf(takeTx)
	r := record(t, func(c *Config) { c.Trace = TraceAll })
	const query = "SELECT a FROM t"
	noted := func() *Caller { return r.Here(Query, query) }()
	for _, c := range []struct {
		name string
		op   Operation
		want string
	}{
		{"nothing known but who ends it", Operation{Kind: Query}, closer},
		{"noted when it began", Operation{Kind: Query, Caller: noted, Stack: forQuery, First: true}, `TestCallerOfOperation`},
		{"the checkout was for the query", Operation{Kind: Query, Stack: forQuery, First: true}, queryTaker},
		{"a later query of a transaction", Operation{Kind: Query, Stack: tx}, closer},
		{"the first query on a Conn", Operation{Kind: Query, Stack: conn, First: true}, closer},
		{"an Exec ends where it runs", Operation{Kind: Exec, Stack: conn, First: true}, closer},
		{"a Commit, too", Operation{Kind: Commit, Stack: conn}, closer},
	} {
		op := c.op
		if op.Kind <= Prepare {
			op.Query = query
		}
		for range 2 { // found out, and remembered
			r.one(op).caller(t, c.want)
		}
	}
}

// endElsewhere ends an operation on a goroutine that has no frame of the application: reflect is passed over.
func (r *recorder) endElsewhere(op Operation) shown {
	r.t.Helper()
	op.At = ended
	for len(r.exported) > 0 {
		<-r.exported
	}
	go reflect.ValueOf(r.Ended).Call([]reflect.Value{reflect.ValueOf(r.ctx), reflect.ValueOf(&op)})
	<-r.exported
	got := r.taken()
	require.Len(r.t, got, 1)
	return got[0]
}

// database/sql ends some operations on a goroutine of its own. The code that took the connection or began the
// transaction is shown then, and never lifeguard's or database/sql's own.
func TestCallerOnAnotherGoroutine(t *testing.T) {
	r := record(t, nil)
	var begin Operation
	func() {
		begin = Operation{Kind: Begin, Took: slow, At: ended}
		r.Ended(r.ctx, &begin)
	}()
	require.NotNil(t, begin.Caller)
	r.taken()

	tx := stackOf(takeTx)
	r.endElsewhere(Operation{Kind: Rollback, Took: slow, Stack: tx, Begun: begin.Caller}).caller(t, txTaker)
	r.endElsewhere(Operation{Kind: Rollback, Took: slow, Begun: begin.Caller}).caller(t, "TestCallerOnAnotherGoroutine")
	r.endElsewhere(Operation{Kind: Query, Query: "SELECT", Took: slow, Stack: stackOf(takeConn), First: true}).caller(t, connTaker)

	started := stackOf(func(db *sql.DB) { go db.Exec("UPDATE t") })
	got := r.endElsewhere(Operation{Kind: Exec, Query: "UPDATE t", Took: slow, Stack: started, First: true}).attributes
	assert.Equal(t, "a goroutine started at database/sql", got["code.function.name"])
	assert.NotContains(t, got, "code.file.path")
	got = r.endElsewhere(Operation{Kind: Rollback, Took: slow}).attributes
	assert.Equal(t, "a goroutine started at reflect", got["code.function.name"])
	// It is not taken from the goroutine where there is better.
	r.one(Operation{Kind: Exec, Query: "UPDATE t", Took: slow, Stack: started, First: true}).caller(t, closer)
	r.endElsewhere(Operation{Kind: Rollback, Took: slow, Stack: started, Begun: begin.Caller}).caller(t, "TestCallerOnAnotherGoroutine")

	r.Leak(LeakSpan{Stack: started})
	got = r.taken()[0].attributes
	assert.Equal(t, "a goroutine started at database/sql", got["code.function.name"])
	assert.Regexp(t, `^a goroutine started at database/sql\ndatabase/sql\.`, got["code.stacktrace"])
	assert.NotContains(t, got["code.stacktrace"], "lifeguard")
}

// Packages can be named that are not to be shown. Here a template runs the query.
func TestSkippedCallers(t *testing.T) {
	run := template.Must(template.New("").Parse("{{call .Here .Kind .Query}}"))
	for _, c := range []struct {
		skip []string
		want string
	}{
		{nil, "text/template."},
		{[]string{"example.com", "text/template"}, "github.com/go-lifeguard/lifeguard/internal/observe.TestSkippedCallers"},
	} {
		r := record(t, func(cfg *Config) { cfg.Skip = c.skip })
		require.NoError(t, run.Execute(io.Discard, map[string]any{"Here": r.Here, "Kind": Query, "Query": "SELECT"}))
		known := r.shapeOf(Query, "SELECT").callers.Load()
		require.NotNil(t, known)
		require.Len(t, known.byHash, 1)
		for _, caller := range known.byHash {
			assert.Contains(t, caller.frame.Function, c.want)
		}
	}
}

// The same query from many places, at different depths, is always shown with the place that ran it: what is remembered
// of one is not said of another.
func TestCallersOfOneQuery(t *testing.T) {
	r := record(t, func(c *Config) { c.Trace = TraceAll })
	op := Operation{Kind: Exec, Query: "UPDATE t"}
	line := func() int {
		_, _, line, _ := runtime.Caller(1)
		return line
	}
	places := []func() (int, shown){
		func() (int, shown) { o := op; r.Ended(r.ctx, &o); return line(), r.taken()[0] },
		func() (int, shown) { o := op; r.Ended(r.ctx, &o); return line(), r.taken()[0] },
		func() (int, shown) {
			o := op
			noted, at := r.Here(Exec, op.Query), line()
			o.Caller = noted
			r.Ended(r.ctx, &o)
			return at, r.taken()[0]
		},
	}
	// Calls through reflection, which is passed over, make up more stacks than are remembered.
	call := reflect.ValueOf(r.Ended)
	args := func() []reflect.Value { o := op; return []reflect.Value{reflect.ValueOf(r.ctx), reflect.ValueOf(&o)} }
	for depth := range 6 {
		through := func() (reflect.Value, []reflect.Value) {
			f, a := call, args()
			for range depth {
				f, a = reflect.ValueOf(f.Call), []reflect.Value{reflect.ValueOf(a)}
			}
			return f, a
		}
		places = append(places,
			func() (int, shown) { f, a := through(); f.Call(a); return line(), r.taken()[0] },
			func() (int, shown) { f, a := through(); f.Call(a); return line(), r.taken()[0] },
		)
	}
	var below func(int, func() (int, shown)) (int, shown)
	below = func(depth int, run func() (int, shown)) (int, shown) {
		if depth == 0 {
			return run()
		}
		return below(depth-1, run)
	}
	for round := range 300 {
		want, got := below(round%100, places[round%len(places)])
		require.EqualValues(t, want, got.attributes["code.line.number"], "round %d", round)
		got.caller(t, "TestCallersOfOneQuery")
	}
}

// chains makes stacks that differ in frames that are passed over, and end in the application's.
func chains(n int) (stacks [][]uintptr, line int) {
	var s callsite.Stack
	s.Capture(0)
	application := s.PCs()[0]
	frame, _ := runtime.CallersFrames(s.PCs()[:1]).Next()
	passed := stackOf(func(db *sql.DB) { go db.Exec("") })
	for i := range n {
		var stack []uintptr
		for ; i > 0; i /= len(passed) {
			stack = append(stack, passed[i%len(passed)])
		}
		stacks = append(stacks, append(stack, application))
	}
	return stacks, frame.Line
}

// However many callers a query has, it remembers a bounded number of them, and shows each.
func TestCallersAreBounded(t *testing.T) {
	r := record(t, nil)
	stacks, line := chains(3 * maxCallers)
	for round := range 2 {
		for i, stack := range stacks {
			got := r.one(Operation{Kind: Query, Query: "SELECT a FROM t", Took: slow, First: true, Stack: stack})
			require.EqualValues(t, line, got.attributes["code.line.number"], "%d in round %d", i, round)
			got.caller(t, "chains")
		}
	}
	known := r.shapeOf(Query, "SELECT a FROM t").callers.Load()
	assert.Len(t, known.byHash, maxCallers)
}

// A stack that was cut before the application's code is not remembered: the rest may be another's.
func TestCutStacksAreNotRemembered(t *testing.T) {
	r := record(t, nil)
	var pcs [callsite.Depth]uintptr
	f, args := reflect.ValueOf(runtime.Callers), []reflect.Value{reflect.ValueOf(0), reflect.ValueOf(pcs[:])}
	for range callsite.Depth {
		f, args = reflect.ValueOf(f.Call), []reflect.Value{reflect.ValueOf(args)}
	}
	f.Call(args)
	got := r.endElsewhere(Operation{Kind: Ping, Took: slow, Stack: pcs[:]})
	assert.Equal(t, fmt.Sprintf("code more than %d calls away", callsite.Depth), got.attributes["code.function.name"])
	assert.Nil(t, r.others[Ping].callers.Load())
}

// Callers are found and remembered while others do the same.
func TestCallersConcurrently(t *testing.T) {
	r := record(t, nil)
	stacks, line := chains(2 * maxCallers)
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range stacks {
				query := fmt.Sprintf("SELECT a FROM t%d", i%3)
				c := r.callerOf(r.shapeOf(Query, query), stacks[(i*(2*g+1))%len(stacks)])
				if c.frame.Line != line {
					t.Errorf("%v", c.frame)
					return
				}
			}
		})
	}
	wg.Wait()
}

// A stack with the hash of another is not mistaken for it.
func TestHashesMayCollide(t *testing.T) {
	s := &shape{}
	s.remember(&Caller{stack: []uintptr{1, 2}})
	known := s.callers.Load()
	require.NotNil(t, known.find([]uintptr{1, 2, 3}))
	for _, c := range known.byHash {
		c.stack = []uintptr{4, 5}
	}
	assert.Nil(t, known.find([]uintptr{1, 2, 3}))
}

// A query that Here has read is not read again at its end, and another query is not taken for it.
func TestShapeOfNotedCaller(t *testing.T) {
	r := record(t, nil)
	query := "SELECT '" + string(make([]byte, maxRemembered)) + "'"
	noted := r.Here(Query, query)
	assert.Same(t, noted.shape, r.shapeOfOperation(&Operation{Kind: Query, Query: query, Caller: noted}))
	for _, op := range []Operation{
		{Kind: Prepare, Query: query, Caller: noted}, {Kind: Query, Query: "SELECT 1", Caller: noted}, {Kind: Ping, Caller: noted},
	} {
		assert.NotSame(t, noted.shape, r.shapeOfOperation(&op))
	}
}
