package callsite

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// inner is small enough to be inlined, so that its frame shares the code of its caller's.
func inner(s *Stack) { s.Capture(0) }

func outer(s *Stack) { inner(s) }

type holder[T any] []T

func (h *holder[T]) capture(s *Stack) { s.Capture(0) }

// function returns the name of a function without the folder of its package.
func function(f runtime.Frame) string {
	return f.Function[strings.LastIndexByte(f.Function, '/')+1:]
}

func application(t *testing.T, s *Stack) runtime.Frame {
	t.Helper()
	f, ok := Application(s.PCs(), nil)
	require.True(t, ok)
	return f
}

func TestCapture(t *testing.T) {
	var s Stack
	assert.Empty(t, s.PCs())
	outer(&s)
	f := application(t, &s)
	assert.Equal(t, "callsite.inner", function(f))
	assert.True(t, strings.HasSuffix(f.File, "stack_test.go"))
	assert.NotZero(t, f.Line)

	stack := Frames(s.PCs(), nil)
	require.GreaterOrEqual(t, len(stack), 3)
	assert.Equal(t, "callsite.inner", function(stack[0]))
	assert.Equal(t, "callsite.outer", function(stack[1]))
	assert.Equal(t, "callsite.TestCapture", function(stack[2]))

	s.Capture(0)
	assert.Equal(t, "callsite.TestCapture", function(application(t, &s)))

	func() { s.Capture(1) }()
	assert.Equal(t, "callsite.TestCapture", function(application(t, &s)))

	(&holder[string]{}).capture(&s)
	assert.Equal(t, "callsite.(*holder[...]).capture", function(application(t, &s)))

	s.Clear()
	assert.Empty(t, s.PCs())
}

func TestCaptureAllocatesNothing(t *testing.T) {
	s, run := new(Stack), func(s *Stack) { s.Capture(0) }
	const runs = 1000
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range runs {
		run(s)
	}
	runtime.ReadMemStats(&after)
	assert.Less(t, float64(after.Mallocs-before.Mallocs)/runs, 0.1)
}

// The frames of libraries between the capture and the application are passed over.
func TestApplicationBehindLibraries(t *testing.T) {
	var pcs [Depth]uintptr
	// reflect and sync call the standard library's own function value, so that no frame of this file comes before theirs.
	runtimeCallers := reflect.ValueOf(runtime.Callers)
	args := []reflect.Value{reflect.ValueOf(0), reflect.ValueOf(pcs[:])}
	n := int(runtimeCallers.Call(args)[0].Int())
	first, _ := runtime.CallersFrames(pcs[:n]).Next()
	require.Equal(t, "runtime.Callers", first.Function)
	f, reach, ok := Innermost(pcs[:n], nil)
	require.True(t, ok)
	assert.Equal(t, "callsite.TestApplicationBehindLibraries", function(f))
	assert.Equal(t, function(f), function(Frames(pcs[:n], nil)[0]))

	// What it takes to tell is enough, and nothing less is.
	assert.Less(t, reach, n, "the runtime is behind the test")
	again, ok := Application(pcs[:reach], nil)
	assert.True(t, ok)
	assert.Equal(t, f, again)
	_, all, ok := Innermost(pcs[:reach-1], nil)
	assert.False(t, ok)
	assert.Equal(t, reach-1, all)

	var (
		once sync.Once
		s    Stack
	)
	once.Do(func() { s.Capture(1) })
	first, _ = runtime.CallersFrames(s.PCs()).Next()
	require.Contains(t, first.Function, "sync.(*Once)")
	assert.Equal(t, "callsite.TestApplicationBehindLibraries", function(application(t, &s)))
}

// connector captures the stack of each connection that is asked for. Nothing can be done with the connections.
type connector struct{ stacks chan []uintptr }

func (c connector) Connect(context.Context) (driver.Conn, error) {
	var s Stack
	s.Capture(1) // tests are applications, and so would this method be
	c.stacks <- s.PCs()
	return conn{}, nil
}

func (connector) Driver() driver.Driver { return nil }

type conn struct{}

var errUseless = errors.New("useless connection")

func (conn) Prepare(string) (driver.Stmt, error) { return nil, errUseless }
func (conn) Begin() (driver.Tx, error)           { return nil, errUseless }
func (conn) Close() error                        { return nil }

// A goroutine that was started with a method of the handle has no frame of the application.
func TestGoroutineStartedAtHandle(t *testing.T) {
	c := connector{stacks: make(chan []uintptr, 1)}
	db := sql.OpenDB(c)
	defer db.Close()
	go db.Exec("UPDATE t")
	pcs := <-c.stacks
	f, ok := Application(pcs, nil)
	assert.False(t, ok)
	assert.Equal(t, runtime.Frame{Function: "a goroutine started at database/sql"}, f)
	assert.Equal(t, "a goroutine started at database/sql", Place(f))
	stack := Frames(pcs, nil)
	require.Greater(t, len(stack), 2)
	assert.Equal(t, f, stack[0])
	for _, f := range stack {
		assert.False(t, isLifeguard(packagePath(f.Function)), f.Function)
	}
	assert.Contains(t, Text(stack), "a goroutine started at database/sql\ndatabase/sql.")
	assert.Contains(t, Text(stack), "database/sql.(*DB).Exec\n\t")
}

func TestOwned(t *testing.T) {
	c := connector{stacks: make(chan []uintptr, 1)}
	ctx := context.Background()
	for _, op := range []struct {
		name    string
		ofQuery bool
		method  string // of a sql.DB that returns it; "" for none
		run     func(db *sql.DB)
	}{
		{"Query", true, "QueryContext", func(db *sql.DB) { _, _ = db.Query("SELECT") }},
		{"QueryContext", true, "QueryContext", func(db *sql.DB) { _, _ = db.QueryContext(ctx, "SELECT") }},
		{"QueryRow", true, "QueryContext", func(db *sql.DB) { _ = db.QueryRow("SELECT").Err() }},
		{"QueryRowContext", true, "QueryContext", func(db *sql.DB) { _ = db.QueryRowContext(ctx, "SELECT").Err() }},
		{"a goroutine of its own", true, "QueryContext", func(db *sql.DB) { go db.Query("SELECT") }},
		{"Exec", false, "ExecContext", func(db *sql.DB) { _, _ = db.Exec("SELECT") }},
		{"Conn", false, "", func(db *sql.DB) {
			if c, err := db.Conn(ctx); err == nil {
				_ = c.Close()
			}
		}},
		{"Prepare", false, "", func(db *sql.DB) { _, _ = db.Prepare("SELECT") }},
		{"Begin", false, "BeginTx", func(db *sql.DB) { _, _ = db.Begin() }},
		{"Ping", false, "PingContext", func(db *sql.DB) { _ = db.Ping() }},
	} {
		db := sql.OpenDB(c)
		db.SetMaxIdleConns(-1) // each operation asks for a connection
		op.run(db)
		pcs := <-c.stacks
		assert.Equal(t, op.ofQuery, OwnedByDBQuery(pcs), op.name)
		for _, method := range []string{"ExecContext", "QueryContext", "BeginTx", "PingContext"} {
			assert.Equal(t, op.method == method, OwnedByDB(pcs, method), "%s: %s", op.name, method)
		}
		_ = db.Close()
	}
	for _, none := range [][]uintptr{nil, {1}} {
		assert.False(t, OwnedByDBQuery(none))
		assert.False(t, OwnedByDB(none, "ExecContext", "QueryContext", "BeginTx", "PingContext"))
	}
}

// keeper is a driver that takes the connection of its one caller from another handle, and keeps it.
type keeper struct{ inner *sql.DB }

func (k keeper) Connect(ctx context.Context) (driver.Conn, error) {
	c, err := k.inner.Conn(ctx)
	if err == nil {
		_ = c.Close()
	}
	return nil, errUseless
}

func (keeper) Driver() driver.Driver { return nil }

// The innermost handle counts: further out stands a query of another.
func TestOwnedByInnermost(t *testing.T) {
	c := connector{stacks: make(chan []uintptr, 1)}
	inner := sql.OpenDB(c)
	defer inner.Close()
	outer := sql.OpenDB(keeper{inner})
	defer outer.Close()
	_, _ = outer.Exec("SELECT")
	pcs := <-c.stacks
	assert.True(t, Through(pcs, "database/sql.(*DB).ExecContext"))
	assert.False(t, OwnedByDB(pcs, "ExecContext", "QueryContext", "BeginTx", "PingContext"))
}

// deep calls f below depth frames of reflect, which is passed over.
func deep(depth int, f reflect.Value, args []reflect.Value) {
	for range depth {
		f, args = reflect.ValueOf(f.Call), []reflect.Value{reflect.ValueOf(args)}
	}
	f.Call(args)
}

func TestApplicationWithoutOne(t *testing.T) {
	f, ok := Application(nil, nil)
	assert.False(t, ok)
	assert.Zero(t, f)
	assert.Nil(t, Frames(nil, nil))

	// The outermost entry of a goroutine, without the test's.
	var s Stack
	s.Capture(0)
	goexit := s.PCs()[len(s.PCs())-1:]
	f, ok = Application(goexit, nil)
	assert.False(t, ok)
	assert.Equal(t, "unknown", f.Function)
	stack := Frames(goexit, nil)
	require.Len(t, stack, 2)
	assert.Equal(t, "runtime.goexit", stack[1].Function)

	var pcs [Depth]uintptr
	deep(Depth, reflect.ValueOf(runtime.Callers), []reflect.Value{reflect.ValueOf(0), reflect.ValueOf(pcs[:])})
	f, ok = Application(pcs[:], nil)
	assert.False(t, ok)
	assert.Equal(t, fmt.Sprintf("code more than %d calls away", Depth), f.Function)

	// Packages that are skipped by name are where it was started, too.
	done := make(chan struct{})
	go func() { defer close(done); (&sync.Once{}).Do(func() { s.Capture(1) }) }()
	<-done
	f, ok = Application(s.PCs(), []string{module})
	assert.True(t, ok, "tests are applications")
	assert.Equal(t, "callsite.TestApplicationWithoutOne.func1", function(f))
}

func TestPlace(t *testing.T) {
	f := runtime.Frame{Function: "example.com/shop/export.(*Job).All", File: "/src/shop/export/export.go", Line: 88}
	assert.Equal(t, "export.(*Job).All (export.go:88)", Place(f))
	assert.Equal(t, "main.main (main.go:3)", Place(runtime.Frame{Function: "main.main", File: "main.go", Line: 3}))
	for function, want := range map[string]string{
		"github.com/pressly/goose/v3.(*Provider).Up": "goose/v3.(*Provider).Up (a.go:1)",
		"example.com/v2.Run":                         "example.com/v2.Run (a.go:1)",
		"example.com/app/v.Run":                      "v.Run (a.go:1)",
		"example.com/app/v1beta.Run":                 "v1beta.Run (a.go:1)",
		"v2.Run":                                     "v2.Run (a.go:1)",
	} {
		assert.Equal(t, want, Place(runtime.Frame{Function: function, File: "/src/a.go", Line: 1}))
	}
	assert.Equal(t, "example.com/shop/export.(*Job).All\n\t/src/shop/export/export.go:88\n", Text([]runtime.Frame{f}))
}

func BenchmarkCapture(b *testing.B) {
	var s Stack
	b.ReportAllocs()
	for b.Loop() {
		s.Capture(0)
	}
}

func BenchmarkApplication(b *testing.B) {
	var s Stack
	s.Capture(0)
	b.ReportAllocs()
	for b.Loop() {
		Application(s.PCs(), nil)
	}
}
