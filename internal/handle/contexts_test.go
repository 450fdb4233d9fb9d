package handle_test

import (
	"context"
	"database/sql"
	"runtime"
	"testing"
	"time"
	"weak"

	"github.com/stretchr/testify/require"

	"github.com/go-lifeguard/lifeguard"
	"github.com/go-lifeguard/lifeguard/internal/fakedriver"
	"github.com/go-lifeguard/lifeguard/internal/pgtest"
	"github.com/go-lifeguard/lifeguard/internal/pooltest"
)

// request is what a program keeps in a context, too large for the allocator to put it beside others.
type request [100]int

type requestKey struct{}

// No context of a past request is kept: not by an idle lease, nor by the rows and the transaction that are used again, a
// statement that is open still, a place in the queue, or the connection that was opened for the request.
func TestContextsAreNotKept(t *testing.T) {
	for name, set := range map[string]func(*lifeguard.Config){
		"as usual":  func(*lifeguard.Config) {},
		"reclaims":  func(c *lifeguard.Config) { c.LeakThreshold, c.LeakReclaimAfter = time.Hour, time.Hour },
		"shows all": func(c *lifeguard.Config) { c.Trace, c.QueryLog = lifeguard.TraceAll, lifeguard.QueryLogAll },
	} {
		cfg := lifeguard.DefaultConfig()
		cfg.ConnectionLimit, cfg.MaxIdleConnections = 1, 1
		set(&cfg)
		t.Run("fake, "+name, func(t *testing.T) {
			db, err := lifeguard.OpenDB(fakedriver.New().Connector(), lifeguard.WithConfig(cfg), pooltest.Quiet)
			contextsAreNotKept(t, db, err, func() {})
		})
		t.Run("lib/pq, "+name, func(t *testing.T) {
			db, err := lifeguard.Open("postgres", pgtest.DSN(t), lifeguard.WithConfig(cfg), pooltest.Quiet)
			contextsAreNotKept(t, db, err, func() {
				// lib/pq itself keeps the context of a connection's last transaction until the next.
				tx, err := db.BeginTx(context.Background(), nil)
				require.NoError(t, err)
				require.NoError(t, tx.Commit())
			})
		})
	}
}

func contextsAreNotKept(t *testing.T, db *sql.DB, err error, afterTx func()) {
	require.NoError(t, err)
	defer func() { require.NoError(t, db.Close()) }()
	check := func(use string, run func(context.Context) error) {
		past := func() weak.Pointer[request] {
			r := new(request)
			ctx, cancel := context.WithCancel(context.WithValue(t.Context(), requestKey{}, r))
			defer cancel()
			require.NoError(t, run(ctx), use)
			return weak.Make(r)
		}()
		pooltest.Eventually(t, "the context is garbage after "+use, func() bool { runtime.GC(); return past.Value() == nil })
	}
	const query = "SELECT $1::bigint"
	var n int
	var st *sql.Stmt
	check("a dial and a ping", db.PingContext)
	check("an exec", func(ctx context.Context) error { _, err := db.ExecContext(ctx, query, 1); return err })
	check("a row", func(ctx context.Context) error { return db.QueryRowContext(ctx, query, 1).Scan(&n) })
	check("rows", func(ctx context.Context) error {
		rows, err := db.QueryContext(ctx, query, 1)
		require.NoError(t, err)
		return rows.Close()
	})
	check("a preparation", func(ctx context.Context) (err error) { st, err = db.PrepareContext(ctx, query); return err })
	check("a statement", func(ctx context.Context) error { return st.QueryRowContext(ctx, 1).Scan(&n) })
	require.NoError(t, st.Close()) // database/sql's statements refer to connections that are closed
	check("a commit", func(ctx context.Context) error {
		defer afterTx()
		tx, err := db.BeginTx(ctx, nil)
		require.NoError(t, err)
		require.NoError(t, tx.QueryRowContext(ctx, query, 1).Scan(&n))
		return tx.Commit()
	})
	check("a transaction left to its context", func(ctx context.Context) error {
		ctx, cancel := context.WithCancel(ctx)
		defer afterTx() // with the limit of one connection this waits for the rollback
		defer cancel()
		_, err := db.BeginTx(ctx, nil)
		return err
	})
	check("a wait", func(ctx context.Context) error {
		c, pool := pooltest.Take(t, db), pooltest.PoolOf(t, db)
		go func() {
			pooltest.Eventually(t, "a caller waits", func() bool { return pool.Stats().Waiting == 1 })
			_ = c.Close()
		}()
		return db.PingContext(ctx)
	})
	check("a wait in vain", func(ctx context.Context) error {
		defer pooltest.Take(t, db).Close()
		ctx, cancel := context.WithTimeout(ctx, time.Millisecond)
		defer cancel()
		require.ErrorIs(t, db.PingContext(ctx), context.DeadlineExceeded) // in the queue, or before it on a busy machine
		return nil
	})
}
