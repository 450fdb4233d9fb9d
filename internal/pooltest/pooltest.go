package pooltest

import (
	"context"
	"database/sql"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/go-lifeguard/lifeguard"
	"github.com/go-lifeguard/lifeguard/internal/pgtest"
)

// Median returns the upper median of v.
func Median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	return v[len(v)/2]
}

// Run is for TestMain. It runs the tests, stops the PostgreSQL that they shared, and fails if goroutines outlived their
// handles. The options in ignored are asked for after the tests; they name goroutines that may be left.
func Run(m *testing.M, ignored ...func() []goleak.Option) int {
	code := pgtest.Run(m)
	var options []goleak.Option
	for _, o := range ignored {
		options = append(options, o()...)
	}
	if err := goleak.Find(options...); err != nil {
		fmt.Fprintln(os.Stderr, "after all tests:", err)
		code = max(code, 1)
	}
	return code
}

var numbers atomic.Int64

// Number returns 1, 2, 3 and so on, for names that occur once in a process.
func Number() int64 { return numbers.Add(1) }

// Eventually asks until ok, for at most 20 s. It is for events in another process, which nothing announces.
func Eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Errorf("not within 20s: %s", what)
			return
		}
	}
}

// PoolOf returns the pool behind db, which must be a handle of lifeguard.
func PoolOf(t testing.TB, db *sql.DB) *lifeguard.Pool {
	t.Helper()
	pool, ok := lifeguard.PoolOf(db)
	require.True(t, ok)
	return pool
}

// Settled waits until nothing is in use and no caller waits. After the end of a context database/sql returns connections
// from its own goroutines, which a caller cannot wait for.
func Settled(t testing.TB, pool *lifeguard.Pool) {
	t.Helper()
	Eventually(t, "nothing in use and nobody waiting", func() bool {
		st := pool.Stats()
		return st.InUse == 0 && st.Waiting == 0
	})
}

// CancelSoon returns a context that ends within limit.
func CancelSoon(ctx context.Context, rnd *rand.Rand, limit time.Duration) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	timer := time.AfterFunc(time.Duration(rnd.Int64N(int64(limit))), cancel)
	return ctx, func() { timer.Stop(); cancel() }
}

// StormLength is how long a test shakes a pool of a real server: as usual, or a fifth of it with -short.
func StormLength(usual time.Duration) time.Duration {
	if testing.Short() {
		return usual / 5
	}
	return usual
}

// Seed returns random numbers and prints their seed. LIFEGUARD_TEST_SEED repeats a run.
func Seed(t *testing.T) *rand.Rand {
	t.Helper()
	seed := rand.Uint64()
	if s := os.Getenv("LIFEGUARD_TEST_SEED"); s != "" {
		var err error
		seed, err = strconv.ParseUint(s, 10, 64)
		require.NoError(t, err)
	}
	t.Logf("LIFEGUARD_TEST_SEED=%d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}
