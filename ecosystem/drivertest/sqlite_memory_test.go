package drivertest

import (
	"database/sql"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	_ "github.com/mattn/go-sqlite3" // the driver sqlite3
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/go-lifeguard/lifeguard"
)

// TestSQLiteMemorySurvives lets ten idle minutes pass. A database in memory ends with its last connection, and what
// PRAGMA set with its connection.
func TestSQLiteMemorySurvives(t *testing.T) {
	for _, driverName := range []string{"sqlite", "sqlite3"} {
		for _, dsn := range []string{":memory:", "file:ten_" + driverName + "?mode=memory&cache=shared"} {
			for _, limit := range []int{1, 3} {
				if dsn == ":memory:" && limit > 1 {
					continue // each connection has a database of its own, on the plain driver, too
				}
				t.Run(driverName+" "+dsn+" "+strconv.Itoa(limit), func(t *testing.T) {
					needsCgo(t, driverName)
					synctest.Test(t, func(t *testing.T) { memorySurvives(t, driverName, dsn, limit) })
				})
			}
		}
	}
}

// needsCgo skips a driver that this test was built without: mattn/go-sqlite3 is C.
func needsCgo(t *testing.T, driverName string) {
	t.Helper()
	db, err := sql.Open(driverName, ":memory:")
	require.NoError(t, err)
	defer db.Close()
	if err := db.Ping(); err != nil && strings.Contains(err.Error(), "CGO_ENABLED") {
		t.Skipf("mattn/go-sqlite3 needs cgo and a C compiler: %v", err)
	}
}

func memorySurvives(t *testing.T, driverName, dsn string, limit int) {
	db, err := lifeguard.Open(driverName, withLimit(dsn, limit), quiet)
	require.NoError(t, err)
	defer func() { assert.NoError(t, db.Close()) }()
	conns := make([]*sql.Conn, limit)
	for i := range conns {
		conns[i], err = db.Conn(t.Context())
		require.NoError(t, err)
		_, err = conns[i].ExecContext(t.Context(), "PRAGMA foreign_keys=ON")
		require.NoError(t, err)
	}
	_, err = conns[0].ExecContext(t.Context(), "CREATE TABLE mine (id INTEGER); INSERT INTO mine VALUES (7)")
	require.NoError(t, err)
	for _, c := range conns {
		require.NoError(t, c.Close())
	}

	time.Sleep(10 * time.Minute)

	for i := range conns {
		conns[i], err = db.Conn(t.Context())
		require.NoError(t, err)
		var id, keys int
		const query = "SELECT id, (SELECT foreign_keys FROM pragma_foreign_keys) FROM mine"
		require.NoError(t, conns[i].QueryRowContext(t.Context(), query).Scan(&id, &keys))
		assert.Equal(t, []int{7, 1}, []int{id, keys})
	}
	for _, c := range conns {
		require.NoError(t, c.Close())
	}
	pool, ok := lifeguard.PoolOf(db)
	require.True(t, ok)
	assert.EqualValues(t, limit, pool.Stats().Opened)
}
