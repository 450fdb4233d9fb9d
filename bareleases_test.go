package lifeguard_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/go-lifeguard/lifeguard"
	"github.com/go-lifeguard/lifeguard/internal/fakedriver"
	"github.com/go-lifeguard/lifeguard/internal/pooltest"
)

// bareLease leaves the handle with a lease whose connection, the only one, somebody else has: that of the result.
func bareLease(t *testing.T, db *sql.DB, waits func()) (holder *sql.Conn) {
	t.Helper()
	first := pooltest.Take(t, db)
	taken := make(chan *sql.Conn)
	go func() {
		c, err := db.Conn(context.Background())
		assert.NoError(t, err)
		taken <- c
	}()
	waits()
	require.NoError(t, first.Close())
	holder = <-taken
	require.Equal(t, 1, db.Stats().Idle)
	require.Equal(t, 1, db.Stats().InUse)
	return holder
}

// inBubble waits until everybody does, and a short hold longer, as far as the pool can know.
func inBubble() {
	synctest.Wait()
	time.Sleep(100 * time.Microsecond)
}

// A change of hands costs the handle no object: who returns a connection to somebody who waits keeps the lease, and gets
// another session for it.
func TestChangesOfHandsKeepLeases(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := fakedriver.New()
		srv.OnQuery(func(context.Context, *fakedriver.Conn, string, []driver.NamedValue) error {
			time.Sleep(time.Millisecond)
			return nil
		})
		db, pool := pooltest.OpenFake(t, srv, pooltest.Limit(2))
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for range 50 {
					_, err := db.Exec("UPDATE t")
					assert.NoError(t, err)
				}
			})
		}
		wg.Wait()
		st := db.Stats()
		assert.LessOrEqual(t, st.OpenConnections, 4, "one for each who was there at once")
		assert.LessOrEqual(t, st.MaxIdleClosed, int64(2), "of the four that were idle at the end")
		assert.EqualValues(t, 200, pool.Stats().Acquired)
		assert.Greater(t, pool.Stats().Waits, uint64(90))
		assert.LessOrEqual(t, srv.MaxOpen(), 2)
	})
}

// Who waits on a lease without a session keeps his place in the queue when he has to go on waiting without it.
func TestPlaceIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db, pool := pooltest.OpenFake(t, fakedriver.New(), pooltest.Limit(1))
		holder := bareLease(t, db, inBubble)
		before := pool.Stats().Waits
		var order []string
		served := make(chan struct{})
		wait := func(name string) {
			c, err := db.Conn(context.Background())
			assert.NoError(t, err)
			order = append(order, name)
			assert.NoError(t, c.Close())
			served <- struct{}{}
		}
		go wait("first") // on the lease
		time.Sleep(3 * time.Millisecond)
		go wait("second") // in Connect: the handle has no other
		synctest.Wait()
		assert.Equal(t, 2, pool.Stats().Waiting)
		time.Sleep(20 * time.Millisecond)
		assert.Equal(t, 2, pool.Stats().Waiting)
		require.NoError(t, holder.Close())
		<-served
		<-served
		assert.Equal(t, []string{"first", "second"}, order)
		assert.EqualValues(t, 2, pool.Stats().Waits-before, "nobody waited twice")
	})
}

// pool_timeout and contexts end such a wait as they end any, at their time.
func TestWaitsOnLeasesEnd(t *testing.T) {
	for _, tt := range []struct {
		name      string
		timeout   time.Duration // pool_timeout
		ctx       time.Duration
		after     time.Duration
		timeouts  uint64
		cancelled uint64
		want      error
	}{
		{name: "pool_timeout", timeout: time.Second, after: time.Second, timeouts: 1, want: lifeguard.ErrPoolTimeout},
		{name: "pool_timeout of an instant", timeout: 2 * time.Millisecond, after: 2 * time.Millisecond, timeouts: 1, want: lifeguard.ErrPoolTimeout},
		{name: "deadline", timeout: time.Second, ctx: 500 * time.Millisecond, after: 500 * time.Millisecond, cancelled: 1, want: context.DeadlineExceeded},
		{name: "deadline of an instant", timeout: time.Second, ctx: time.Millisecond, after: time.Millisecond, cancelled: 1, want: context.DeadlineExceeded},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				db, pool := pooltest.OpenFake(t, fakedriver.New(), func(c *lifeguard.Config) { c.ConnectionLimit, c.MaxIdleConnections, c.PoolTimeout = 1, 1, tt.timeout })
				holder := bareLease(t, db, inBubble)
				defer holder.Close()
				before := pool.Stats().Waits
				ctx := context.Background()
				if tt.ctx > 0 {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, tt.ctx)
					defer cancel()
				}
				start := time.Now()
				_, err := db.Conn(ctx)
				assert.Equal(t, tt.after, time.Since(start))
				assert.ErrorIs(t, err, tt.want)
				var timeout *lifeguard.PoolTimeoutError
				if errors.As(err, &timeout) {
					assert.Equal(t, tt.timeout, timeout.Waited)
				}
				st := pool.Stats()
				assert.Equal(t, tt.timeouts, st.Timeouts)
				assert.Equal(t, tt.cancelled, st.Canceled)
				assert.EqualValues(t, 1, st.Waits-before)
				assert.Zero(t, st.Waiting)
			})
		})
	}
}

// A statement can be closed by somebody who holds the last connection, although a caller waits on a lease that it was once
// prepared on, and database/sql makes the one wait for the other: the caller soon goes on waiting without the lease. Not
// in a bubble, in which no time passes while somebody waits for a mutex.
func TestStatementClosedByWhoIsWaitedFor(t *testing.T) {
	db, pool := pooltest.OpenFake(t, fakedriver.New(), pooltest.Limit(1))
	st, err := db.Prepare("SELECT 1") // on the lease that the caller will wait on
	require.NoError(t, err)
	waits := func() { pooltest.Eventually(t, "a caller who waits", func() bool { return pool.Stats().Waiting == 1 }) }
	holder := bareLease(t, db, waits)
	done := make(chan error)
	go func() {
		_, err := db.Exec("UPDATE t")
		done <- err
	}()
	waits()                        // on the lease
	require.NoError(t, st.Close()) // while he waits: else this would never return
	require.NoError(t, holder.Close())
	require.NoError(t, <-done)
}

// A statement goes on working on each session that its lease gets, and is prepared on each once as long as nothing else
// takes it off.
func TestStatementsMoveWithLeases(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := fakedriver.New()
		srv.OnQuery(func(context.Context, *fakedriver.Conn, string, []driver.NamedValue) error {
			time.Sleep(time.Millisecond)
			return nil
		})
		db, pool := pooltest.OpenFake(t, srv, pooltest.Limit(2))
		st, err := db.Prepare("SELECT 1")
		require.NoError(t, err)
		var wg sync.WaitGroup
		for range 6 {
			wg.Go(func() {
				for range 20 {
					var n int
					assert.NoError(t, st.QueryRow().Scan(&n))
				}
			})
		}
		wg.Wait()
		pool.Reset()
		var n int
		require.NoError(t, st.QueryRow().Scan(&n))
		require.NoError(t, st.Close())
		assert.Zero(t, srv.Stmts(), "statements left on the server")
	})
}

// A handle that has a limit of its own gives leases from one caller to the next, who may have to wait on each of
// database/sql's three attempts. He is served all the same.
func TestHandleWithLimit(t *testing.T) {
	for _, most := range []int{1, 3, 4, 7} {
		synctest.Test(t, func(t *testing.T) {
			srv := fakedriver.New()
			srv.OnQuery(func(_ context.Context, _ *fakedriver.Conn, query string, _ []driver.NamedValue) error {
				if query == "slow" {
					time.Sleep(30 * time.Millisecond)
				} else {
					time.Sleep(100 * time.Microsecond)
				}
				return nil
			})
			db, _ := pooltest.OpenFake(t, srv, pooltest.Limit(3))
			db.SetMaxOpenConns(most)
			var wg sync.WaitGroup
			for i := range 20 {
				wg.Go(func() {
					for j := range 50 {
						query := "quick"
						if (i+j)%7 == 0 {
							query = "slow"
						}
						_, err := db.Exec(query)
						assert.NoError(t, err)
					}
				})
			}
			wg.Wait()
			assert.LessOrEqual(t, srv.MaxOpen(), 3)
		})
	}
}

// Who waits in vain on the last attempt is told why, by his operation.
func TestHandleWithLimitTimesOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := fakedriver.New()
		srv.OnQuery(func(context.Context, *fakedriver.Conn, string, []driver.NamedValue) error {
			time.Sleep(time.Second)
			return nil
		})
		db, _ := pooltest.OpenFake(t, srv, func(c *lifeguard.Config) {
			c.ConnectionLimit, c.MaxIdleConnections, c.PoolTimeout = 1, 1, 500*time.Millisecond
		})
		db.SetMaxOpenConns(2)
		var served, refused int
		var wg sync.WaitGroup
		var mu sync.Mutex
		for range 12 {
			wg.Go(func() {
				for range 20 {
					_, err := db.Exec("UPDATE t SET n = ?", 1)
					mu.Lock()
					switch {
					case err == nil:
						served++
					default:
						refused++
						assert.ErrorIs(t, err, lifeguard.ErrPoolTimeout)
					}
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		assert.Positive(t, served)
		assert.Positive(t, refused)
		t.Log(served, "served,", refused, "refused")
	})
}

// TestBareLeases has leases lose their sessions and get others at random, for the race detector: by callers of all kinds,
// with contexts that end, while statements close, the limit changes and the pool is reset.
// In the end every place is there, and no statement.
func TestBareLeases(t *testing.T) {
	rnd := pooltest.Seed(t)
	srv := fakedriver.New()
	srv.OnQuery(func(ctx context.Context, _ *fakedriver.Conn, query string, _ []driver.NamedValue) error {
		if query != "slow" {
			return nil
		}
		select {
		case <-time.After(12 * time.Millisecond): // more than a brief wait
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})
	db, pool := pooltest.OpenFake(t, srv, pooltest.Limit(3))
	var wg sync.WaitGroup
	for range 24 {
		rnd := rand.New(rand.NewPCG(rnd.Uint64(), 0))
		wg.Go(func() {
			for range 80 {
				ctx, cancel := context.Background(), func() {}
				if rnd.IntN(3) == 0 {
					ctx, cancel = context.WithTimeout(ctx, time.Duration(rnd.IntN(20000))*time.Microsecond)
				}
				var err error
				switch rnd.IntN(6) {
				case 0:
					var c *sql.Conn
					if c, err = db.Conn(ctx); err == nil {
						_, err = c.ExecContext(ctx, "quick")
						_ = c.Close()
					}
				case 1:
					var tx *sql.Tx
					if tx, err = db.BeginTx(ctx, nil); err == nil {
						_, err = tx.ExecContext(ctx, "quick")
						_ = tx.Rollback()
					}
				case 2:
					var st *sql.Stmt
					if st, err = db.PrepareContext(ctx, "quick"); err == nil {
						for range 3 {
							if _, err = st.ExecContext(ctx); err != nil {
								break
							}
						}
						_ = st.Close()
					}
				case 3:
					_, err = db.ExecContext(ctx, "slow")
				case 4:
					if rnd.IntN(10) == 0 {
						pool.Reset()
						err = pool.SetConnectionLimit(1 + rnd.IntN(3))
					}
				default:
					var n int
					err = db.QueryRowContext(ctx, "quick").Scan(&n)
				}
				if err != nil && ctx.Err() == nil {
					assert.NoError(t, err)
				}
				cancel()
			}
		})
	}
	wg.Wait()
	require.NoError(t, pool.SetConnectionLimit(3))
	pooltest.Eventually(t, "every place to be there", func() bool { return pool.Stats().InUse == 0 && pool.Stats().Waiting == 0 })
	for range 3 {
		defer pooltest.Take(t, db).Close()
	}
	assert.LessOrEqual(t, srv.MaxOpen(), 3)
}

// fading is a context that ends as soon as somebody has asked whether it has.
type fading struct {
	context.Context
	done chan struct{}
	once sync.Once
}

func (f *fading) Done() <-chan struct{} { return f.done }

func (f *fading) Err() error {
	select {
	case <-f.done:
		return context.Canceled
	default:
		f.once.Do(func() { close(f.done) })
		return nil
	}
}

// Who does not even begin to wait on a lease, because he would have to wait for long, and whose context ends before he
// comes again, is not counted as waiting.
func TestWaitNotBegun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db, pool := pooltest.OpenFake(t, fakedriver.New(), pooltest.Limit(1))
		// Holds take a second, as far as the pool can know.
		holder := bareLease(t, db, func() { synctest.Wait(); time.Sleep(time.Second) })
		_, err := db.Conn(&fading{Context: context.Background(), done: make(chan struct{})})
		assert.ErrorIs(t, err, context.Canceled)
		assert.Zero(t, pool.Stats().Waiting)
		require.NoError(t, holder.Close())
	})
}
