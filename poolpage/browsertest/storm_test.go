package browsertest

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-lifeguard/lifeguard"
	"github.com/go-lifeguard/lifeguard/internal/pgtest"
	"github.com/go-lifeguard/lifeguard/poolpage"
)

// storm is a pool of eight in trouble: a forgotten transaction that locks a row, callers that wait for it on the server,
// others that wait for a connection, slow queries, one that fails, and a server that cannot be reached for a moment.
type storm struct {
	db     *sql.DB
	server *httptest.Server
}

// startStorm brings the storm up. It calms down at the end of the test.
func startStorm(t *testing.T) *storm {
	dsn := pgtest.DSN(t)
	var refuse sync.Map
	db, err := lifeguard.Open("lifeguard", dsn+"&connection_limit=8&pool_timeout=1&slow_query_threshold=50ms&leak_threshold=2",
		lifeguard.WithPoolName("orders@db:5432/shop"),
		lifeguard.WithBeforeConnect(func(_ context.Context, dsn string) (string, error) {
			if _, down := refuse.Load("down"); down {
				return "", errors.New("the token service does not answer")
			}
			return dsn, nil
		}))
	require.NoError(t, err)
	ctx, calm := context.WithCancel(context.Background())
	var work sync.WaitGroup
	s := &storm{db: db}
	s.server = httptest.NewServer(http.NewServeMux())
	mux := http.NewServeMux()
	mux.Handle("/debug/pool/", poolpage.Handler(db, poolpage.WithServerView(dsn), poolpage.WithActions()))
	s.server.Config.Handler = mux
	t.Cleanup(func() {
		s.server.CloseClientConnections() // the browser still watches
		s.server.Close()
		calm()
		work.Wait()
		require.NoError(t, db.Close())
	})

	refuse.Store("down", true)
	for range 3 { // a pool that has never connected tells its caller
		require.Error(t, db.PingContext(ctx))
	}
	refuse.Delete("down")
	_, err = db.ExecContext(ctx, "CREATE TABLE accounts (id int PRIMARY KEY, email text UNIQUE, balance int)")
	require.NoError(t, err)
	_, err = db.ExecContext(ctx, "INSERT INTO accounts SELECT i, 'user' || i || '@example.com', 0 FROM generate_series(1, 1000) i")
	require.NoError(t, err)
	_, err = db.ExecContext(ctx, "INSERT INTO accounts VALUES (1, 'again@example.com', 0)")
	require.Error(t, err)

	run := func(f func(context.Context, *sql.DB)) { work.Go(func() { f(ctx, db) }) }
	run(forgetTransaction)
	run(keepConnection)
	for range 3 {
		run(listOrders)
	}
	waitFor(t, func() bool { return inTransaction(db) })
	run(transfer)
	run(transfer)
	for range 6 {
		run(listOrders)
	}
	for range 2 {
		run(exportReport)
	}
	run(bursts)
	return s
}

func waitFor(t *testing.T, ok func() bool) {
	t.Helper()
	require.Eventually(t, ok, 20*time.Second, 10*time.Millisecond)
}

func inTransaction(db *sql.DB) bool {
	p, _ := lifeguard.PoolOf(db)
	for _, h := range p.Holders() {
		if h.InTx && !h.Busy && h.Operations > 1 {
			return true
		}
	}
	return false
}

// forgetTransaction locks a row and goes to sleep.
func forgetTransaction(ctx context.Context, db *sql.DB) {
	tx, err := db.Begin()
	if err != nil {
		return
	}
	defer func() { _ = tx.Rollback() }()
	if _, err := tx.Exec("UPDATE accounts SET balance = balance - 10 WHERE id = 7 AND email <> 'secret-literal'"); err == nil {
		<-ctx.Done()
	}
}

// keepConnection takes a connection and uses it for nothing.
func keepConnection(ctx context.Context, db *sql.DB) {
	conn, err := db.Conn(ctx)
	if err != nil {
		return
	}
	defer conn.Close()
	_ = conn.PingContext(ctx)
	<-ctx.Done()
}

// transfer waits on the server for the row that forgetTransaction has locked.
func transfer(ctx context.Context, db *sql.DB) {
	for ctx.Err() == nil {
		_, _ = db.ExecContext(ctx, "UPDATE accounts SET balance = balance + $1 WHERE id = $2", 10, 7)
	}
}

// listOrders is the work of the day.
func listOrders(ctx context.Context, db *sql.DB) {
	for i := 0; ctx.Err() == nil; i++ {
		var n int
		_ = db.QueryRowContext(ctx, fmt.Sprintf("SELECT count(*) FROM accounts, pg_sleep(0.06 + random() * 0.1) WHERE balance >= %d", -i%3)).Scan(&n)
	}
}

// exportReport is slow.
func exportReport(ctx context.Context, db *sql.DB) {
	for ctx.Err() == nil {
		_, _ = db.ExecContext(ctx, "SELECT pg_sleep(0.4), $1::text", "report")
	}
}

// bursts of callers come every ten seconds. Some of them wait in vain.
func bursts(ctx context.Context, db *sql.DB) {
	var callers sync.WaitGroup
	defer callers.Wait()
	for round := 0; ; round++ {
		for range 12 + 9*(round%3) {
			callers.Go(func() { _, _ = db.ExecContext(ctx, "SELECT pg_sleep(0.25)") })
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(10 * time.Second):
		}
	}
}
