package lifeguard

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/go-lifeguard/lifeguard/internal/fakedriver"
)

// fullPool opens a pool whose connections are all held, by holders at different places that ran different queries. A
// wait ends after a millisecond.
func fullPool(tb testing.TB, holders int) *sql.DB {
	cfg := DefaultConfig()
	cfg.ConnectionLimit, cfg.MaxIdleConnections, cfg.PoolTimeout = holders, holders, time.Millisecond
	db, err := OpenDB(fakedriver.New().Connector(), WithConfig(cfg), WithLogger(slog.New(slog.DiscardHandler)))
	require.NoError(tb, err)
	tb.Cleanup(func() { assert.NoError(tb, db.Close()) })
	for i := range holders {
		var c *sql.Conn
		err := ErrPoolTimeout
		for errors.Is(err, ErrPoolTimeout) { // as long as the dial takes longer
			c, err = db.Conn(context.Background())
		}
		require.NoError(tb, err)
		tb.Cleanup(func() { assert.NoError(tb, c.Close()) })
		_, err = c.ExecContext(context.Background(), fmt.Sprintf("UPDATE customers SET name = 'secret', visits = %d WHERE id = %d", i, i))
		require.NoError(tb, err)
	}
	return db
}

// In a storm of timeouts, telling them apart and handing them on resolves no stack and reads no query. Printing does.
func TestTimeoutsAreResolvedWhenPrinted(t *testing.T) {
	db := fullPool(t, 5)
	for range 20 {
		_, err := db.ExecContext(context.Background(), "SELECT 1")
		e, ok := err.(*timeoutError)
		require.True(t, ok, "%T", err)
		require.ErrorIs(t, err, ErrPoolTimeout)
		assert.NotErrorIs(t, err, context.DeadlineExceeded)
		assert.True(t, e.Timeout())
		assert.NoError(t, errors.Unwrap(err))
		require.Nil(t, e.resolved)
	}
	_, err := db.ExecContext(context.Background(), "SELECT 1")
	assert.ErrorContains(t, err, "UPDATE customers SET name = ?, visits = ? WHERE id = ?")
	assert.ErrorContains(t, err, "5 of 5 by lifeguard.fullPool (errors_test.go:")
	assert.NotNil(t, err.(*timeoutError).resolved)
	var public *PoolTimeoutError
	require.ErrorAs(t, err, &public)
	assert.Len(t, public.Holders, 5)
}

// BenchmarkTimeoutStorm is a thousand callers of a full pool whose waits all run out: what the service has to spend on
// callers that it cannot serve. Printing an error resolves the stacks and reads the queries of five holders.
//
//	go test -run '^$' -bench TimeoutStorm .
func BenchmarkTimeoutStorm(b *testing.B) {
	for _, printed := range []bool{false, true} {
		b.Run(fmt.Sprint("Holders=5/Printed=", printed), func(b *testing.B) {
			b.ReportAllocs()
			db := fullPool(b, 5)
			var left, length atomic.Int64
			left.Store(int64(b.N))
			b.ResetTimer()
			var callers sync.WaitGroup
			for range 1000 {
				callers.Go(func() {
					for left.Add(-1) >= 0 {
						_, err := db.ExecContext(context.Background(), "SELECT 1")
						if !errors.Is(err, ErrPoolTimeout) {
							b.Error(err)
						}
						if printed {
							length.Add(int64(len(err.Error())))
						}
					}
				})
			}
			callers.Wait()
		})
	}
}
