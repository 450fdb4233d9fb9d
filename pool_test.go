package lifeguard_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/go-lifeguard/lifeguard"
	"github.com/go-lifeguard/lifeguard/internal/fakedriver"
	"github.com/go-lifeguard/lifeguard/internal/pooltest"
)

func TestPoolTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db, pool := pooltest.OpenFake(t, fakedriver.New(), pooltest.Limit(2))
		first := holdForTest(t, db)
		time.Sleep(time.Minute)
		second := pooltest.Take(t, db)
		defer first.Close()
		defer second.Close()
		_, err := first.ExecContext(t.Context(), "UPDATE customers SET name = 'secret'")
		require.NoError(t, err)

		before := pool.Stats() // opening the two was a wait as well
		start := time.Now()
		_, err = db.ExecContext(t.Context(), "SELECT 1")
		assert.Equal(t, 20*time.Second, time.Since(start), "not before pool_timeout, and not after")
		require.ErrorIs(t, err, lifeguard.ErrPoolTimeout)
		assert.NotErrorIs(t, err, driver.ErrBadConn, "database/sql would wait twice more")
		var timeout *lifeguard.PoolTimeoutError
		require.ErrorAs(t, err, &timeout)
		assert.True(t, timeout.Timeout())
		assert.Equal(t, "fake", timeout.Pool)
		assert.Equal(t, 20*time.Second, timeout.Waited)
		assert.Equal(t, []int{2, 2, 0}, []int{timeout.Limit, timeout.InUse, timeout.Waiting})
		assert.NoError(t, timeout.Err, "the pool was full, no dial failed")
		require.Len(t, timeout.Holders, 2)
		assert.Equal(t, 80*time.Second, timeout.Holders[0].Held, "longest first")
		assert.Equal(t, 20*time.Second, timeout.Holders[1].Held)
		assert.Regexp(t, `^lifeguard: no connection from pool "fake" within 20s \(connection_limit=2, 2 in use, 0 waiting\); `+
			`longest held 1m20s by lifeguard_test\.holdForTest \(pool_test\.go:\d+\), last query "UPDATE customers SET name = \?"$`,
			err.Error())
		st := pool.Stats()
		assert.EqualValues(t, 1, st.Timeouts)
		assert.EqualValues(t, 1, st.Waits-before.Waits)
		assert.Equal(t, 20*time.Second, st.WaitDuration-before.WaitDuration)
		assert.Zero(t, st.Waiting)
	})
}

// holdForTest is a name to be found in the error.
func holdForTest(t *testing.T, db *sql.DB) *sql.Conn {
	c, err := db.Conn(t.Context())
	require.NoError(t, err)
	return c
}

func TestContextEndsSooner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db, pool := pooltest.OpenFake(t, fakedriver.New(), pooltest.Limit(1))
		defer pooltest.Take(t, db).Close()

		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		start := time.Now()
		_, err := db.ExecContext(ctx, "SELECT 1")
		assert.Equal(t, 3*time.Second, time.Since(start))
		assert.Equal(t, context.DeadlineExceeded, err, "the context's own error, as it is")
		assert.EqualValues(t, 1, pool.Stats().Canceled)
	})
}

// A lateContext is one whose end is noticed late, as on a machine that is busy.
type lateContext struct {
	context.Context
	ends time.Time
}

func (c lateContext) Deadline() (time.Time, bool) { return c.ends, true }

func (c lateContext) Err() error {
	if time.Now().Before(c.ends) {
		return nil
	}
	return context.DeadlineExceeded
}

// Whoever finds the ends of his context and of pool_timeout behind him is told of the one that came first.
func TestBothEndsPassed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db, _ := pooltest.OpenFake(t, fakedriver.New(), func(c *lifeguard.Config) { pooltest.Limit(1)(c); c.PoolTimeout = time.Second })
		held := pooltest.Take(t, db)
		defer held.Close()
		for _, tt := range []struct {
			deadline time.Duration
			timeout  bool
		}{{500 * time.Millisecond, false}, {999 * time.Millisecond, false}, {2 * time.Second, true}} {
			_, err := db.ExecContext(lateContext{context.Background(), time.Now().Add(tt.deadline)}, "SELECT 1")
			assert.Equal(t, tt.timeout, errors.Is(err, lifeguard.ErrPoolTimeout), "%v: %v", tt.deadline, err)
			assert.Equal(t, !tt.timeout, err == context.DeadlineExceeded, "%v: %v", tt.deadline, err)
		}
	})
}

func TestNoPoolTimeoutWaitsForContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db, _ := pooltest.OpenFake(t, fakedriver.New(), func(c *lifeguard.Config) { pooltest.Limit(1)(c); c.PoolTimeout = 0 })
		c := pooltest.Take(t, db)
		go func() { time.Sleep(24 * time.Hour); c.Close() }()
		start := time.Now()
		_, err := db.ExecContext(t.Context(), "SELECT 1")
		assert.NoError(t, err)
		assert.Equal(t, 24*time.Hour, time.Since(start))
	})
}

// A waiter whose context ends in the same instant in which a connection comes free must not run its query.
func TestConnectionIsNotGivenToWhoHasLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := fakedriver.New()
		db, pool := pooltest.OpenFake(t, srv, pooltest.Limit(1))
		for range 100 {
			c := pooltest.Take(t, db)
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { _, err := db.ExecContext(ctx, "late"); done <- err }()
			synctest.Wait()
			before := srv.Queries()
			cancel()
			c.Close()
			assert.Equal(t, context.Canceled, <-done)
			assert.Equal(t, before, srv.Queries())
		}
		synctest.Wait()
		assert.Zero(t, pool.Stats().InUse)
	})
}

func TestFirstComeFirstServed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db, _ := pooltest.OpenFake(t, fakedriver.New(), pooltest.Limit(1))
		c := pooltest.Take(t, db)
		var order []int
		var wg sync.WaitGroup
		for i := range 50 {
			wg.Go(func() {
				c, err := db.Conn(t.Context())
				if assert.NoError(t, err) {
					order = append(order, i) // one holder at a time
					time.Sleep(time.Millisecond)
					c.Close()
				}
			})
			synctest.Wait()
		}
		c.Close()
		wg.Wait()
		assert.True(t, slices.IsSorted(order), "served in the order of %v", order)
		assert.Len(t, order, 50)
	})
}

// load runs open-loop arrivals against db: rate a second for the given time, each with the deadline, and returns the
// latencies of those that were answered in time and the number of those that were not.
func load(t *testing.T, db *sql.DB, rate float64, length, deadline time.Duration, rnd *rand.Rand) (answered []time.Duration, failed int) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	start := time.Now()
	for at := time.Duration(0); at < length; at += time.Duration(rnd.ExpFloat64() / rate * float64(time.Second)) {
		time.Sleep(time.Until(start.Add(at)))
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), deadline)
			defer cancel()
			start := time.Now()
			_, err := db.ExecContext(ctx, "SELECT pg_sleep(0.02)")
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				failed++
				return
			}
			answered = append(answered, time.Since(start))
		})
	}
	wg.Wait()
	slices.Sort(answered)
	return answered, failed
}

// Five connections and queries of 20 ms make 250 a second. In virtual time the figures are exact up to the seed.
func TestOverload(t *testing.T) {
	const capacity = 250.0
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	for _, c := range []struct {
		load     float64
		inTime   float64       // of the smaller of what was offered and the capacity, answered within the deadline
		median   time.Duration // of those answered
		noFailed bool
	}{
		{load: 0.5, inTime: 1, median: 30 * time.Millisecond, noFailed: true},
		{load: 0.8, inTime: 1, median: 40 * time.Millisecond, noFailed: true},
		{load: 2, inTime: 0.95, median: 100 * time.Millisecond},
		{load: 4, inTime: 0.95, median: 100 * time.Millisecond},
	} {
		t.Run(fmt.Sprintf("Load=%g", c.load), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := fakedriver.New()
				srv.OnQuery(func(ctx context.Context, _ *fakedriver.Conn, _ string, _ []driver.NamedValue) error {
					select {
					case <-time.After(20 * time.Millisecond):
						return nil
					case <-ctx.Done():
						return ctx.Err()
					}
				})
				db, pool := pooltest.OpenFake(t, srv, pooltest.Limit(5))
				const length = 30 * time.Second
				answered, failed := load(t, db, c.load*capacity, length, 500*time.Millisecond, rand.New(rand.NewPCG(seed, 0)))
				offered := float64(len(answered)+failed) / length.Seconds()
				possible := min(capacity, offered)
				got := float64(len(answered)) / length.Seconds()
				median := answered[len(answered)/2]
				t.Logf("offered %.0f/s, answered in time %.0f/s (%.1f %% of what is possible), median %v, p99 %v",
					offered, got, 100*got/possible, median, answered[len(answered)*99/100])
				assert.GreaterOrEqual(t, got, c.inTime*possible*0.9999)
				assert.LessOrEqual(t, median, c.median)
				if c.noFailed {
					assert.Zero(t, failed)
				}
				synctest.Wait()
				assert.Zero(t, pool.Stats().InUse)
			})
		})
	}
}

// The order is first come, first served until a waiter cannot be served in time, newest first while there are such,
// and first come, first served again a tenth of a second after the last of them.
func TestOrderSwitches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db, _ := pooltest.OpenFake(t, fakedriver.New(), pooltest.Limit(1))
		var mu sync.Mutex
		var order []string // guarded by mu
		served := func(name string) { mu.Lock(); order = append(order, name); mu.Unlock() }
		var wg sync.WaitGroup
		enqueue := func(name string, patience, hold time.Duration) {
			wg.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				defer cancel()
				c, err := db.Conn(ctx)
				if err != nil {
					served(name + " left")
					return
				}
				served(name)
				time.Sleep(hold)
				c.Close()
			})
			synctest.Wait()
		}
		const hold = 10 * time.Millisecond
		// Teach the pool what a hold is like: all in order.
		c := pooltest.Take(t, db)
		for i := range 20 {
			enqueue(fmt.Sprint("calm", i), time.Minute, hold)
		}
		c.Close()
		wg.Wait()
		var calm []string
		for i := range 20 {
			calm = append(calm, fmt.Sprint("calm", i))
		}
		require.Equal(t, calm, order)

		order = nil
		c = pooltest.Take(t, db)
		enqueue("hopeless", 8*time.Millisecond, hold) // less than a hold
		enqueue("older", time.Minute, hold)
		enqueue("newer", time.Minute, hold)
		c.Close() // the longest waiter cannot make it: newest first
		wg.Wait()
		require.Equal(t, []string{"newer", "hopeless left", "older"}, order)

		order = nil
		time.Sleep(100 * time.Millisecond)
		c = pooltest.Take(t, db)
		enqueue("first", time.Minute, hold)
		enqueue("second", time.Minute, hold)
		c.Close()
		wg.Wait()
		require.Equal(t, []string{"first", "second"}, order)
	})
}

func TestSpike(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := fakedriver.New()
		srv.OnDial(func(context.Context) error { time.Sleep(150 * time.Millisecond); return nil })
		srv.OnQuery(func(context.Context, *fakedriver.Conn, string, []driver.NamedValue) error {
			time.Sleep(2 * time.Millisecond)
			return nil
		})
		db, pool := pooltest.OpenFake(t, srv, func(c *lifeguard.Config) { pooltest.Limit(50)(c); c.MinConnections = 5 })
		time.Sleep(10 * time.Second)
		require.Equal(t, 5, pool.Stats().Idle, "min_connections are opened at the start")

		start := time.Now()
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() {
				_, err := db.ExecContext(t.Context(), "SELECT 1")
				assert.NoError(t, err)
			})
		}
		wg.Wait()
		assert.LessOrEqual(t, time.Since(start), 60*time.Millisecond)
		time.Sleep(time.Second)
		assert.LessOrEqual(t, srv.Dials(), 7)
		assert.Equal(t, srv.Dials(), pool.Stats().Open, "a dial nobody needed any more is an idle connection")
	})
}

// Demand that lasts fills the pool within a few rounds of dials.
func TestGrowth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := fakedriver.New()
		srv.OnDial(func(context.Context) error { time.Sleep(100 * time.Millisecond); return nil })
		db, pool := pooltest.OpenFake(t, srv, pooltest.Limit(64))
		var wg sync.WaitGroup
		for range 64 {
			wg.Go(func() {
				c, err := db.Conn(t.Context())
				if assert.NoError(t, err) {
					time.Sleep(10 * time.Second)
					c.Close()
				}
			})
		}
		time.Sleep(401 * time.Millisecond)
		assert.Equal(t, 64, pool.Stats().InUse)
		wg.Wait()
		assert.Equal(t, 64, srv.Dials())
	})
}

func TestCallerGivesUpDuringDial(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := fakedriver.New()
		type key struct{}
		var seen any
		srv.OnDial(func(ctx context.Context) error {
			seen = ctx.Value(key{})
			time.Sleep(time.Second)
			return ctx.Err()
		})
		db, pool := pooltest.OpenFake(t, srv, nil)
		ctx, cancel := context.WithTimeout(context.WithValue(t.Context(), key{}, "value"), 100*time.Millisecond)
		defer cancel()
		_, err := db.ExecContext(ctx, "SELECT 1")
		assert.Equal(t, context.DeadlineExceeded, err)
		time.Sleep(time.Second)
		synctest.Wait()
		assert.Equal(t, "value", seen, "the dial has the values of the caller's context")
		assert.Equal(t, 1, pool.Stats().Idle)

		srv.OnDial(func(context.Context) error { return errors.New("no second dial") })
		_, err = db.ExecContext(t.Context(), "SELECT 1")
		assert.NoError(t, err)
	})
}

func TestServerDown(t *testing.T) {
	refused := fmt.Errorf("dial tcp 192.0.2.1:5432: connect: %w", syscall.ECONNREFUSED)
	synctest.Test(t, func(t *testing.T) {
		srv := fakedriver.New()
		srv.OnDial(func(context.Context) error { time.Sleep(time.Millisecond); return refused })
		db, pool := pooltest.OpenFake(t, srv, nil)
		var wg sync.WaitGroup
		for range 1000 {
			wg.Go(func() {
				start := time.Now()
				_, err := db.ExecContext(t.Context(), "SELECT 1")
				assert.Equal(t, 20*time.Second, time.Since(start))
				assert.ErrorIs(t, err, lifeguard.ErrPoolTimeout)
				assert.ErrorIs(t, err, syscall.ECONNREFUSED)
				assert.ErrorContains(t, err, "within 20s: dial tcp 192.0.2.1:5432: connect: connection refused")
			})
		}
		wg.Wait()
		assert.LessOrEqual(t, srv.MaxDialing(), 2)
		assert.Less(t, srv.Dials(), 20*4, "a few attempts a second")

		// A server that comes back is found within the back-off.
		done := make(chan time.Duration)
		go func() {
			start := time.Now()
			_, err := db.ExecContext(t.Context(), "SELECT 1")
			assert.NoError(t, err)
			done <- time.Since(start)
		}()
		time.Sleep(5 * time.Second)
		srv.OnDial(nil)
		assert.LessOrEqual(t, <-done, 5*time.Second+500*time.Millisecond)
		assert.Zero(t, pool.Stats().Waiting)
	})
}

// What waiting cannot mend is told at once, as on the plain driver, and with the driver's own error.
func TestDialRefusedForGood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := fakedriver.New()
		wrong := errors.New("password authentication failed")
		srv.OnDial(func(context.Context) error { return wrong })
		db, _ := pooltest.OpenFake(t, srv, nil)
		start := time.Now()
		assert.Equal(t, wrong, db.PingContext(t.Context()))
		assert.Zero(t, time.Since(start))

		// With a connection open, those who wait are served by it.
		time.Sleep(time.Second)
		srv.OnDial(nil)
		c := pooltest.Take(t, db)
		srv.OnDial(func(context.Context) error { return wrong })
		go func() { time.Sleep(5 * time.Second); c.Close() }()
		assert.NoError(t, db.PingContext(t.Context()))
	})
}

func TestDialHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := fakedriver.New()
		srv.OnDial(func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
		db, _ := pooltest.OpenFake(t, srv, nil)
		start := time.Now()
		err := db.PingContext(t.Context())
		assert.Equal(t, 20*time.Second, time.Since(start))
		require.ErrorIs(t, err, lifeguard.ErrPoolTimeout)
		assert.Regexp(t, `within 20s: connecting to \S* (has not finished|was given up) after 20s`, err.Error())
		assert.Error(t, errors.Unwrap(err))

		// One that hangs does not keep the others from trying.
		srv.OnDial(func(ctx context.Context) error {
			if srv.Dialing() <= 2 {
				<-ctx.Done()
			}
			return ctx.Err()
		})
		time.Sleep(time.Minute)
		start = time.Now()
		assert.NoError(t, db.PingContext(t.Context()))
		assert.LessOrEqual(t, time.Since(start), 2*time.Second)
	})
}

// Dials that were lost make room for others once a second, so that a server which is back is found, whatever the limit.
func TestLostDialsMakeRoom(t *testing.T) {
	for _, n := range []int{2, 3, 10} {
		t.Run(fmt.Sprint("Limit=", n), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := fakedriver.New()
				lost := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
				srv.OnDial(lost)
				db, _ := pooltest.OpenFake(t, srv, pooltest.Limit(n))
				answered := make(chan error, 1)
				go func() { answered <- db.PingContext(t.Context()) }()
				time.Sleep(15*time.Second + time.Millisecond)
				assert.Equal(t, n, srv.Dialing())
				assert.LessOrEqual(t, srv.Dials(), 17, "about one a second")
				srv.OnDial(nil)
				back := time.Now()
				require.NoError(t, <-answered)
				assert.LessOrEqual(t, time.Since(back), time.Second)
				assert.LessOrEqual(t, srv.MaxDialing(), n)
			})
		})
	}
}

// Lost dials that time out one after another, when the server is back already, do not put off the next one.
func TestLostDialsDoNotHoldUp(t *testing.T) {
	for phase := range 20 {
		synctest.Test(t, func(t *testing.T) {
			srv := fakedriver.New()
			srv.OnDial(func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
			db, _ := pooltest.OpenFake(t, srv, func(c *lifeguard.Config) {
				pooltest.Limit(5)(c)
				c.PoolTimeout = time.Second
			})
			var callers sync.WaitGroup
			var served atomic.Bool
			for range 10 {
				callers.Go(func() {
					for !served.Load() {
						if db.PingContext(t.Context()) == nil {
							served.Store(true)
						}
					}
				})
			}
			time.Sleep(10*time.Second + time.Duration(phase)*50*time.Millisecond)
			assert.LessOrEqual(t, srv.Dials(), 50, "a few a second")
			srv.OnDial(nil)
			back := time.Now()
			callers.Wait()
			assert.LessOrEqual(t, time.Since(back), 400*time.Millisecond, "phase %d", phase)
		})
	}
}

// A server that is slow is not given up for a lost one again and again.
func TestSlowDialsAreLeftTime(t *testing.T) {
	for n, want := range map[int]time.Duration{
		1:  6 * time.Second, // the third try is the first that has three seconds
		2:  3 * time.Second,
		10: 3 * time.Second,
	} {
		t.Run(fmt.Sprint("Limit=", n), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := fakedriver.New()
				srv.OnDial(func(ctx context.Context) error {
					select {
					case <-ctx.Done():
						return ctx.Err()
					case <-time.After(3 * time.Second):
						return nil
					}
				})
				db, _ := pooltest.OpenFake(t, srv, pooltest.Limit(n))
				start := time.Now()
				require.NoError(t, db.PingContext(t.Context()))
				assert.Equal(t, want, time.Since(start))
			})
		})
	}
}

// However many connections of a handle have gone silent, its caller waits for all of them together no longer than
// pool_timeout, though database/sql makes three attempts.
func TestSilentConnectionsShareOnePatience(t *testing.T) {
	for _, dials := range []bool{true, false} {
		t.Run(fmt.Sprint("Dials=", dials), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := fakedriver.New()
				db, _ := pooltest.OpenFake(t, srv, pooltest.Limit(4))
				broken, lost := pooltest.Take(t, db), []*sql.Conn{pooltest.Take(t, db), pooltest.Take(t, db), pooltest.Take(t, db)}
				for _, c := range lost {
					require.NoError(t, c.Close())
				}
				srv.OnQuery(func(context.Context, *fakedriver.Conn, string, []driver.NamedValue) error { return driver.ErrBadConn })
				_, err := broken.ExecContext(t.Context(), "UPDATE")
				require.ErrorIs(t, err, driver.ErrBadConn)
				broken.Close()
				srv.OnQuery(nil)

				srv.OnPing(func(ctx context.Context, _ *fakedriver.Conn) error { <-ctx.Done(); return ctx.Err() })
				if !dials {
					srv.OnDial(func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
				}
				start := time.Now()
				_, err = db.ExecContext(t.Context(), "UPDATE")
				if dials {
					require.NoError(t, err)
					assert.LessOrEqual(t, time.Since(start), 10*time.Second)
					return
				}
				require.ErrorIs(t, err, lifeguard.ErrPoolTimeout)
				assert.Equal(t, 20*time.Second, time.Since(start))
				assert.ErrorContains(t, err, "has not")
			})
		})
	}
}

// tooMany is what lib/pq's error for it looks like to lifeguard.
type tooMany struct{}

func (tooMany) Error() string { return "sorry, too many clients already" }

func (tooMany) SQLState() string { return "53300" }

func TestTooManyConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := fakedriver.New()
		db, _ := pooltest.OpenFake(t, srv, nil)
		c := pooltest.Take(t, db)
		srv.OnDial(func(context.Context) error { return tooMany{} })
		go func() { time.Sleep(3 * time.Second); c.Close() }()
		start := time.Now()
		assert.NoError(t, db.PingContext(t.Context()), "served by the connection there is")
		assert.Equal(t, 3*time.Second, time.Since(start))
	})
	synctest.Test(t, func(t *testing.T) {
		srv := fakedriver.New()
		srv.OnDial(func(context.Context) error { return tooMany{} })
		db, _ := pooltest.OpenFake(t, srv, nil)
		err := db.PingContext(t.Context())
		var cause tooMany
		require.ErrorAs(t, err, &cause)
		assert.ErrorContains(t, err, "too many clients already")
		assert.ErrorContains(t, err, "lower connection_limit, or raise max_connections")
	})
}

func TestLifetimes(t *testing.T) {
	t.Run("Jitter", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			srv := fakedriver.New()
			var mu sync.Mutex
			ages := map[int]time.Duration{}
			born := map[int]time.Time{}
			srv.OnClose(func(c *fakedriver.Conn) error {
				mu.Lock()
				defer mu.Unlock()
				ages[c.ID()] = time.Since(born[c.ID()])
				return nil
			})
			srv.OnQuery(func(_ context.Context, c *fakedriver.Conn, _ string, _ []driver.NamedValue) error {
				mu.Lock()
				defer mu.Unlock()
				if _, ok := born[c.ID()]; !ok {
					born[c.ID()] = time.Now()
				}
				return nil
			})
			db, _ := pooltest.OpenFake(t, srv, func(c *lifeguard.Config) {
				pooltest.Limit(20)(c)
				c.MaxConnectionLifetime = time.Hour
				c.MaxIdleConnectionLifetime = 0
			})
			// In use all the time, by as many callers as there are connections.
			var wg sync.WaitGroup
			for range 20 {
				wg.Go(func() {
					for start := time.Now(); time.Since(start) < 2*time.Hour; time.Sleep(3 * time.Second) {
						c := pooltest.Take(t, db)
						_, err := c.ExecContext(t.Context(), "SELECT 1")
						assert.NoError(t, err)
						time.Sleep(3 * time.Second)
						c.Close()
					}
				})
			}
			wg.Wait()
			mu.Lock() // the pool goes on closing what has expired
			closed := maps.Clone(ages)
			mu.Unlock()
			require.GreaterOrEqual(t, len(closed), 20)
			distinct := map[time.Duration]bool{}
			for _, age := range closed {
				assert.GreaterOrEqual(t, age, 54*time.Minute)
				assert.LessOrEqual(t, age, time.Hour+10*time.Second)
				distinct[age.Round(time.Second)] = true
			}
			assert.Greater(t, len(distinct), 10, "they do not all expire together")
		})
	})
	t.Run("Idle", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			srv := fakedriver.New()
			db, pool := pooltest.OpenFake(t, srv, func(c *lifeguard.Config) { c.MaxIdleConnectionLifetime = time.Minute })
			var conns []*sql.Conn
			for range 10 {
				conns = append(conns, pooltest.Take(t, db))
			}
			for _, c := range conns {
				c.Close()
			}
			time.Sleep(50 * time.Second)
			assert.Equal(t, 10, pool.Stats().Idle)
			time.Sleep(75 * time.Second) // database/sql looks once per idle time
			assert.Zero(t, srv.Open())
			assert.EqualValues(t, 10, pool.Stats().Closed)
		})
	})
	t.Run("Minimum", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			srv := fakedriver.New()
			db, pool := pooltest.OpenFake(t, srv, func(c *lifeguard.Config) {
				c.MinConnections = 3
				c.MaxIdleConnectionLifetime = time.Minute
			})
			var conns []*sql.Conn
			for range 10 {
				conns = append(conns, pooltest.Take(t, db))
			}
			for _, c := range conns {
				c.Close()
			}
			for range 100 {
				time.Sleep(10 * time.Second)
				require.GreaterOrEqual(t, pool.Stats().Open, 3)
			}
			assert.Equal(t, 3, pool.Stats().Open)
			assert.Equal(t, 10, srv.Dials(), "they are kept, not opened again and again")

			// Those that die are replaced.
			pool.Reset()
			time.Sleep(time.Second)
			assert.Equal(t, 3, pool.Stats().Open)
			assert.Equal(t, 13, srv.Dials())
		})
	})
	t.Run("MaxIdle", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			srv := fakedriver.New()
			db, _ := pooltest.OpenFake(t, srv, func(c *lifeguard.Config) { c.MaxIdleConnections = 0 })
			for range 5 {
				_, err := db.ExecContext(t.Context(), "SELECT 1")
				require.NoError(t, err)
			}
			time.Sleep(3 * time.Second)
			assert.Zero(t, srv.Open(), "0 means none")
		})
	})
}

// An idle lease is taken back after a second, and its connection goes on serving.
func TestIdleLeasesAreTakenBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := fakedriver.New()
		db, pool := pooltest.OpenFake(t, srv, nil)
		for range 5 {
			_, err := db.ExecContext(t.Context(), "SELECT 1")
			require.NoError(t, err)
			time.Sleep(time.Minute)
		}
		assert.Equal(t, 1, srv.Dials())
		assert.Equal(t, 1, pool.Stats().Idle)
	})
}

func TestSetConnectionLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := fakedriver.New()
		srv.OnQuery(func(context.Context, *fakedriver.Conn, string, []driver.NamedValue) error {
			time.Sleep(10 * time.Millisecond)
			return nil
		})
		db, pool := pooltest.OpenFake(t, srv, pooltest.Limit(10))
		ctx, stop := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		var served atomic.Int64
		for range 40 {
			wg.Go(func() {
				for ctx.Err() == nil {
					_, err := db.ExecContext(t.Context(), "SELECT 1")
					assert.NoError(t, err, "nobody is lost")
					served.Add(1)
				}
			})
		}
		for _, n := range []int{10, 3, 20, 1, 7} {
			require.NoError(t, pool.SetConnectionLimit(n))
			time.Sleep(15 * time.Millisecond) // what is under way comes back
			for range 50 {
				time.Sleep(7 * time.Millisecond)
				assert.LessOrEqual(t, srv.Open(), n)
			}
			assert.Equal(t, n, srv.Open(), "and it is used to the full")
			st := pool.Stats()
			assert.Equal(t, n, st.Limit)
			assert.Equal(t, n, pool.Config().ConnectionLimit)
			assert.Equal(t, n, pool.Config().MaxIdleConnections)
		}
		stop()
		wg.Wait()
		assert.ErrorContains(t, pool.SetConnectionLimit(0), "connection_limit")
		assert.Positive(t, served.Load())
	})
}

func TestReset(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := fakedriver.New()
		db, pool := pooltest.OpenFake(t, srv, nil)
		held := pooltest.Take(t, db)
		var conns []*sql.Conn
		for range 4 {
			conns = append(conns, pooltest.Take(t, db))
		}
		for _, c := range conns {
			c.Close()
		}
		pool.Reset()
		synctest.Wait()
		assert.Equal(t, 1, srv.Open(), "idle ones close at once")
		_, err := held.ExecContext(t.Context(), "SELECT 1")
		assert.NoError(t, err, "those in use go on")
		held.Close()
		synctest.Wait()
		assert.Zero(t, srv.Open(), "and close when they come back")
		_, err = db.ExecContext(t.Context(), "SELECT 1")
		assert.NoError(t, err)
	})
}

// After the server dropped what was idle, callers do not see it, not even many at once: the third attempt of
// database/sql must not be given another dead connection.
func TestIdleConnectionsDied(t *testing.T) {
	for _, callers := range []int{1, 2, 8, 30} {
		t.Run(fmt.Sprintf("Callers=%d", callers), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := fakedriver.New()
				db, pool := pooltest.OpenFake(t, srv, nil)
				// Also when the handle is left with as many husks as database/sql makes attempts.
				for _, rest := range []time.Duration{0, 10 * time.Second} { // idle as leases, idle in the inner pool
					var conns []*sql.Conn
					for range 10 {
						conns = append(conns, pooltest.Take(t, db))
					}
					for _, c := range conns {
						c.Close()
					}
					time.Sleep(rest)
					for _, c := range srv.Conns() {
						c.Kill()
					}
					var wg sync.WaitGroup
					for range callers {
						wg.Go(func() {
							var n int
							assert.NoError(t, db.QueryRowContext(t.Context(), "SELECT 1").Scan(&n))
						})
					}
					wg.Wait()
				}
				synctest.Wait()
				assert.Zero(t, pool.Stats().InUse)
			})
		})
	}
}

func TestDriverPanics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := fakedriver.New()
		db, pool := pooltest.OpenFake(t, srv, pooltest.Limit(2))
		boom := func(name string, set func(), f func()) {
			set()
			assert.PanicsWithValue(t, name, f)
			srv.OnDial(nil)
			srv.OnQuery(nil)
			srv.OnCommit(nil)
			srv.OnNext(nil)
			time.Sleep(time.Second)
			st := pool.Stats()
			assert.Zero(t, st.InUse, "after %s", name)
			assert.LessOrEqual(t, srv.Open(), 2)
		}
		for range 5 { // more often than there are places
			boom("dial", func() {
				pool.Reset()
				srv.OnDial(func(context.Context) error { panic("dial") })
			}, func() { db.PingContext(t.Context()) })
			boom("exec", func() {
				srv.OnQuery(func(context.Context, *fakedriver.Conn, string, []driver.NamedValue) error { panic("exec") })
			}, func() { db.ExecContext(t.Context(), "x") })
			boom("commit", func() {
				srv.OnCommit(func(*fakedriver.Conn) error { panic("commit") })
			}, func() {
				tx, err := db.BeginTx(t.Context(), nil)
				require.NoError(t, err)
				tx.Commit()
			})
			boom("next", func() {
				srv.OnNext(func(*fakedriver.Conn, int) error { panic("next") })
			}, func() {
				rows, err := db.QueryContext(t.Context(), "x")
				require.NoError(t, err)
				rows.Next()
			})
		}
	})
}

// A handle closes statements of idle connections whenever it likes; the connection may be somebody else's by then.
func TestStatementsOfRevokedLeases(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := fakedriver.New()
		db, _ := pooltest.OpenFake(t, srv, pooltest.Limit(2))
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for range 50 {
					st, err := db.PrepareContext(t.Context(), "SELECT 1")
					if !assert.NoError(t, err) {
						return
					}
					for range 3 {
						_, err := st.ExecContext(t.Context())
						assert.NoError(t, err)
						time.Sleep(time.Duration(rand.Int64N(int64(time.Second))))
					}
					assert.NoError(t, st.Close())
				}
			})
		}
		wg.Wait()
		time.Sleep(time.Minute)
		assert.Zero(t, srv.Stmts())
	})
}

func TestCloseHandle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := fakedriver.New()
		db, pool := pooltest.OpenFake(t, srv, pooltest.Limit(1))
		tx, err := db.BeginTx(t.Context(), nil)
		require.NoError(t, err)
		waiter := make(chan error, 1)
		go func() { waiter <- db.PingContext(t.Context()) }()
		synctest.Wait()
		require.NoError(t, db.Close())
		assert.ErrorIs(t, <-waiter, lifeguard.ErrPoolClosed)
		_, err = tx.ExecContext(t.Context(), "INSERT")
		assert.NoError(t, err, "as on the plain driver, what is under way goes on")
		assert.NoError(t, tx.Commit())
		synctest.Wait()
		assert.Zero(t, srv.Open())
		assert.Zero(t, pool.Stats().InUse)
		assert.Error(t, db.PingContext(t.Context()))
	})
}

func TestPoolOfForeignHandle(t *testing.T) {
	db := sql.OpenDB(fakedriver.New().Connector())
	defer db.Close()
	_, ok := lifeguard.PoolOf(db)
	assert.False(t, ok)
	_, ok = lifeguard.PoolOf(nil)
	assert.False(t, ok)
	assert.Equal(t, 1, lifeguard.Unwrap(1))
}

func TestRegister(t *testing.T) {
	srv := fakedriver.New()
	lifeguard.Register("registered", srv.Driver(), pooltest.Quiet)
	assert.Panics(t, func() { lifeguard.Register("registered", srv.Driver()) }, "as sql.Register")
	assert.Panics(t, func() { lifeguard.Register("nil", nil) })
	db, err := sql.Open("registered", "host=example connection_limit=3")
	require.NoError(t, err)
	defer db.Close()
	require.NoError(t, db.PingContext(t.Context()))
	assert.Equal(t, []string{"host=example"}, srv.DSNs())
	pool, ok := lifeguard.PoolOf(db)
	require.True(t, ok)
	assert.Equal(t, 3, pool.Config().ConnectionLimit)
}

func TestOpenErrors(t *testing.T) {
	_, err := lifeguard.Open("no such driver", "")
	assert.ErrorContains(t, err, "no such driver")
	_, err = lifeguard.Open("", "")
	assert.ErrorContains(t, err, "name of a registered driver")
	_, err = lifeguard.OpenDB(nil)
	assert.Error(t, err)
	for dsn, wanted := range map[string]string{
		"postgres://u:hunter2@h/db?connection_limit=none":   "connection_limit",
		"postgres://u:hunter2@h/db?connection_limt=3":       "connection_limit",
		"postgres://u:hunter2@h/db?pool_timeout=-1":         "pool_timeout",
		"postgres://u:hun ter2@h/db":                        "",
		"postgres://u:hunter2@h:port/db":                    "",
		"postgres://u:hunt/er2@h/db":                        "",
		"postgres://u:hunter2%zz@h/db":                      "",
		"host=h password=hunter2 user='":                    "",
		"postgres://u:hunter2@h/db?sslmode=hunter2":         "",
		"host=h password='hunter2 user=u connection_limit=": "",
	} {
		_, err := sql.Open("lifeguard", dsn)
		if assert.Error(t, err, dsn) {
			assert.ErrorContains(t, err, wanted)
			assert.NotContains(t, err.Error(), "hunt")
			assert.NotContains(t, err.Error(), "er2")
			for e := err; e != nil; e = errors.Unwrap(e) {
				assert.NotContains(t, fmt.Sprintf("%v %+v", e, e), "hunter2")
			}
		}
	}
}

func TestSharedPools(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := fakedriver.New()
		lifeguard.Register("shared", srv.Driver(), pooltest.Quiet)
		const dsn = "host=a connection_limit=2 pool_name=shop"
		one, err := sql.Open("shared", dsn)
		require.NoError(t, err)
		two, err := sql.Open("shared", dsn)
		require.NoError(t, err)
		p1, _ := lifeguard.PoolOf(one)
		p2, _ := lifeguard.PoolOf(two)
		assert.Same(t, p1, p2)
		_, err = sql.Open("shared", "host=b password=hunter2 connection_limit=2 pool_name=shop")
		require.ErrorContains(t, err, "pool_name=shop")
		assert.ErrorContains(t, err, "another pool_name")
		assert.NotContains(t, err.Error(), "hunter2")

		// The limit is common, and what one leaves idle serves the other.
		a, b := pooltest.Take(t, one), pooltest.Take(t, two)
		done := make(chan error, 1)
		go func() { done <- two.PingContext(t.Context()) }()
		synctest.Wait()
		assert.Equal(t, 1, p1.Stats().Waiting)
		a.Close()
		assert.NoError(t, <-done)
		assert.Equal(t, 2, srv.Dials())
		b.Close()
		for range 10 {
			assert.NoError(t, one.PingContext(t.Context()))
			assert.NoError(t, two.PingContext(t.Context()))
		}
		assert.Equal(t, 2, srv.Dials())

		// The first to leave only leaves.
		require.NoError(t, one.Close())
		assert.NoError(t, two.PingContext(t.Context()))
		assert.Error(t, one.PingContext(t.Context()))
		require.NoError(t, two.Close())
		assert.Zero(t, srv.Open())

		// The name is free again.
		three, err := sql.Open("shared", "host=c pool_name=shop")
		require.NoError(t, err)
		assert.NoError(t, three.PingContext(t.Context()))
		assert.NoError(t, three.Close())
	})
}

func TestPoolNameOfConnector(t *testing.T) {
	db, err := lifeguard.OpenDB(fakedriver.New().Connector())
	require.NoError(t, err)
	defer db.Close()
	p, _ := lifeguard.PoolOf(db)
	assert.False(t, strings.Contains(p.Config().PoolName, " "), p.Config().PoolName)
	assert.NotEmpty(t, p.Config().PoolName)
}

// A statement of a sql.Conn may be closed at any time after its connection was returned: also when that is in somebody
// else's hands, who must not notice.
func TestStatementClosedLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := fakedriver.New()
		db, _ := pooltest.OpenFake(t, srv, pooltest.Limit(1))
		for range 3 {
			c := pooltest.Take(t, db)
			st, err := c.PrepareContext(t.Context(), "INSERT")
			require.NoError(t, err)
			next := make(chan *sql.Conn)
			go func() { next <- pooltest.Take(t, db) }()
			synctest.Wait()
			require.NoError(t, c.Close())
			c = <-next
			require.NoError(t, st.Close())
			other, err := c.PrepareContext(t.Context(), "UPDATE")
			require.NoError(t, err)
			require.NoError(t, st.Close())
			_, err = other.ExecContext(t.Context())
			assert.NoError(t, err)
			assert.NoError(t, other.Close())
			assert.NoError(t, c.Close())
		}
	})
}

// TestStatementsClosedLate is TestStatementClosedLate at random, for the race detector.
func TestStatementsClosedLate(t *testing.T) {
	rnd := pooltest.Seed(t)
	srv := fakedriver.New()
	db, pool := pooltest.OpenFake(t, srv, pooltest.Limit(2))
	var wg sync.WaitGroup
	for range 6 {
		rnd := rand.New(rand.NewPCG(rnd.Uint64(), 0))
		wg.Go(func() {
			var late []*sql.Stmt
			for range 500 {
				c, err := db.Conn(t.Context())
				if !assert.NoError(t, err) {
					return
				}
				for range rnd.IntN(3) {
					st, err := c.PrepareContext(t.Context(), "INSERT")
					if assert.NoError(t, err) {
						_, err = st.ExecContext(t.Context())
						assert.NoError(t, err)
						late = append(late, st)
					}
				}
				if rnd.IntN(2) == 0 {
					assert.NoError(t, c.Close())
				}
				for len(late) > rnd.IntN(4) {
					assert.NoError(t, late[0].Close())
					late = late[1:]
				}
				_ = c.Close()
			}
			for _, st := range late {
				assert.NoError(t, st.Close())
			}
		})
	}
	wg.Wait()
	assert.Eventually(t, func() bool { return pool.Stats().InUse == 0 }, 10*time.Second, time.Millisecond) // a dial ends by itself
	assert.Zero(t, srv.Stmts())
}

// Whatever is called at once, the limit of the inner pool is that of the last call.
func TestSetConnectionLimitAtOnce(t *testing.T) {
	srv := fakedriver.New()
	db, pool := pooltest.OpenFake(t, srv, pooltest.Limit(2))
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 100 {
				assert.NoError(t, pool.SetConnectionLimit(1+(i+j)%7))
			}
		})
	}
	wg.Wait()
	n := pool.Stats().Limit
	for range n {
		defer pooltest.Take(t, db).Close()
	}
	assert.Equal(t, n, srv.Open())
}

// A hundred callers on five connections, without pause: all wait about as long, and no connection is ever idle.
func TestManyOnFew(t *testing.T) {
	rnd := pooltest.Seed(t)
	synctest.Test(t, func(t *testing.T) {
		const callers, connections = 100, 5
		srv := fakedriver.New()
		var mu sync.Mutex // guards rnd and busy
		var busy time.Duration
		srv.OnQuery(func(context.Context, *fakedriver.Conn, string, []driver.NamedValue) error {
			mu.Lock()
			took := time.Duration(15+rnd.IntN(11)) * time.Millisecond
			busy += took
			mu.Unlock()
			time.Sleep(took)
			return nil
		})
		db, _ := pooltest.OpenFake(t, srv, pooltest.Limit(connections))
		var all []*sql.Conn
		for range connections {
			all = append(all, pooltest.Take(t, db))
		}
		for _, c := range all {
			require.NoError(t, c.Close())
		}
		latencies := make([][]time.Duration, callers)
		start := time.Now()
		var wg sync.WaitGroup
		for i := range callers {
			wg.Go(func() {
				for range 30 {
					began := time.Now()
					_, err := db.ExecContext(t.Context(), "UPDATE")
					assert.NoError(t, err)
					latencies[i] = append(latencies[i], time.Since(began))
				}
			})
		}
		wg.Wait()
		took := time.Since(start)
		settled := []time.Duration{}
		for _, of := range latencies {
			settled = append(settled, of[1:]...) // the first ones came all at once
		}
		slices.Sort(settled)
		median, p99 := settled[len(settled)/2], settled[len(settled)*99/100]
		t.Logf("median %v, p99 %v", median, p99)
		assert.LessOrEqual(t, p99, median*13/10)
		assert.Less(t, took, busy/connections+time.Second/20, "the connections were idle while somebody waited")
	})
}

// No counter of Stats counts down, also while leases change hands and connections are closed.
func TestStatsCountUp(t *testing.T) {
	random := pooltest.Seed(t)
	db, pool := pooltest.OpenFake(t, fakedriver.New(), pooltest.Limit(2))
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	var workers sync.WaitGroup
	for range 8 {
		seed := random.Uint64()
		workers.Go(func() {
			random := rand.New(rand.NewPCG(seed, 0))
			for ctx.Err() == nil {
				_, err := db.ExecContext(t.Context(), "UPDATE")
				assert.NoError(t, err)
				if random.IntN(50) == 0 {
					pool.Reset()
				}
			}
		})
	}
	var looks int
	for last := pool.Stats(); ctx.Err() == nil; looks++ {
		st := pool.Stats()
		if st.Acquired < last.Acquired || st.Closed < last.Closed || st.Opened < last.Opened {
			t.Errorf("%+v after %+v", st, last)
			break
		}
		last = st
	}
	workers.Wait()
	t.Logf("%d looks, %+v", looks, pool.Stats())
}
