package handle_test

import (
	"testing"

	"github.com/lib/pq"
	"github.com/ngrok/sqlmw"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/go-lifeguard/lifeguard"
	"github.com/go-lifeguard/lifeguard/internal/pgtest"
	"github.com/go-lifeguard/lifeguard/internal/pooltest"
)

// Interceptors stand before the statement cache: they see what the application runs, and it runs on kept statements.
func TestInterceptorsAndStatementCache(t *testing.T) {
	dsn := pgtest.DSN(t)
	read := 0
	db, err := lifeguard.Open("postgres", pooltest.AddParams(t, dsn, "connection_limit=1"), pooltest.Quiet,
		lifeguard.WithInterceptors(counts{read: &read}, sqlmw.NullInterceptor{}))
	require.NoError(t, err)
	c := pooltest.WatchClosing(t, db, "interceptors", dsn)
	pool := pooltest.PoolOf(t, db)

	kept := func() (n int) {
		require.NoError(t, c.QueryRow("SELECT count(*) FROM pg_prepared_statements").Scan(&n))
		return n
	}
	for i := range 3 {
		var n int
		require.NoError(t, c.QueryRow("SELECT $1::int + 1", i).Scan(&n))
		require.Equal(t, i+1, n)
	}
	assert.Equal(t, 1, kept())
	assert.EqualValues(t, 2, pool.Stats().StatementHits)
	assert.Equal(t, 4, read, "the last by kept")

	st, err := c.Prepare("SELECT $1::text || 'x'")
	require.NoError(t, err)
	var s string
	for range 3 {
		require.NoError(t, st.QueryRow("a").Scan(&s))
		require.Equal(t, "ax", s)
	}
	assert.Equal(t, 2, kept())
	// Statements that the server has forgotten are prepared again, behind the interceptors; the program's own is not.
	_, err = c.Exec("DEALLOCATE ALL")
	require.NoError(t, err)
	require.ErrorContains(t, st.QueryRow("b").Scan(&s), "26000")
	require.NoError(t, st.Close())
	require.NoError(t, c.QueryRow("SELECT $1::text || 'x'", "b").Scan(&s))
	require.Equal(t, "bx", s)
	rows, err := c.Query("SELECT $1::int + generate_series(1, 3)", 1)
	require.NoError(t, err)
	require.True(t, rows.Next())
	require.NoError(t, rows.Close())

	var pqErr *pq.Error
	_, err = c.Exec("SELECT 1 / $1::int", 0)
	require.ErrorAs(t, err, &pqErr)
	assert.EqualValues(t, "22012", pqErr.Code)
}
