package leak_test

import (
	"context"
	"database/sql"
	"fmt"
	"net/url"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/go-lifeguard/lifeguard"
	"github.com/go-lifeguard/lifeguard/internal/pgtest"
)

// leakyServer is a handle on PostgreSQL whose pool takes connections back, and a plain one to look at the server with.
type leakyServer struct {
	*sql.DB
	pool    *lifeguard.Pool
	reports *leakReports
	plain   *sql.DB
}

func openLeaky(t *testing.T, parameters string) *leakyServer {
	t.Helper()
	dsn := pgtest.DSN(t)
	plain, err := sql.Open("postgres", dsn)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, plain.Close()) })
	u, err := url.Parse(dsn)
	require.NoError(t, err)
	u.RawQuery += "&application_name=leaky&" + parameters
	s := &leakyServer{reports: &leakReports{}, plain: plain}
	s.DB, err = lifeguard.Open("lifeguard", u.String(), s.reports.options()...)
	require.NoError(t, err)
	s.pool, _ = lifeguard.PoolOf(s.DB)
	t.Cleanup(func() { assert.NoError(t, s.Close()) })
	_, err = s.plain.Exec("CREATE TABLE customers (id int PRIMARY KEY, name text)")
	require.NoError(t, err)
	return s
}

// backends are the server's processes for the pool.
func (s *leakyServer) backends(t *testing.T) (pids []int) {
	t.Helper()
	rows, err := s.plain.Query("SELECT pid FROM pg_stat_activity WHERE application_name = 'leaky'")
	require.NoError(t, err)
	defer rows.Close()
	for rows.Next() {
		var pid int
		require.NoError(t, rows.Scan(&pid))
		pids = append(pids, pid)
	}
	require.NoError(t, rows.Err())
	return pids
}

func TestReclaimedTransactionOnServer(t *testing.T) {
	s := openLeaky(t, "connection_limit=1&pool_timeout=30&leak_threshold=200ms&leak_reclaim_after=400ms")
	tx, err := s.BeginTx(t.Context(), nil)
	require.NoError(t, err)
	var forgotten int
	require.NoError(t, tx.QueryRow("SELECT pg_backend_pid()").Scan(&forgotten))
	_, err = tx.Exec("INSERT INTO customers VALUES ($1, $2)", 1, "never committed")
	require.NoError(t, err)
	_, err = tx.Exec("SELECT pg_advisory_lock(4711)")
	require.NoError(t, err)

	// The next waiter gets a connection without the changes and the locks of the forgotten transaction.
	var n int
	require.NoError(t, s.QueryRowContext(t.Context(), "SELECT count(*) FROM customers").Scan(&n))
	assert.Zero(t, n, "the transaction was rolled back")
	assert.Eventually(t, func() bool {
		pids := s.backends(t)
		return len(pids) == 1 && pids[0] != forgotten
	}, 10*time.Second, 10*time.Millisecond, "the server's process is gone")
	var locked bool
	require.NoError(t, s.plain.QueryRow("SELECT pg_try_advisory_lock(4711)").Scan(&locked))
	assert.True(t, locked)

	_, err = tx.Exec("INSERT INTO customers VALUES (2, 'too late')")
	assert.ErrorIs(t, err, lifeguard.ErrReclaimed)
	assert.ErrorIs(t, tx.Commit(), lifeguard.ErrReclaimed)
	require.NoError(t, s.plain.QueryRow("SELECT count(*) FROM customers").Scan(&n))
	assert.Zero(t, n)

	st := s.pool.Stats()
	assert.EqualValues(t, 1, st.Leaks)
	assert.EqualValues(t, 1, st.Reclaimed)
	assert.Zero(t, st.Timeouts)
	leaks, _ := s.reports.take()
	require.NotEmpty(t, leaks)
	assert.True(t, leaks[0].InTx)
	assert.Equal(t, "SELECT pg_advisory_lock(?)", leaks[0].LastQuery)
	assert.Equal(t, 4, leaks[0].Operations)
	assert.Contains(t, leaks[0].Stack[0].Function, "TestReclaimedTransactionOnServer")
}

func TestReclaimSparesWorkOnServer(t *testing.T) {
	s := openLeaky(t, "connection_limit=2&leak_threshold=100ms&leak_reclaim_after=200ms")
	// A query that runs for several times leak_reclaim_after.
	_, err := s.ExecContext(t.Context(), "SELECT pg_sleep(0.8)")
	assert.NoError(t, err)
	// Rows of which each takes the server a while to come up with, more than the driver reads ahead.
	rows, err := s.QueryContext(t.Context(), "SELECT n, repeat('x', 10000), pg_sleep(0.05) FROM generate_series(1, 20) AS n")
	require.NoError(t, err)
	n := 0
	for rows.Next() {
		n++
	}
	assert.NoError(t, rows.Err())
	assert.Equal(t, 20, n)
	// A commit that waits for a check at its end.
	for _, statement := range []string{
		"CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.8); RETURN NULL; END'",
		"CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON customers DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION slow()",
	} {
		_, err = s.plain.Exec(statement)
		require.NoError(t, err)
	}
	tx, err := s.BeginTx(t.Context(), nil)
	require.NoError(t, err)
	_, err = tx.Exec("INSERT INTO customers VALUES (1, 'committed')")
	require.NoError(t, err)
	require.NoError(t, tx.Commit())
	require.NoError(t, s.plain.QueryRow("SELECT count(*) FROM customers").Scan(&n))
	assert.Equal(t, 1, n)
	assert.Zero(t, s.pool.Stats().Reclaimed)
}

func TestLostRowsOnServer(t *testing.T) {
	s := openLeaky(t, "connection_limit=2&pool_timeout=30")
	defer collecting()()
	const losses = 30
	for i := range losses {
		switch i % 3 {
		case 0:
			loseQuery(t, s.DB, "SELECT generate_series(1, 100000)")
		case 1:
			loseQuery(t, s.DB, "SELECT generate_series(1, $1::int)", 100000)
		default:
			s.QueryRow("SELECT 1")
		}
		require.LessOrEqual(t, s.pool.Stats().Open, 2)
	}
	assert.Eventually(t, func() bool { return s.pool.Stats().LostRows == losses }, 20*time.Second, 10*time.Millisecond)
	assert.Eventually(t, func() bool { return s.pool.Stats().InUse == 0 }, 20*time.Second, 10*time.Millisecond)
	assert.Zero(t, s.pool.Stats().Timeouts)
	assert.Eventually(t, func() bool { return len(s.backends(t)) <= 2 }, 10*time.Second, 10*time.Millisecond)
	var n int
	assert.NoError(t, s.QueryRow("SELECT 42").Scan(&n))
	runtime.KeepAlive(s)
}

//go:noinline
func loseQuery(t *testing.T, db *sql.DB, query string, args ...any) {
	rows, err := db.QueryContext(context.Background(), query, args...)
	if assert.NoError(t, err) {
		assert.True(t, rows.Next())
	}
}

// A pool timeout names the holders: here by the function that forgot them.
func TestTimeoutNamesLeaksOnServer(t *testing.T) {
	s := openLeaky(t, "connection_limit=2&pool_timeout=2s&leak_threshold=100ms")
	release := forgetTwo(t, s.DB)
	defer release()
	_, err := s.ExecContext(t.Context(), "SELECT 1")
	var timeout *lifeguard.PoolTimeoutError
	require.ErrorAs(t, err, &timeout)
	require.Len(t, timeout.Holders, 2)
	for _, h := range timeout.Holders {
		assert.True(t, h.Leaked)
		assert.Contains(t, h.Stack[0].Function, "forgetTwo")
		assert.Equal(t, "SELECT ?", h.LastQuery)
	}
	assert.Regexp(t, `longest held \d+(\.\d+)?m?s by leak_test\.forgetTwo \(server_test\.go:\d+\), idle, last query "SELECT \?"`, err.Error())
}

func forgetTwo(t *testing.T, db *sql.DB) (release func()) {
	var open []*sql.Rows
	for i := range 2 {
		rows, err := db.QueryContext(t.Context(), fmt.Sprintf("SELECT %d", i))
		require.NoError(t, err)
		open = append(open, rows)
	}
	return func() {
		for _, rows := range open {
			assert.NoError(t, rows.Close())
		}
	}
}
