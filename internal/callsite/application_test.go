package callsite

import (
	"testing"

	"github.com/stretchr/testify/assert"
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
		{"go.nhat.io/otelsql.otDriver.Connect", "driver.go", false},
		{"github.com/uptrace/opentelemetry-go-extra/otelsql.(*connector).Connect.func1", "driver.go", false},
		{"gopkg.in/DataDog/dd-trace-go.v1/contrib/database/sql.(*tracedConnector).Connect", "sql.go", false},
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
