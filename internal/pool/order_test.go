package pool_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/go-lifeguard/lifeguard/internal/fakedriver"
	"github.com/go-lifeguard/lifeguard/internal/pooltest"
)

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
	if testing.Short() {
		t.Skip("it takes long")
	}
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
				const length = 12 * time.Second
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
