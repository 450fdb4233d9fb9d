package pool_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/go-lifeguard/lifeguard"
	"github.com/go-lifeguard/lifeguard/internal/fakedriver"
	"github.com/go-lifeguard/lifeguard/internal/pgtest"
	"github.com/go-lifeguard/lifeguard/internal/pooltest"
)

func TestShutdownLetsWorkFinish(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := fakedriver.New()
		db, pool := pooltest.OpenFake(t, srv, pooltest.Limit(3))
		st, err := db.PrepareContext(t.Context(), "prepared")
		require.NoError(t, err)
		tx, err := db.BeginTx(t.Context(), nil)
		require.NoError(t, err)
		rows, err := db.QueryContext(t.Context(), "rows 100")
		require.NoError(t, err)
		conn := pooltest.Take(t, db)
		waiter := make(chan error, 1)
		go func() { waiter <- db.PingContext(t.Context()) }()
		synctest.Wait()

		done := make(chan error, 1)
		start := time.Now()
		go func() { done <- lifeguard.Shutdown(t.Context(), db) }()
		synctest.Wait()
		assert.ErrorIs(t, <-waiter, lifeguard.ErrPoolClosed)
		assert.Zero(t, time.Since(start), "at once")
		assert.ErrorIs(t, db.PingContext(t.Context()), lifeguard.ErrPoolClosed)
		_, err = db.BeginTx(t.Context(), nil)
		assert.ErrorIs(t, err, lifeguard.ErrPoolClosed)

		time.Sleep(time.Second)
		_, err = tx.ExecContext(t.Context(), "INSERT")
		assert.NoError(t, err)
		_, err = tx.StmtContext(t.Context(), st).ExecContext(t.Context())
		assert.NoError(t, err)
		assert.NoError(t, tx.Commit())
		n := 0
		for rows.Next() {
			n++
		}
		assert.NoError(t, rows.Err())
		assert.Equal(t, 100, n)
		time.Sleep(time.Second)
		_, err = conn.ExecContext(t.Context(), "UPDATE")
		assert.NoError(t, err)
		select {
		case err := <-done:
			t.Fatal("Shutdown returned while a connection was in use:", err)
		default:
		}
		assert.NoError(t, conn.Close())
		assert.NoError(t, <-done)
		assert.Equal(t, 2*time.Second, time.Since(start))
		assert.Zero(t, srv.Open())
		assert.NoError(t, st.Close(), "late, and harmless")
		assert.Error(t, db.PingContext(t.Context()))
		assert.Zero(t, pool.Stats().InUse)

		// Again, and beside and after Close.
		assert.NoError(t, lifeguard.Shutdown(t.Context(), db))
		assert.NoError(t, db.Close())
		assert.NoError(t, pool.Shutdown(t.Context()))
		over, cancel := context.WithCancel(t.Context())
		cancel()
		assert.NoError(t, lifeguard.Shutdown(over, db))
	})
}

func TestShutdownTimeIsUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := fakedriver.New()
		db, _ := pooltest.OpenFake(t, srv, pooltest.Limit(3))
		tx, err := db.BeginTx(t.Context(), nil)
		require.NoError(t, err)
		_, err = tx.ExecContext(t.Context(), "UPDATE customers SET name = 'secret'")
		require.NoError(t, err)
		rows, err := db.QueryContext(t.Context(), "rows 10")
		require.NoError(t, err)
		require.True(t, rows.Next())
		slow := make(chan error, 1)
		srv.OnQuery(func(context.Context, *fakedriver.Conn, string, []driver.NamedValue) error {
			time.Sleep(time.Minute)
			return nil
		})
		go func() { _, err := db.ExecContext(t.Context(), "SELECT slow"); slow <- err }()
		synctest.Wait()

		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		start := time.Now()
		err = lifeguard.Shutdown(ctx, db)
		assert.Equal(t, 5*time.Second, time.Since(start))
		require.ErrorIs(t, err, context.DeadlineExceeded)
		assert.ErrorContains(t, err, `by pool_test.TestShutdownTimeIsUp`)
		assert.ErrorContains(t, err, `last query "UPDATE customers SET name = ?"`)
		assert.ErrorContains(t, err, `last query "SELECT slow"`)
		assert.NotContains(t, err.Error(), "secret")

		// Nothing of the rest works any more, and nothing panics.
		_, err = tx.ExecContext(t.Context(), "INSERT")
		assert.ErrorIs(t, err, lifeguard.ErrPoolClosed)
		assert.Error(t, tx.Commit())
		assert.False(t, rows.Next())
		assert.ErrorIs(t, rows.Err(), lifeguard.ErrPoolClosed)
		assert.NoError(t, rows.Close())
		assert.NoError(t, <-slow, "an operation that runs is not cut where the socket is the driver's own")
		synctest.Wait()
		assert.Zero(t, srv.Open())
	})
}

// Connections that are idle close when a shutdown begins, and not when the last one in use is back.
func TestShutdownClosesIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := fakedriver.New()
		db, pool := pooltest.OpenFake(t, srv, pooltest.Limit(5))
		var all []*sql.Conn
		for range 5 {
			all = append(all, pooltest.Take(t, db))
		}
		for _, c := range all[1:] {
			require.NoError(t, c.Close())
		}
		require.Equal(t, 5, srv.Open())
		done := make(chan error, 1)
		go func() { done <- lifeguard.Shutdown(t.Context(), db) }()
		synctest.Wait()
		assert.Equal(t, 1, srv.Open())
		assert.Equal(t, 1, pool.Stats().InUse)
		require.NoError(t, all[0].Close())
		assert.NoError(t, <-done)
		assert.Zero(t, srv.Open())
	})
}

// Further calls of Shutdown get the same answer while the remaining holders go on, one after the other or all at once.
func TestShutdownAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := fakedriver.New()
		db, pool := pooltest.OpenFake(t, srv, pooltest.Limit(3))
		goOn := make(chan struct{})
		srv.OnQuery(func(context.Context, *fakedriver.Conn, string, []driver.NamedValue) error { <-goOn; return nil })
		slow := make(chan error, 1)
		go func() { _, err := db.ExecContext(t.Context(), "SELECT slow"); slow <- err }()
		synctest.Wait()

		over, cancel := context.WithCancel(t.Context())
		cancel()
		for range 2 {
			errs := make(chan error, 5)
			for range cap(errs) - 2 {
				go func() { errs <- lifeguard.Shutdown(over, db) }()
			}
			go func() { errs <- pool.Shutdown(over) }()
			go func() { _ = db.Close(); errs <- lifeguard.Shutdown(over, db) }()
			for range cap(errs) {
				err := <-errs
				assert.ErrorIs(t, err, context.Canceled)
				assert.ErrorContains(t, err, "SELECT slow")
			}
		}
		close(goOn)
		assert.NoError(t, <-slow)
		synctest.Wait()
		assert.NoError(t, lifeguard.Shutdown(over, db))
		assert.Zero(t, srv.Open())
	})
}

// A caller gets no connection at the moment at which a shutdown ends. Whether the shutdown names it depends on whether
// it has a lease already.
func TestShutdownWhileAcquiring(t *testing.T) {
	for _, leased := range []bool{false, true} {
		t.Run(fmt.Sprint("Leased=", leased), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := fakedriver.New()
				db, pool := pooltest.OpenFake(t, srv, pooltest.Limit(2))
				if !leased {
					db.SetMaxIdleConns(0) // a lease ends at its return, and the connection lies in the pool
				}
				first, second := pooltest.Take(t, db), pooltest.Take(t, db)
				require.NoError(t, second.Close())
				srv.OnQuery(func(context.Context, *fakedriver.Conn, string, []driver.NamedValue) error { return driver.ErrBadConn })
				_, _ = first.ExecContext(t.Context(), "UPDATE") // breaks, so the other is pinged
				goOn := make(chan struct{})
				srv.OnPing(func(context.Context, *fakedriver.Conn) error { <-goOn; return nil })
				late := make(chan error, 1)
				go func() { _, err := db.Conn(t.Context()); late <- err }()
				synctest.Wait()
				_ = first.Close()
				require.Equal(t, 1, srv.Pings())

				over, cancel := context.WithCancel(t.Context())
				cancel()
				err := pool.Shutdown(over)
				if leased {
					assert.ErrorIs(t, err, context.Canceled)
					assert.ErrorContains(t, err, "by pool_test.TestShutdownWhileAcquiring")
				} else {
					assert.NoError(t, err)
				}
				close(goOn)
				assert.ErrorIs(t, <-late, lifeguard.ErrPoolClosed)
				synctest.Wait()
				assert.Zero(t, srv.Open())
			})
		})
	}
}

// Handles of one shared pool are opened while the last of them closes.
func TestSharedPoolComesAndGoes(t *testing.T) {
	srv := fakedriver.New()
	name := fmt.Sprintf("%s-%p", t.Name(), srv)
	lifeguard.Register(name, srv.Driver())
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 200 {
				db, err := sql.Open(name, "fake?pool_name="+name)
				if !assert.NoError(t, err) {
					return
				}
				assert.NoError(t, db.PingContext(t.Context()))
				assert.NoError(t, db.Close())
			}
		})
	}
	wg.Wait()
	assert.Eventually(t, func() bool { return srv.Open() == 0 }, 10*time.Second, time.Millisecond)
}

func TestShutdownWithoutTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db, _ := pooltest.OpenFake(t, fakedriver.New(), nil)
		require.NoError(t, db.PingContext(t.Context()))
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		assert.NoError(t, lifeguard.Shutdown(ctx, db), "nothing was in use")
	})
}

func TestShutdownOfSharedPool(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := fakedriver.New()
		name := fmt.Sprint("shutdown ", pooltest.Number())
		lifeguard.Register(name, srv.Driver(), pooltest.Quiet)
		const dsn = "host=a connection_limit=2 pool_name=shutdown"
		one, err := sql.Open(name, dsn)
		require.NoError(t, err)
		two, err := sql.Open(name, dsn)
		require.NoError(t, err)
		a, b := pooltest.Take(t, one), pooltest.Take(t, two)
		done := make(chan error, 1)
		go func() { done <- lifeguard.Shutdown(t.Context(), one) }()
		synctest.Wait()
		assert.NoError(t, a.Close())
		assert.NoError(t, <-done, "what the other handle holds is not its business")
		assert.NoError(t, b.PingContext(t.Context()))
		assert.NoError(t, b.Close())
		assert.NoError(t, two.PingContext(t.Context()))
		assert.Positive(t, srv.Open())

		pool, _ := lifeguard.PoolOf(two)
		assert.NoError(t, pool.Shutdown(t.Context()))
		assert.ErrorIs(t, two.PingContext(t.Context()), lifeguard.ErrPoolClosed)
		assert.Zero(t, srv.Open())
		assert.NoError(t, two.Close())
	})
}

func TestShutdownOfForeignHandle(t *testing.T) {
	db := sql.OpenDB(fakedriver.New().Connector())
	defer db.Close()
	assert.ErrorContains(t, lifeguard.Shutdown(t.Context(), db), "not opened through lifeguard")
	assert.ErrorContains(t, lifeguard.Shutdown(t.Context(), nil), "not opened through lifeguard")
	assert.NoError(t, db.PingContext(t.Context()), "it is left alone")
	assert.NoError(t, lifeguard.Shutdown(t.Context()))
}

// Shutdown from several goroutines, beside Close and under load: each call returns, no work that began is lost, and
// nothing is left.
func TestShutdownUnderLoad(t *testing.T) {
	rnd := pooltest.Seed(t)
	for range 30 {
		seed := rnd.Uint64()
		synctest.Test(t, func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(seed, 2))
			srv := fakedriver.New()
			srv.OnQuery(func(context.Context, *fakedriver.Conn, string, []driver.NamedValue) error {
				time.Sleep(5 * time.Millisecond)
				return nil
			})
			var committed atomic.Int64
			srv.OnCommit(func(*fakedriver.Conn) error { committed.Add(1); return nil })
			db, pool := pooltest.OpenFake(t, srv, pooltest.Limit(1+rnd.IntN(5)))
			var wg sync.WaitGroup
			var acknowledged atomic.Int64
			for range 20 {
				wg.Go(func() {
					for {
						tx, err := db.BeginTx(t.Context(), nil)
						if err != nil {
							if !errors.Is(err, lifeguard.ErrPoolClosed) {
								assert.ErrorContains(t, err, "database is closed")
							}
							return
						}
						_, err = tx.ExecContext(t.Context(), "INSERT")
						assert.NoError(t, err)
						if assert.NoError(t, tx.Commit()) {
							acknowledged.Add(1)
						}
					}
				})
			}
			time.Sleep(time.Duration(rnd.IntN(100)) * time.Millisecond)
			for range 3 {
				wg.Go(func() { assert.NoError(t, lifeguard.Shutdown(t.Context(), db)) })
			}
			if rnd.IntN(2) == 0 {
				wg.Go(func() { assert.NoError(t, db.Close()) })
			}
			wg.Go(func() { assert.NoError(t, pool.Shutdown(t.Context())) })
			wg.Wait()
			synctest.Wait() // a dial that was under way ends by itself
			assert.Equal(t, committed.Load(), acknowledged.Load())
			assert.Zero(t, pool.Stats().InUse)
		})
	}
}

// TestShutdownInHaste has no time for the work under way. Whatever becomes of that, nothing is left, no commit is
// acknowledged that the server did not see, and nobody hangs.
func TestShutdownInHaste(t *testing.T) {
	rnd := pooltest.Seed(t)
	for range 30 {
		seed := rnd.Uint64()
		synctest.Test(t, func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(seed, 3))
			srv := fakedriver.New()
			srv.OnQuery(func(context.Context, *fakedriver.Conn, string, []driver.NamedValue) error {
				time.Sleep(5 * time.Millisecond)
				return nil
			})
			var committed, acknowledged atomic.Int64
			srv.OnCommit(func(*fakedriver.Conn) error { committed.Add(1); return nil })
			db, pool := pooltest.OpenFake(t, srv, pooltest.Limit(1+rnd.IntN(5)))
			var wg sync.WaitGroup
			for range 20 {
				wg.Go(func() {
					for {
						tx, err := db.BeginTx(t.Context(), nil)
						if err != nil {
							return
						}
						if _, err = tx.ExecContext(t.Context(), "INSERT"); err != nil {
							_ = tx.Rollback()
							return
						}
						if tx.Commit() == nil {
							acknowledged.Add(1)
						}
					}
				})
			}
			time.Sleep(time.Duration(rnd.IntN(50)) * time.Millisecond)
			ctx, cancel := context.WithTimeout(t.Context(), time.Duration(rnd.IntN(8))*time.Millisecond)
			defer cancel()
			for range 3 {
				wg.Go(func() {
					if err := lifeguard.Shutdown(ctx, db); err != nil {
						assert.ErrorIs(t, err, context.DeadlineExceeded)
					}
				})
			}
			if rnd.IntN(2) == 0 {
				wg.Go(func() { assert.NoError(t, db.Close()) })
			}
			wg.Wait()
			assert.NoError(t, pool.Shutdown(t.Context()))
			synctest.Wait()
			assert.LessOrEqual(t, acknowledged.Load(), committed.Load())
			assert.Zero(t, pool.Stats().InUse)
			assert.Zero(t, srv.Open())
		})
	}
}

func TestShutdownOnPostgres(t *testing.T) {
	dsn := pgtest.DSN(t)
	plain, err := sql.Open("postgres", dsn)
	require.NoError(t, err)
	defer plain.Close()
	_, err = plain.ExecContext(t.Context(), "CREATE TABLE notes (id int)")
	require.NoError(t, err)

	db, err := sql.Open("lifeguard", dsn+"&connection_limit=3")
	require.NoError(t, err)
	tx, err := db.BeginTx(t.Context(), nil)
	require.NoError(t, err)
	_, err = tx.ExecContext(t.Context(), "INSERT INTO notes VALUES ($1)", 1)
	require.NoError(t, err)
	done := make(chan error, 1)
	go func() { done <- lifeguard.Shutdown(t.Context(), db) }()
	for !errors.Is(db.PingContext(t.Context()), lifeguard.ErrPoolClosed) {
	}
	require.NoError(t, tx.Commit())
	require.NoError(t, <-done)
	var n int
	require.NoError(t, plain.QueryRowContext(t.Context(), "SELECT count(*) FROM notes").Scan(&n))
	assert.Equal(t, 1, n)

	// A query that does not end is cut when the time is up.
	db, err = sql.Open("lifeguard", dsn+"&connection_limit=3")
	require.NoError(t, err)
	cut := make(chan error, 1)
	tx, err = db.BeginTx(t.Context(), nil)
	require.NoError(t, err)
	_, err = tx.ExecContext(t.Context(), "INSERT INTO notes VALUES ($1)", 2)
	require.NoError(t, err)
	go func() { _, err := tx.ExecContext(context.Background(), "SELECT pg_sleep(60)"); cut <- err }()
	const running = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%' AND state = 'active'"
	for n = 0; n == 0; {
		require.NoError(t, plain.QueryRowContext(t.Context(), running).Scan(&n))
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err = lifeguard.Shutdown(ctx, db)
	require.ErrorIs(t, err, context.Canceled)
	assert.ErrorContains(t, err, "SELECT pg_sleep(?)")
	assert.Error(t, <-cut)
	assert.Error(t, tx.Commit())
	require.NoError(t, plain.QueryRowContext(t.Context(), "SELECT count(*) FROM notes").Scan(&n))
	assert.Equal(t, 1, n, "what was not committed is not there")
}
