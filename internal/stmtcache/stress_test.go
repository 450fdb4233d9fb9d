package stmtcache_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/go-lifeguard/lifeguard"
	"github.com/go-lifeguard/lifeguard/internal/pgtest"
	"github.com/go-lifeguard/lifeguard/internal/pooltest"
)

// Queries that are cancelled at any moment do no harm to their connection or its next holder.
func TestStatementsCancelledAtRandom(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	db := pooltest.OpenPostgres(t, "lifeguard", pgtest.DSN(t), 4)
	own, err := db.Prepare("SELECT $1::int FROM pg_sleep(0.0005)")
	require.NoError(t, err)
	defer own.Close()
	var cancelled, done atomic.Int64
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(seed, uint64(g)))
			for i := range 300 {
				ctx, cancel := context.WithCancel(t.Context())
				soon := rnd.IntN(2) == 0
				if soon {
					ctx, cancel = pooltest.CancelSoon(t.Context(), rnd, 1500*time.Microsecond)
				}
				var n int
				var err error
				switch rnd.IntN(3) {
				case 0:
					err = own.QueryRowContext(ctx, i).Scan(&n)
				case 1:
					err = db.QueryRowContext(ctx, "SELECT $1::int AS direct FROM pg_sleep(0.0005)", i).Scan(&n)
				default:
					_, err = db.ExecContext(ctx, "SELECT $1::int FROM pg_sleep(0.0005)", i)
					n = i
				}
				switch {
				case err == nil && n != i:
					t.Errorf("asked for %d, got %d", i, n)
				case err != nil && !soon:
					t.Errorf("not cancelled, and failed: %v", err)
				case err != nil && ctx.Err() == nil:
					t.Errorf("failed before it was cancelled: %v", err)
				case err != nil:
					cancelled.Add(1)
				default:
					done.Add(1)
				}
				cancel()
			}
		})
	}
	wg.Wait()
	t.Logf("%d cancelled, %d done", cancelled.Load(), done.Load())
	assert.Positive(t, cancelled.Load())
	pooltest.Settled(t, pooltest.PoolOf(t, db.DB))
	db.AllSlots(t, 4)
}

// Everything at once: kept statements, the program's own, transactions, more texts than fit, cancels, leases that are
// taken back, and a migration that never ends.
func TestStatementsStress(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	const limit, goroutines = 4, 12
	db := pooltest.OpenPostgres(t, "lifeguard", pgtest.DSN(t), limit, "statement_cache_size=4")
	_, err := db.Exec("CREATE TABLE items (id int PRIMARY KEY, v int NOT NULL); INSERT INTO items SELECT g, 0 FROM generate_series(0, 99) g")
	require.NoError(t, err)
	own, err := db.Prepare("SELECT * FROM items WHERE id = $1")
	require.NoError(t, err)
	defer own.Close()

	quit := make(chan struct{})
	migrated := make(chan int)
	go func() { // ends with quit
		n := 0
		defer func() { migrated <- n }()
		for ; ; n++ {
			select {
			case <-quit:
				return
			default:
			}
			migrate := db.Server // half of it by somebody whom the pool does not see
			if n%2 == 0 {
				migrate = db.DB
			}
			for _, ddl := range []string{"ALTER TABLE items ADD COLUMN c text DEFAULT 'x'", "CREATE INDEX i ON items (v)", "DROP INDEX i", "ALTER TABLE items DROP COLUMN c"} {
				if _, err := migrate.Exec(ddl); err != nil && !pooltest.IsCode(err, "40P01") {
					t.Errorf("%s: %v", ddl, err)
					return
				}
			}
		}
	}()
	// idOf reads the first column of rows that may have two or three.
	idOf := func(rows *sql.Rows, err error) (int, error) {
		if err != nil {
			return 0, err
		}
		defer rows.Close()
		columns, err := rows.Columns()
		if err != nil {
			return 0, err
		}
		id, dest := 0, make([]any, len(columns))
		for i := range dest {
			dest[i] = new(any)
		}
		dest[slices.Index(columns, "id")] = &id
		if !rows.Next() {
			return 0, errors.Join(sql.ErrNoRows, rows.Err())
		}
		if err := rows.Scan(dest...); err != nil {
			return 0, err
		}
		return id, rows.Err()
	}
	var moved, increments atomic.Int64
	until := time.Now().Add(pooltest.StormLength(2 * time.Second))
	var wg sync.WaitGroup
	for g := range goroutines {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(seed, uint64(g)))
			for time.Now().Before(until) {
				id, got := rnd.IntN(100), -1
				ctx, cancel := context.WithCancel(t.Context())
				var err error
				switch rnd.IntN(6) {
				case 0:
					got, err = idOf(own.QueryContext(ctx, id))
				case 1:
					got, err = idOf(db.QueryContext(ctx, "SELECT * FROM items WHERE id = $1", id))
				case 2:
					got, err = idOf(db.QueryContext(ctx, fmt.Sprintf("SELECT id, %d FROM items WHERE id = $1", rnd.IntN(9)), id))
				case 3:
					ctx, cancel = pooltest.CancelSoon(ctx, rnd, time.Millisecond)
					got, err = idOf(db.QueryContext(ctx, "SELECT id FROM items WHERE id = $1", id))
					if err != nil && ctx.Err() != nil {
						got, err = id, nil
					}
				case 4:
					var tx *sql.Tx
					if tx, err = db.BeginTx(ctx, nil); err != nil {
						break
					}
					if got, err = idOf(tx.StmtContext(ctx, own).QueryContext(ctx, id)); err == nil {
						_, err = tx.ExecContext(ctx, "UPDATE items SET v = v + $2 WHERE id = $1", id, 1)
					}
					if err != nil {
						tx.Rollback()
					} else if err = tx.Commit(); err == nil {
						increments.Add(1)
					}
				default:
					var st *sql.Stmt
					if st, err = db.PrepareContext(ctx, fmt.Sprintf("SELECT id FROM items WHERE id = $1 OR v < -%d", 1+rnd.IntN(9))); err == nil {
						got, err = idOf(st.QueryContext(ctx, id))
						st.Close()
					}
				}
				cancel()
				switch {
				case pooltest.IsCode(err, "0A000"), pooltest.IsCode(err, "40P01"):
					moved.Add(1) // in a transaction, or twice in a row
				case err != nil:
					t.Errorf("id %d: %v", id, err)
				case got != id:
					t.Errorf("asked for %d, got %d", id, got)
				}
			}
		})
	}
	wg.Wait()
	close(quit)
	t.Logf("%d migrations, %d operations met one, %d increments", <-migrated, moved.Load(), increments.Load())
	var sum int64
	require.NoError(t, db.QueryRow("SELECT sum(v) FROM items WHERE id >= $1", 0).Scan(&sum))
	assert.Equal(t, increments.Load(), sum)
	pooltest.Settled(t, pooltest.PoolOf(t, db.DB))
	db.AllSlots(t, limit)
	conns := make([]*sql.Conn, limit)
	for i := range conns {
		conns[i], err = db.Conn(t.Context())
		require.NoError(t, err)
		defer conns[i].Close()
		var n int
		require.NoError(t, conns[i].QueryRowContext(t.Context(), "SELECT count(*) FROM pg_prepared_statements").Scan(&n))
		assert.LessOrEqual(t, n, 4+1) // own may be open besides those that are kept
	}
}

// A handle closes the statements of idle connections at any time, also while these are taken back for a waiter.
func TestStatementClosedWhileLeaseIsTakenBack(t *testing.T) {
	dsn := pooltest.AddParams(t, pgtest.DSN(t), "connection_limit=2", "pool_name=taken-back")
	open := func() *sql.DB {
		db, err := lifeguard.Open("postgres", dsn, pooltest.Quiet)
		require.NoError(t, err)
		t.Cleanup(func() { assert.NoError(t, db.Close()) })
		return db
	}
	a, b := open(), open() // two handles on one pool take leases from each other
	var wg sync.WaitGroup
	for g := range 6 {
		db := []*sql.DB{a, b}[g%2]
		wg.Go(func() {
			for i := range 150 {
				st, err := db.Prepare(fmt.Sprintf("SELECT $1::int + %d", i%7))
				if err != nil {
					t.Error(err)
					return
				}
				var n int
				if err := st.QueryRow(i).Scan(&n); err != nil || n != i+i%7 {
					t.Errorf("%d + %d = %d, %v", i, i%7, n, err)
				}
				if err := st.Close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	pooltest.Settled(t, pooltest.PoolOf(t, a))
}
