package leak_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/go-lifeguard/lifeguard"
	"github.com/go-lifeguard/lifeguard/internal/fakedriver"
	"github.com/go-lifeguard/lifeguard/internal/pooltest"
)

func reclaiming(limit int, threshold, after time.Duration) func(*lifeguard.Config) {
	return func(c *lifeguard.Config) {
		c.ConnectionLimit, c.MaxIdleConnections = limit, limit
		c.LeakThreshold, c.LeakReclaimAfter = threshold, after
	}
}

// A forgotten is a holder whose connection was taken back. later has all calls that it may still make, and returns their
// errors. end returns the rest, which must do no harm.
type forgotten struct {
	later map[string]func() error
	end   func(t *testing.T)
}

var forgottenKinds = map[string]func(t *testing.T, ctx context.Context, db *sql.DB) forgotten{
	"Tx": func(t *testing.T, ctx context.Context, db *sql.DB) forgotten {
		tx, err := db.BeginTx(ctx, nil)
		require.NoError(t, err)
		_, err = tx.ExecContext(ctx, "UPDATE customers SET name = 'a'")
		require.NoError(t, err)
		stmt, err := tx.PrepareContext(ctx, "SELECT 1")
		require.NoError(t, err)
		return forgotten{
			later: map[string]func() error{
				"Exec":     func() error { _, err := tx.ExecContext(ctx, "SELECT 1"); return err },
				"Query":    func() error { _, err := tx.QueryContext(ctx, "SELECT 1"); return err },
				"QueryRow": func() error { var n int; return tx.QueryRowContext(ctx, "SELECT 1").Scan(&n) },
				"Prepare":  func() error { _, err := tx.PrepareContext(ctx, "SELECT 1"); return err },
				"Stmt":     func() error { _, err := stmt.ExecContext(ctx); return err },
				"StmtArgs": func() error { _, err := stmt.ExecContext(ctx, 1, "two"); return err },
			},
			end: func(t *testing.T) {
				assert.NoError(t, stmt.Close())
				assert.ErrorIs(t, tx.Commit(), lifeguard.ErrReclaimed)
				assert.ErrorIs(t, tx.Rollback(), sql.ErrTxDone)
			},
		}
	},
	"TxRollback": func(t *testing.T, ctx context.Context, db *sql.DB) forgotten {
		tx, err := db.BeginTx(ctx, nil)
		require.NoError(t, err)
		return forgotten{end: func(t *testing.T) { assert.ErrorIs(t, tx.Rollback(), lifeguard.ErrReclaimed) }}
	},
	"Conn": func(t *testing.T, ctx context.Context, db *sql.DB) forgotten {
		c, err := db.Conn(ctx)
		require.NoError(t, err)
		stmt, err := c.PrepareContext(ctx, "SELECT 1")
		require.NoError(t, err)
		return forgotten{
			later: map[string]func() error{
				"Ping":    func() error { return c.PingContext(ctx) },
				"Exec":    func() error { _, err := c.ExecContext(ctx, "SELECT $1", 1); return err },
				"Query":   func() error { _, err := c.QueryContext(ctx, "SELECT 1"); return err },
				"Begin":   func() error { _, err := c.BeginTx(ctx, nil); return err },
				"Prepare": func() error { _, err := c.PrepareContext(ctx, "SELECT 1"); return err },
				"Stmt":    func() error { _, err := stmt.QueryContext(ctx); return err },
				"Raw": func() error {
					var got error
					assert.NoError(t, c.Raw(func(dc any) error { got, _ = lifeguard.Unwrap(dc).(error); return nil }))
					return got
				},
			},
			end: func(t *testing.T) {
				assert.NoError(t, stmt.Close())
				assert.NoError(t, c.Close())
				assert.ErrorIs(t, c.Close(), sql.ErrConnDone)
			},
		}
	},
	"Rows": func(t *testing.T, ctx context.Context, db *sql.DB) forgotten {
		rows, err := db.QueryContext(ctx, "rows 100")
		require.NoError(t, err)
		require.True(t, rows.Next())
		return forgotten{
			later: map[string]func() error{
				"Columns": func() error {
					columns, err := rows.Columns()
					assert.NoError(t, err)
					assert.Equal(t, []string{"n"}, columns)
					_, err = rows.ColumnTypes()
					assert.NoError(t, err)
					// The row that was fetched before is the caller's.
					var n int64
					assert.NoError(t, rows.Scan(&n))
					var b bool
					assert.ErrorContains(t, rows.Scan(&b, &b), "expected 1 destination")
					assert.False(t, rows.Next())
					assert.False(t, rows.NextResultSet())
					return rows.Err()
				},
			},
			end: func(t *testing.T) { assert.NoError(t, rows.Close()) },
		}
	},
	"Row": func(t *testing.T, ctx context.Context, db *sql.DB) forgotten {
		row := db.QueryRowContext(ctx, "SELECT 1")
		return forgotten{
			later: map[string]func() error{"Scan": func() error { var n int64; return row.Scan(&n) }},
			end:   func(*testing.T) {},
		}
	},
	"StmtRows": func(t *testing.T, ctx context.Context, db *sql.DB) forgotten {
		stmt, err := db.PrepareContext(ctx, "rows 100")
		require.NoError(t, err)
		rows, err := stmt.QueryContext(ctx)
		require.NoError(t, err)
		return forgotten{
			later: map[string]func() error{"Next": func() error { assert.False(t, rows.Next()); return rows.Err() }},
			end: func(t *testing.T) {
				assert.NoError(t, rows.Close())
				assert.NoError(t, stmt.Close())
			},
		}
	},
}

func TestReclaim(t *testing.T) {
	for name, forget := range forgottenKinds {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := fakedriver.New()
				db, pool, reports := openReported(t, srv, func(c *lifeguard.Config) {
					reclaiming(1, 10*time.Second, 30*time.Second)(c)
					c.PoolTimeout = 0
				})
				f := forget(t, t.Context(), db)
				conn := srv.Conns()[0]
				last := time.Now()

				served := make(chan time.Duration, 1)
				go func() { // waits behind the holder
					_, err := db.ExecContext(t.Context(), "SELECT 'waiter'")
					assert.NoError(t, err)
					served <- time.Since(last)
				}()
				time.Sleep(11 * time.Second)
				synctest.Wait()
				leaks, _ := reports.take()
				require.Len(t, leaks, 1)
				require.False(t, leaks[0].Reclaimed)

				waited := <-served
				synctest.Wait()
				assert.GreaterOrEqual(t, waited, 30*time.Second)
				assert.LessOrEqual(t, waited, 32*time.Second)
				assert.Equal(t, 1, pool.Stats().Open, "the server's connection is gone")
				assert.NotContains(t, srv.Conns(), conn)
				assert.EqualValues(t, 1, pool.Stats().Reclaimed)
				leaks, log := reports.take()
				i := slices.IndexFunc(leaks, func(l lifeguard.Leak) bool { return l.Reclaimed })
				require.GreaterOrEqual(t, i, 0)
				assert.Equal(t, lifeguard.LeakHeld, leaks[i].Kind)
				assert.False(t, leaks[i].Returned)
				assert.Contains(t, log[len(log)-1], `msg="lifeguard: a leaked connection was taken back"`)

				queries := srv.Queries()
				for what, call := range f.later {
					assert.ErrorIs(t, call(), lifeguard.ErrReclaimed, what)
				}
				f.end(t)
				assert.Equal(t, queries, srv.Queries(), "nothing of it reaches the new connection")
				time.Sleep(time.Hour)
				synctest.Wait()
				assert.Zero(t, pool.Stats().InUse)
				leaks, _ = reports.take()
				assert.Empty(t, leaks, "a connection that was taken back is not returned")
				_, err := db.ExecContext(t.Context(), "SELECT 1")
				assert.NoError(t, err)
			})
		})
	}
}

// What runs is never cut, however long it takes, and time counts from its end.
func TestReclaimNeverCutsWhatRuns(t *testing.T) {
	const slow = 10 * time.Minute
	wait := func() { time.Sleep(slow) }
	for name, c := range map[string]struct {
		script func(*fakedriver.Server)
		use    func(t *testing.T, db *sql.DB) (giveBack func())
	}{
		"Query": {
			func(s *fakedriver.Server) {
				s.OnQuery(func(context.Context, *fakedriver.Conn, string, []driver.NamedValue) error { wait(); return nil })
			},
			func(t *testing.T, db *sql.DB) func() {
				rows, err := db.QueryContext(t.Context(), "rows 1")
				require.NoError(t, err)
				return func() { assert.NoError(t, rows.Close()) }
			},
		},
		"Row": {
			func(s *fakedriver.Server) { s.OnNext(func(*fakedriver.Conn, int) error { wait(); return nil }) },
			func(t *testing.T, db *sql.DB) func() {
				rows, err := db.QueryContext(t.Context(), "rows 3")
				require.NoError(t, err)
				for range 3 {
					require.True(t, rows.Next())
				}
				return func() { assert.NoError(t, rows.Close()) }
			},
		},
		"Commit": {
			func(s *fakedriver.Server) { s.OnCommit(func(*fakedriver.Conn) error { wait(); return nil }) },
			func(t *testing.T, db *sql.DB) func() {
				tx, err := db.BeginTx(t.Context(), nil)
				require.NoError(t, err)
				require.NoError(t, tx.Commit())
				return func() {}
			},
		},
		"Reset": {
			func(s *fakedriver.Server) {
				s.OnReset(func(context.Context, *fakedriver.Conn) error { wait(); return nil })
			},
			func(t *testing.T, db *sql.DB) func() {
				_, err := db.ExecContext(t.Context(), "SELECT 1")
				require.NoError(t, err)
				c := pooltest.Take(t, db)
				return func() { assert.NoError(t, c.Close()) }
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := fakedriver.New()
				c.script(srv)
				db, pool, reports := openReported(t, srv, reclaiming(2, time.Second, 2*time.Second))
				giveBack := c.use(t, db)
				time.Sleep(1900 * time.Millisecond)
				giveBack()
				time.Sleep(time.Minute)
				synctest.Wait()
				assert.Zero(t, pool.Stats().Reclaimed)
				leaks, _ := reports.take()
				for _, l := range leaks {
					assert.False(t, l.Reclaimed)
				}
			})
		})
	}
}

// The driver is asked for its opinion at a return, which may take long as well.
func TestReclaimNeverCutsReturn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := fakedriver.New()
		db, pool, _ := openReportedOn(t, srv, validatedConnector{srv.Connector(), func() { time.Sleep(9 * time.Minute) }},
			reclaiming(2, time.Second, 2*time.Second))
		require.NoError(t, pooltest.Take(t, db).Close())
		assert.Zero(t, pool.Stats().Reclaimed)
		assert.Equal(t, 1, pool.Stats().Idle)
	})
}

// validatedConnector opens connections that call ask when they are asked whether they are valid.
type validatedConnector struct {
	driver.Connector
	ask func()
}

func (c validatedConnector) Connect(ctx context.Context) (driver.Conn, error) {
	conn, err := c.Connector.Connect(ctx)
	if err != nil {
		return nil, err
	}
	return validatedConn{conn.(*fakedriver.Conn), c.ask}, nil
}

type validatedConn struct {
	*fakedriver.Conn
	ask func()
}

func (c validatedConn) IsValid() bool {
	c.ask()
	return c.Conn.IsValid()
}

// A holder that does something now and then keeps the connection, though it is reported.
func TestReclaimLeavesTheLiving(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db, pool, reports := openReported(t, fakedriver.New(), reclaiming(1, time.Second, 5*time.Second))
		rows, err := db.QueryContext(t.Context(), "rows 1000")
		require.NoError(t, err)
		for range 100 {
			require.True(t, rows.Next())
			time.Sleep(4800 * time.Millisecond)
		}
		require.NoError(t, rows.Err())
		require.NoError(t, rows.Close())
		c := pooltest.Take(t, db)
		for range 100 {
			require.NoError(t, c.PingContext(t.Context()))
			time.Sleep(4800 * time.Millisecond)
		}
		require.NoError(t, c.Close())
		assert.Zero(t, pool.Stats().Reclaimed)
		assert.EqualValues(t, 2, pool.Stats().Leaks)
		leaks, _ := reports.take()
		assert.NotEmpty(t, leaks)
	})
}

// The driver's own connection in somebody's hands is used in ways that cannot be seen.
func TestUnwrappedIsNotReclaimed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db, pool, reports := openReported(t, fakedriver.New(), reclaiming(1, time.Second, time.Second))
		c := pooltest.Take(t, db)
		err := c.Raw(func(dc any) error {
			conn := lifeguard.Unwrap(dc).(*fakedriver.Conn)
			time.Sleep(time.Hour)
			_, err := conn.ExecContext(t.Context(), "SELECT 1", nil)
			return err
		})
		assert.NoError(t, err)
		time.Sleep(time.Hour)
		assert.NoError(t, c.PingContext(t.Context()))
		assert.NoError(t, c.Close())
		assert.Zero(t, pool.Stats().Reclaimed)
		leaks, _ := reports.take()
		assert.NotEmpty(t, leaks)

		// The next checkout is one like any other.
		c = pooltest.Take(t, db)
		time.Sleep(4 * time.Second)
		assert.ErrorIs(t, c.PingContext(t.Context()), lifeguard.ErrReclaimed)
		assert.NoError(t, c.Close())
	})
}

// Holders wake up at the moment at which their connection is taken back. Each either keeps it for all that it does, or gets
// ErrReclaimed. The driver never sees two holders at once; it would note a violation.
func TestReclaimAtTheVeryMoment(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rounds := 5000
	if testing.Short() {
		rounds = 2000
	}
	const workers, threshold = 40, 2 * time.Millisecond
	srv := fakedriver.New()
	db, pool, _ := openReported(t, srv, func(c *lifeguard.Config) {
		reclaiming(workers, threshold, threshold)(c)
		c.PoolTimeout = time.Minute
	})
	var kept, lost atomic.Int64
	var wg sync.WaitGroup
	for w := range workers {
		rnd := rand.New(rand.NewPCG(seed, uint64(w)))
		wg.Go(func() {
			for range rounds / workers {
				err := wakeUpLate(t.Context(), db, rnd, threshold)
				switch {
				case err == nil:
					kept.Add(1)
				case errors.Is(err, lifeguard.ErrReclaimed):
					lost.Add(1)
				default:
					t.Errorf("neither kept nor lost: %v", err)
				}
			}
		})
	}
	wg.Wait()
	t.Logf("%d kept their connection, %d lost it", kept.Load(), lost.Load())
	assert.Positive(t, kept.Load())
	assert.Positive(t, lost.Load())
	assert.Eventually(t, func() bool { return pool.Stats().InUse == 0 }, 10*time.Second, time.Millisecond)
	// One that is taken back between its last use and its return has done all its work, and nobody need know.
	// The place is free a moment before that is counted.
	assert.Eventually(t, func() bool { return pool.Stats().Reclaimed >= uint64(lost.Load()) }, 10*time.Second, time.Millisecond)
	// Every slot is there again.
	conns := make([]*sql.Conn, workers)
	for i := range conns {
		conns[i] = pooltest.Take(t, db)
	}
	for _, c := range conns {
		assert.NoError(t, c.Close())
	}
}

// wakeUpLate takes a connection, does nothing for about as long as it takes to lose it, and then does several things,
// of which the last must show a loss at any time before.
func wakeUpLate(ctx context.Context, db *sql.DB, rnd *rand.Rand, threshold time.Duration) (err error) {
	// A leak is reported by the first look after the threshold, and taken back by one of the next; they are 1 ms apart.
	pause := func() { time.Sleep(threshold + time.Duration(rnd.Int64N(int64(10*time.Millisecond)))) }
	switch rnd.IntN(6) {
	case 5:
		tx, err := db.BeginTx(ctx, nil)
		if err != nil {
			return fmt.Errorf("begin: %w", err)
		}
		pause()
		if rnd.IntN(2) == 0 {
			return tx.Rollback()
		}
		return tx.Commit()
	case 0:
		tx, err := db.BeginTx(ctx, nil)
		if err != nil {
			return fmt.Errorf("begin: %w", err)
		}
		pause()
		if _, err := tx.ExecContext(ctx, "UPDATE customers SET name = $1", "a"); err != nil {
			if rollback := tx.Rollback(); !errors.Is(rollback, lifeguard.ErrReclaimed) {
				return fmt.Errorf("rollback after %w: %v", err, rollback)
			}
			return err
		}
		return tx.Commit()
	case 1:
		rows, err := db.QueryContext(ctx, "rows 3")
		if err != nil {
			return fmt.Errorf("query: %w", err)
		}
		rows.Next()
		pause()
		for rows.Next() {
			var n int64
			if err := rows.Scan(&n); err != nil {
				return fmt.Errorf("scan: %w", err)
			}
		}
		return errors.Join(rows.Err(), rows.Close())
	case 2:
		c, err := db.Conn(ctx)
		if err != nil {
			return fmt.Errorf("conn: %w", err)
		}
		stmt, err := c.PrepareContext(ctx, "SELECT 1")
		if err != nil {
			return fmt.Errorf("prepare: %w", err)
		}
		pause()
		_, err = stmt.ExecContext(ctx, 1)
		return errors.Join(err, stmt.Close(), c.Close())
	case 3:
		c, err := db.Conn(ctx)
		if err != nil {
			return fmt.Errorf("conn: %w", err)
		}
		stmt, err := c.PrepareContext(ctx, "SELECT 1")
		if err != nil {
			return fmt.Errorf("prepare: %w", err)
		}
		pause()
		closed := stmt.Close()
		ping := c.PingContext(ctx)
		return errors.Join(closed, ping, c.Close())
	default:
		rows, err := db.QueryContext(ctx, "rows 1")
		if err != nil {
			return fmt.Errorf("query: %w", err)
		}
		rows.Next()
		pause()
		more := rows.Next() // closes them at the end
		if more {
			return errors.New("more rows than there are")
		}
		return rows.Err()
	}
}
