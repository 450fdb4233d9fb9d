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

	"github.com/jmoiron/sqlx"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
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

func TestLeaksThroughLibraries(t *testing.T) {
	dsn := pgtest.DSN(t)
	for function, hold := range holds {
		t.Run(function, func(t *testing.T) {
			var mu sync.Mutex
			var leaks []lifeguard.Leak // guarded by mu
			db, err := lifeguard.Open("lifeguard", dsn+"&leak_threshold=50ms",
				lifeguard.WithLogger(slog.New(slog.DiscardHandler)),
				lifeguard.WithLeakHandler(func(l lifeguard.Leak) {
					mu.Lock()
					defer mu.Unlock()
					leaks = append(leaks, l)
				}))
			require.NoError(t, err)
			defer db.Close()
			_, err = db.ExecContext(context.Background(), "CREATE TABLE IF NOT EXISTS customers (id int PRIMARY KEY, name text)")
			require.NoError(t, err)
			giveBack := hold(t, db)
			defer func() { assert.NoError(t, giveBack()) }()
			var first lifeguard.Leak
			require.Eventually(t, func() bool {
				mu.Lock()
				defer mu.Unlock()
				if len(leaks) > 0 {
					first = leaks[0]
				}
				return len(leaks) > 0
			}, 10*time.Second, 5*time.Millisecond)
			require.NotEmpty(t, first.Stack)
			assert.True(t, strings.HasSuffix(first.Stack[0].Function, "callertest."+function),
				"the first frame is %s", first.Stack[0].Function)
			assert.Contains(t, first.LastQuery, "customers")
		})
	}
}
