package callertest

import (
	"context"
	"database/sql"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"entgo.io/ent/dialect"
	entsql "entgo.io/ent/dialect/sql"
	"github.com/Masterminds/squirrel"
	xsam "github.com/XSAM/otelsql"
	"github.com/jmoiron/sqlx"
	"github.com/lib/pq"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect/pgdialect"
	uptrace "github.com/uptrace/opentelemetry-go-extra/otelsql"
	nhat "go.nhat.io/otelsql"
	"gorm.io/driver/postgres"
	"gorm.io/gorm"
	"gorm.io/gorm/logger"

	"github.com/go-lifeguard/lifeguard"
	"github.com/go-lifeguard/lifeguard/internal/pgtest"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Run(m)) }

type customer struct {
	ID   int
	Name string
}

// holds keep a connection through a library, each in a function whose name must be in the report, until giveBack.
var holds = map[string]func(t *testing.T, db *sql.DB) (giveBack func() error){
	"heldBySqlxQuery":       heldBySqlxQuery,
	"heldBySqlxTransaction": heldBySqlxTransaction,
	"heldBySqlxNamedStmt":   heldBySqlxNamedStmt,
	"heldByGormRows":        heldByGormRows,
	"heldByGormTransaction": heldByGormTransaction,
	"heldByBunRows":         heldByBunRows,
	"heldByBunTransaction":  heldByBunTransaction,
	"heldByEntRows":         heldByEntRows,
	"heldByEntTransaction":  heldByEntTransaction,
	"heldBySquirrelRows":    heldBySquirrelRows,
}

func heldBySqlxQuery(t *testing.T, db *sql.DB) func() error {
	rows, err := sqlx.NewDb(db, "postgres").QueryxContext(t.Context(), "SELECT id, name FROM customers WHERE id = $1", 1)
	require.NoError(t, err)
	return rows.Close
}

func heldBySqlxTransaction(t *testing.T, db *sql.DB) func() error {
	tx := sqlx.NewDb(db, "postgres").MustBeginTx(t.Context(), nil)
	_, err := tx.NamedExecContext(t.Context(), "UPDATE customers SET name = :name", customer{Name: "a"})
	require.NoError(t, err)
	return tx.Rollback
}

func heldBySqlxNamedStmt(t *testing.T, db *sql.DB) func() error {
	stmt, err := sqlx.NewDb(db, "postgres").PrepareNamedContext(t.Context(), "SELECT id, name FROM customers WHERE id = :id")
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, stmt.Close()) })
	rows, err := stmt.QueryxContext(t.Context(), customer{ID: 1})
	require.NoError(t, err)
	return rows.Close
}

func openGorm(t *testing.T, db *sql.DB) *gorm.DB {
	g, err := gorm.Open(postgres.New(postgres.Config{Conn: db}), &gorm.Config{Logger: logger.Discard})
	require.NoError(t, err)
	return g.WithContext(t.Context())
}

func heldByGormRows(t *testing.T, db *sql.DB) func() error {
	rows, err := openGorm(t, db).Model(&customer{}).Where("id = ?", 1).Rows()
	require.NoError(t, err)
	return rows.Close
}

func heldByGormTransaction(t *testing.T, db *sql.DB) func() error {
	tx := openGorm(t, db).Begin()
	require.NoError(t, tx.Error)
	require.NoError(t, tx.Model(&customer{}).Where("id = ?", 1).Update("name", "a").Error)
	return func() error { return tx.Rollback().Error }
}

func heldByBunRows(t *testing.T, db *sql.DB) func() error {
	rows, err := bun.NewDB(db, pgdialect.New()).NewSelect().Table("customers").Where("id = ?", 1).Rows(t.Context())
	require.NoError(t, err)
	return rows.Close
}

func heldByBunTransaction(t *testing.T, db *sql.DB) func() error {
	tx, err := bun.NewDB(db, pgdialect.New()).BeginTx(t.Context(), nil)
	require.NoError(t, err)
	_, err = tx.NewUpdate().Table("customers").Set("name = ?", "a").Where("id = ?", 1).Exec(t.Context())
	require.NoError(t, err)
	return tx.Rollback
}

func heldByEntRows(t *testing.T, db *sql.DB) func() error {
	var rows entsql.Rows
	query, args := entsql.Dialect(dialect.Postgres).Select("id").From(entsql.Table("customers")).Where(entsql.EQ("id", 1)).Query()
	require.NoError(t, entsql.OpenDB(dialect.Postgres, db).Query(t.Context(), query, args, &rows))
	return rows.Close
}

func heldByEntTransaction(t *testing.T, db *sql.DB) func() error {
	tx, err := entsql.OpenDB(dialect.Postgres, db).Tx(t.Context())
	require.NoError(t, err)
	query, args := entsql.Dialect(dialect.Postgres).Update("customers").Set("name", "a").Query()
	require.NoError(t, tx.Exec(t.Context(), query, args, nil))
	return tx.Rollback
}

func heldBySquirrelRows(t *testing.T, db *sql.DB) func() error {
	rows, err := squirrel.Select("id").From("customers").Where(squirrel.Eq{"id": 1}).PlaceholderFormat(squirrel.Dollar).
		RunWith(db).QueryContext(t.Context())
	require.NoError(t, err)
	return rows.Close
}

// reports collects leaks.
type reports struct {
	mu    sync.Mutex
	leaks []lifeguard.Leak // guarded by mu
}

func (r *reports) options() []lifeguard.Option {
	return []lifeguard.Option{
		lifeguard.WithLogger(slog.New(slog.DiscardHandler)),
		lifeguard.WithLeakHandler(func(l lifeguard.Leak) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.leaks = append(r.leaks, l)
		}),
	}
}

// first waits for a report.
func (r *reports) first(t *testing.T) (first lifeguard.Leak) {
	require.Eventually(t, func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		if len(r.leaks) > 0 {
			first = r.leaks[0]
		}
		return len(r.leaks) > 0
	}, 10*time.Second, 5*time.Millisecond)
	return first
}

// hold has function hold a connection, and looks for its name in the report.
func hold(t *testing.T, db *sql.DB, r *reports, function string) {
	_, err := db.ExecContext(context.Background(), "CREATE TABLE IF NOT EXISTS customers (id int PRIMARY KEY, name text)")
	require.NoError(t, err)
	giveBack := holds[function](t, db)
	defer func() { assert.NoError(t, giveBack()) }()
	leak := r.first(t)
	require.NotEmpty(t, leak.Stack)
	assert.True(t, strings.HasSuffix(leak.Stack[0].Function, "callertest."+function), "the first frame is %s", leak.Stack[0].Function)
	assert.Contains(t, leak.LastQuery, "customers")
}

func TestLeaksThroughLibraries(t *testing.T) {
	dsn := pgtest.DSN(t)
	for function := range holds {
		t.Run(function, func(t *testing.T) {
			var r reports
			db, err := lifeguard.Open("lifeguard", dsn+"&leak_threshold=50ms", r.options()...)
			require.NoError(t, err)
			defer db.Close()
			hold(t, db, &r, function)
		})
	}
}

// wrappers take the driver from a handle and put their own around it, so that their frames lie between database/sql's and
// lifeguard's.
var wrappers = map[string]func(driverName, dsn string) (*sql.DB, error){
	"XSAM": func(driverName, dsn string) (*sql.DB, error) { return xsam.Open(driverName, dsn) },
	"nhat": func(driverName, dsn string) (*sql.DB, error) {
		name, err := nhat.Register(driverName)
		if err != nil {
			return nil, err
		}
		return sql.Open(name, dsn)
	},
	"uptrace": func(driverName, dsn string) (*sql.DB, error) { return uptrace.Open(driverName, dsn) },
}

func TestLeaksUnderWrappers(t *testing.T) {
	dsn := pgtest.DSN(t)
	for name, open := range wrappers {
		t.Run(name, func(t *testing.T) {
			var r reports
			driverName := "lifeguard under " + name
			lifeguard.Register(driverName, &pq.Driver{}, r.options()...)
			db, err := open(driverName, dsn+"&leak_threshold=50ms")
			require.NoError(t, err)
			defer db.Close()
			hold(t, db, &r, "heldBySqlxQuery")
		})
	}
}
