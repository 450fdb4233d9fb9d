package callsite

import (
	"reflect"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestPackagePath(t *testing.T) {
	for function, want := range map[string]string{
		"main.main":                                     "main",
		"main.main.func1":                               "main",
		"runtime.goexit":                                "runtime",
		"database/sql.(*DB).QueryContext":               "database/sql",
		"database/sql.(*DB).retry":                      "database/sql",
		"example.com/a/b.F":                             "example.com/a/b",
		"example.com/a/b.F[...]":                        "example.com/a/b",
		"example.com/a/b.(*T[...]).M":                   "example.com/a/b",
		"example.com/a/b.F[example.com/c/d.T]":          "example.com/a/b",
		"example.com/a/b.T.M-fm":                        "example.com/a/b",
		"example.com/a/b.init.0":                        "example.com/a/b",
		"example.com/a/b.glob..func1":                   "example.com/a/b",
		"example.com/a/b.(*T).M.func1.gowrap2":          "example.com/a/b",
		"example.com/a/b/v2.F":                          "example.com/a/b/v2",
		"example.com/a/b_test.TestF":                    "example.com/a/b_test",
		"gopkg.in/gorp%2ev1.(*DbMap).Select":            "gopkg.in/gorp.v1",
		"example.com/a/vendor/github.com/x/y.(*T).M":    "github.com/x/y",
		"vendor/golang.org/x/net/http.F":                "golang.org/x/net/http",
		"example.com/vendors/y.F":                       "example.com/vendors/y",
		"example.com/100%25/y.F":                        "example.com/100%/y",
		"example.com/a.(*T).(example.com/c/d.I).M":      "example.com/a",
		"github.com/go-lifeguard/lifeguard.(*Pool).get": "github.com/go-lifeguard/lifeguard",
	} {
		assert.Equal(t, want, packagePath(function), function)
	}
}

func TestIsApplication(t *testing.T) {
	own := []string{"example.com/app/ent/", "example.com/db", ""}
	for _, tt := range []struct {
		function, file string
		want           bool
	}{
		{"main.main", "main.go", true},
		{"main.(*server).list", "main.go", true},
		{"example.com/app/store.(*Store[...]).Find", "store.go", true},
		{"testing.tRunner", "testing.go", true},
		{"net/http.HandlerFunc.ServeHTTP", "server.go", true},

		{"", "", false},
		{"database/sql.(*DB).QueryContext", "sql.go", false},
		{"database/sql/driver.IsValue", "types.go", false},
		{"database/sqlite.Open", "open.go", true},
		{"runtime.goexit", "asm_amd64.s", false},
		{"runtime/debug.Stack", "stack.go", false},
		{"runtimes.Run", "run.go", true},
		{"reflect.Value.call", "value.go", false},
		{"sync.(*Once).doSlow", "once.go", false},

		{"github.com/jmoiron/sqlx.(*DB).Select", "sqlx.go", false},
		{"github.com/jmoiron/sqlx/reflectx.Deref", "reflect.go", false},
		{"github.com/jmoiron/sqlxtra.F", "f.go", true},
		{"github.com/jmoiron/modl.F", "f.go", true},
		{"example.com/app/vendor/github.com/jmoiron/sqlx.Get", "sqlx.go", false},
		{"gorm.io/gorm.(*DB).Find", "finisher_api.go", false},
		{"gorm.io/gorm.G[...]", "generics.go", false},
		{"gorm.io/driver/postgres.Dialector.Initialize", "postgres.go", false},
		{"gorm.iox/gorm.F", "f.go", true},
		{"github.com/uptrace/bun.(*SelectQuery).Scan", "query_select.go", false},
		{"github.com/uptrace/bunrouter.F", "f.go", true},
		{"xorm.io/xorm.(*Session).Find", "session_find.go", false},
		{"entgo.io/ent/dialect/sql.Conn.Query", "driver.go", false},
		{"github.com/go-gorp/gorp/v3.(*DbMap).Select", "db.go", false},
		{"gopkg.in/gorp%2ev2.(*DbMap).Select", "db.go", false},
		{"gopkg.in/gorpx%2ev2.F", "f.go", true},
		{"github.com/Masterminds/squirrel.QueryContextWith", "squirrel_ctx.go", false},
		{"github.com/volatiletech/sqlboiler/v4/queries.(*Query).Bind", "reflect.go", false},
		{"github.com/aarondl/sqlboiler/v4/queries.(*Query).Bind", "reflect.go", false},
		{"github.com/georgysavva/scany/v2/sqlscan.Select", "sqlscan.go", false},
		{"github.com/ngrok/sqlmw.wrappedConn.QueryContext", "conn.go", false},

		{"github.com/go-lifeguard/lifeguard.(*Pool).acquire", "pool.go", false},
		{"github.com/go-lifeguard/lifeguard/internal/sqltext.Sanitize", "sanitize.go", false},
		{"github.com/go-lifeguard/lifeguard.TestPool.func1", "/src/lifeguard/pool_test.go", true},
		{"github.com/go-lifeguard/lifeguard_test.ExampleOpen", "example_test.go", true},
		{"github.com/go-lifeguard/lifeguard_test.open", "open.go", true},
		{"github.com/go-lifeguard/lifeguard/examples/customers.(*Store).List", "store.go", true},
		{"github.com/go-lifeguard/lifeguard/examples/internal/web.Serve", "web.go", true},
		{"github.com/go-lifeguard/lifeguard/benchmarks.Run", "run.go", true},
		{"github.com/go-lifeguard/lifeguards.F", "f.go", true},

		{"example.com/app/ent.(*UserQuery).All", "user_query.go", false},
		{"example.com/app/ent/user.ByName", "where.go", false},
		{"example.com/app/entry.F", "f.go", true},
		{"example.com/app.F", "f.go", true},
		{"example.com/db/v3.F", "f.go", false},
	} {
		assert.Equal(t, tt.want, isApplication(tt.function, tt.file, own), tt.function)
	}
}

// inner is small enough to be inlined, so that its frame shares a program
// counter with its caller's.
func inner(pcs []uintptr) int { return Capture(0, pcs) }

func outer(pcs []uintptr) int { return inner(pcs) }

type holder[T any] []T

func (h *holder[T]) capture(pcs []uintptr) int { return Capture(0, pcs) }

func function(f runtime.Frame) string {
	return f.Function[strings.LastIndexByte(f.Function, '/')+1:]
}

func TestCapture(t *testing.T) {
	var pcs [32]uintptr
	n := outer(pcs[:])
	f, _, ok := Application(pcs[:n], nil)
	require.True(t, ok)
	assert.Equal(t, "callsite.inner", function(f))
	assert.True(t, strings.HasSuffix(f.File, "caller_test.go"))
	assert.NotZero(t, f.Line)

	stack := Stack(pcs[:n], nil)
	require.GreaterOrEqual(t, len(stack), 3)
	assert.Equal(t, "callsite.inner", function(stack[0]))
	assert.Equal(t, "callsite.outer", function(stack[1]))
	assert.Equal(t, "callsite.TestCapture", function(stack[2]))

	n = Capture(0, pcs[:])
	f, _, ok = Application(pcs[:n], nil)
	require.True(t, ok)
	assert.Equal(t, "callsite.TestCapture", function(f))

	n = func() int { return Capture(1, pcs[:]) }()
	f, _, ok = Application(pcs[:n], nil)
	require.True(t, ok)
	assert.Equal(t, "callsite.TestCapture", function(f))

	n = (&holder[string]{}).capture(pcs[:])
	f, _, ok = Application(pcs[:n], nil)
	require.True(t, ok)
	assert.Equal(t, "callsite.(*holder[...]).capture", function(f))
}

// The frames of libraries between the capture and the application are passed
// over.
func TestApplicationBehindLibraries(t *testing.T) {
	var (
		pcs [32]uintptr
		n   int
	)
	// reflect and sync call the standard library's own function value, so that
	// no frame of this file comes before theirs.
	runtimeCallers := reflect.ValueOf(runtime.Callers)
	args := []reflect.Value{reflect.ValueOf(0), reflect.ValueOf(pcs[:])}
	n = int(runtimeCallers.Call(args)[0].Int())
	first, _ := runtime.CallersFrames(pcs[:n]).Next()
	require.Equal(t, "runtime.Callers", first.Function)
	f, _, ok := Application(pcs[:n], nil)
	require.True(t, ok)
	assert.Equal(t, "callsite.TestApplicationBehindLibraries", function(f))
	assert.Equal(t, function(f), function(Stack(pcs[:n], nil)[0]))

	// What it takes to tell is enough, and nothing less is.
	_, upTo, _ := Application(pcs[:n], nil)
	assert.Less(t, upTo, n, "the runtime is behind the test")
	again, _, ok := Application(pcs[:upTo], nil)
	assert.True(t, ok)
	assert.Equal(t, f, again)
	_, all, ok := Application(pcs[:upTo-1], nil)
	assert.False(t, ok)
	assert.Equal(t, upTo-1, all)

	var once sync.Once
	once.Do(func() { n = Capture(1, pcs[:]) })
	first, _ = runtime.CallersFrames(pcs[:n]).Next()
	require.Contains(t, first.Function, "sync.(*Once)")
	f, _, ok = Application(pcs[:n], nil)
	require.True(t, ok)
	assert.Equal(t, "callsite.TestApplicationBehindLibraries", function(f))
}

func TestApplicationWithoutOne(t *testing.T) {
	_, _, ok := Application(nil, nil)
	assert.False(t, ok)
	assert.Nil(t, Stack(nil, nil))

	// The outermost frames of a goroutine, without those of the test.
	pcs := make([]uintptr, 32)
	pcs = pcs[:Capture(0, pcs)]
	goexit := pcs[len(pcs)-1:]
	_, _, ok = Application(goexit, nil)
	assert.False(t, ok)
	stack := Stack(goexit, nil)
	require.Len(t, stack, 1)
	assert.Equal(t, "runtime.goexit", stack[0].Function)
}

func BenchmarkCapture(b *testing.B) {
	var pcs [16]uintptr
	b.ReportAllocs()
	for b.Loop() {
		Capture(0, pcs[:])
	}
}

func BenchmarkApplication(b *testing.B) {
	var pcs [16]uintptr
	n := Capture(0, pcs[:])
	b.ReportAllocs()
	for b.Loop() {
		Application(pcs[:n], nil)
	}
}
