package handle_test

import (
	"context"
	"database/sql"
	"log/slog"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/go-lifeguard/lifeguard/internal/assembly"
	"github.com/go-lifeguard/lifeguard/internal/fakedriver"
	"github.com/go-lifeguard/lifeguard/internal/pooltest"
)

// A checkout that need not wait allocates nothing, whatever place in the code it comes from. The mean counts what
// AllocsPerRun rounds down, and what a table of places that evict each other would allocate.
func TestCheckoutAllocatesNothing(t *testing.T) {
	if pooltest.RaceEnabled {
		t.Skip("the detector allocates on its own account")
	}
	const calls = 300_000
	require.Len(t, places, 600)
	for _, op := range operations {
		mean := map[string]float64{}
		for _, h := range costHandles {
			db := h.open(t)
			ctx := context.Background()
			run := func() {
				if err := op.run(ctx, db); err != nil {
					t.Error(err)
				}
			}
			for _, place := range places { // what is made once: the connection, the room in its lease
				place(run)
			}
			// Goroutines that database/sql starts may need a new stack while others run: the least of three means.
			for range 3 {
				var before, after runtime.MemStats
				runtime.ReadMemStats(&before)
				for i := range calls / 3 {
					places[i%len(places)](run)
				}
				runtime.ReadMemStats(&after)
				m := float64(after.Mallocs-before.Mallocs) / (calls / 3)
				if least, ok := mean[h.name]; !ok || m < least {
					mean[h.name] = m
				}
			}
		}
		t.Logf("%s: %.4f allocations, plain %.4f", op.name, mean["lifeguard"], mean["plain"])
		assert.LessOrEqual(t, mean["lifeguard"], mean["plain"]+0.01, op.name)
	}
}

// A checkout that need not wait, and its return, take no lock of the pool: both go through while somebody has it.
func TestCheckoutTakesNoPoolLock(t *testing.T) {
	epoch := time.Now().Add(-time.Second)
	var stop atomic.Bool // the next reading of the clock stops, and whoever reads it
	stopped, goOn := make(chan struct{}), make(chan struct{})
	p := assembly.NewPool(assembly.Config{
		Name: "lock", Limit: 2, MaxIdle: 2, MaxLifetime: time.Hour, MaxIdleTime: time.Hour, PoolTimeout: time.Minute, // no janitor: it reads the clock too
		Parent: fakedriver.Fast(), Log: slog.New(slog.DiscardHandler),
		Now: func() int64 {
			if stop.CompareAndSwap(true, false) {
				close(stopped)
				<-goOn
			}
			return int64(time.Since(epoch))
		},
		Redact: func(err error) error { return err },
	})
	db := p.Join(nil).Handle()
	defer db.Close()
	for _, op := range operations {
		require.NoError(t, op.run(context.Background(), db))
	}

	stop.Store(true)
	changed := make(chan struct{})
	go func() { p.SetLimit(2, 2); close(changed) }() // reads the clock with the lock held
	<-stopped
	done := make(chan struct{})
	go func() {
		defer close(done)
		for _, op := range operations {
			for range 1000 {
				assert.NoError(t, op.run(context.Background(), db), op.name)
			}
		}
		assert.NoError(t, onConnection(db))
	}()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		t.Error("a checkout waits for the pool's lock")
	}
	select {
	case <-changed:
		t.Error("nobody had the lock")
	default:
	}
	close(goOn)
	<-changed
	<-done
}

// onConnection uses a connection and a transaction for several operations.
func onConnection(db *sql.DB) error {
	c, err := db.Conn(context.Background())
	if err != nil {
		return err
	}
	defer c.Close()
	tx, err := c.BeginTx(context.Background(), nil)
	if err != nil {
		return err
	}
	if _, err := tx.Exec("UPDATE customers SET seen = $1", 7); err != nil {
		return err
	}
	return tx.Rollback()
}
