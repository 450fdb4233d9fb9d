package drivertest

import (
	"context"
	"database/sql"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/go-lifeguard/lifeguard"
)

// checkLimit has 30 goroutines query, panic inside transactions and, if told so, cancel, on 4 connections. The number
// of connections is asked of count all the time.
func (e *engine) checkLimit(t *testing.T, dsn string, cancelling bool, count func() int) {
	const limit = 4
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	db, err := lifeguard.Open(e.driverName, withLimit(dsn, limit), quiet)
	require.NoError(t, err)
	defer func() { assert.NoError(t, db.Close()) }()
	pool, ok := lifeguard.PoolOf(db)
	require.True(t, ok)
	_, err = db.Exec("CREATE TABLE ledger (id BIGINT PRIMARY KEY)")
	require.NoError(t, err)
	insert := "INSERT INTO ledger VALUES (" + e.mark(1) + ")"

	quit, watched := make(chan struct{}), make(chan int)
	go func() {
		most := 0
		for {
			select {
			case <-quit:
				watched <- most
				return
			default:
				most = max(most, count())
			}
		}
	}()
	length := 1500 * time.Millisecond
	if testing.Short() {
		length = 300 * time.Millisecond
	}
	end := time.Now().Add(length)
	var wg sync.WaitGroup
	var committed, panicked atomic.Int64
	for g := range 30 {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(seed, uint64(g)))
			for i := 0; time.Now().Before(end); i++ {
				id := int64(g)<<32 | int64(i)
				switch rnd.IntN(4) {
				case 0:
					if cancelling {
						ctx, cancel := context.WithTimeout(t.Context(), time.Duration(rnd.IntN(500))*time.Microsecond)
						db.QueryRowContext(ctx, "SELECT 1").Scan(new(int))
						cancel()
					}
				case 1:
					func() {
						defer func() { recover() }()
						tx, err := db.BeginTx(t.Context(), nil)
						if !assert.NoError(t, err) {
							return
						}
						defer tx.Rollback()
						_, err = tx.Exec(insert, id)
						assert.NoError(t, err)
						panicked.Add(1)
						panic("in a transaction")
					}()
				case 2:
					tx, err := db.BeginTx(t.Context(), nil)
					if !assert.NoError(t, err) {
						return
					}
					_, err = tx.Exec(insert, id)
					if !assert.NoError(t, err) || !assert.NoError(t, tx.Commit()) {
						return
					}
					committed.Add(1)
				case 3:
					var got int64
					err := db.QueryRowContext(t.Context(), "SELECT id FROM ledger WHERE id = "+e.mark(1), id).Scan(&got)
					assert.ErrorIs(t, err, sql.ErrNoRows)
				}
			}
		})
	}
	wg.Wait()
	settled(t, pool)
	close(quit)
	most := <-watched
	t.Logf("at most %d connections; %d commits, %d panics", most, committed.Load(), panicked.Load())
	assert.LessOrEqual(t, most, limit)
	assert.Positive(t, most)
	assert.Positive(t, committed.Load())
	assert.Positive(t, panicked.Load())
	var rows int64
	require.NoError(t, db.QueryRow("SELECT COUNT(*) FROM ledger").Scan(&rows))
	assert.Equal(t, committed.Load(), rows)

	// Nothing was lost: the whole limit can be checked out at once.
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for range limit {
		conn, err := db.Conn(ctx)
		require.NoError(t, err)
		defer conn.Close()
		require.NoError(t, conn.PingContext(ctx))
	}
	assert.Equal(t, limit, pool.Stats().InUse)
}

// checkTimeout holds every connection.
func (e *engine) checkTimeout(t *testing.T, dsn string) {
	db, err := lifeguard.Open(e.driverName, withParam(withLimit(dsn, 2), "pool_timeout=1s"), quiet)
	require.NoError(t, err)
	defer func() { assert.NoError(t, db.Close()) }()
	first, err := db.Conn(t.Context())
	require.NoError(t, err)
	defer first.Close()
	second, err := db.BeginTx(t.Context(), nil)
	require.NoError(t, err)
	start := time.Now()
	_, err = db.ExecContext(t.Context(), "SELECT 1")
	assert.GreaterOrEqual(t, time.Since(start), time.Second)
	var timeout *lifeguard.PoolTimeoutError
	require.ErrorAs(t, err, &timeout)
	assert.Equal(t, []int{2, 2, 0}, []int{timeout.Limit, timeout.InUse, timeout.Waiting})
	assert.NoError(t, timeout.Err, "no dial failed")
	assert.ErrorContains(t, err, "longest held")
	assert.ErrorContains(t, err, "pool_test.go:")
	require.NoError(t, second.Rollback())
	_, err = db.ExecContext(t.Context(), "SELECT 1")
	assert.NoError(t, err)
}

// checkTooMany has another pool take all the server's places, and give two back one after the other; refused says what the
// server answers while there is none.
func (e *engine) checkTooMany(t *testing.T, dsn string, refused func(error) bool) {
	others, err := sql.Open(e.driverName, dsn)
	require.NoError(t, err)
	defer others.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var held []*sql.Conn
	for {
		conn, err := others.Conn(ctx)
		if refused(err) {
			break
		}
		require.NoError(t, err)
		held = append(held, conn)
	}
	require.Greater(t, len(held), 2)

	// A pool that has never connected tells its first caller at once, as the plain driver does.
	stranger, err := lifeguard.Open(e.driverName, withLimit(dsn, 5), quiet)
	require.NoError(t, err)
	defer func() { assert.NoError(t, stranger.Close()) }()
	err = stranger.PingContext(ctx)
	assert.True(t, refused(err), "got %v", err)
	assert.NotErrorIs(t, err, lifeguard.ErrPoolTimeout)

	others.SetMaxIdleConns(-1)
	require.NoError(t, held[0].Close())
	db, err := lifeguard.Open(e.driverName, withParam(withLimit(dsn, 5), "pool_timeout=1s"), quiet)
	require.NoError(t, err)
	defer func() { assert.NoError(t, db.Close()) }()
	var only *sql.Conn
	eventually(t, "the server has a place", func() bool { only, err = db.Conn(ctx); return err == nil })
	err = db.PingContext(ctx)
	assert.ErrorIs(t, err, lifeguard.ErrPoolTimeout)
	assert.True(t, refused(err), "got %v", err)
	assert.ErrorContains(t, err, "lower connection_limit, or raise max_connections")
	require.NoError(t, only.Close())
	require.NoError(t, db.Close())

	require.NoError(t, held[1].Close())
	patient, err := lifeguard.Open(e.driverName, withParam(withLimit(dsn, 5), "pool_timeout=20"), quiet)
	require.NoError(t, err)
	defer func() { assert.NoError(t, patient.Close()) }()
	eventually(t, "the server has a place", func() bool { return patient.PingContext(ctx) == nil })
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 20 {
				_, err := patient.ExecContext(ctx, "SELECT 1")
				assert.NoError(t, err)
			}
		})
	}
	wg.Wait()
	for _, conn := range held[2:] {
		assert.NoError(t, conn.Close())
	}
}
