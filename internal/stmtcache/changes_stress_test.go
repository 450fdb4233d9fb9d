package stmtcache_test

import (
	"context"
	"database/sql"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/go-lifeguard/lifeguard/internal/pgtest"
	"github.com/go-lifeguard/lifeguard/internal/pooltest"
)

// A migration is one change of what statements mean, and how far it is.
type migration struct {
	number  int
	step    migrationStep
	meaning int // what it leaves
}

type migrationStep int

const (
	running   migrationStep = iota // nobody knows what a query meets
	locked                         // whoever wants its locks waits until it ends
	completed                      // acknowledged
)

// migrations has the meanings that queries can have, as their answers.
var migrations = [2]struct{ change, event, pick string }{
	{"ALTER TABLE events ALTER at TYPE timestamp USING at AT TIME ZONE 'UTC'; DROP FUNCTION pick(int)",
		"2026-01-01 12:00:00", "numeric"},
	{"ALTER TABLE events ALTER at TYPE timestamptz USING at AT TIME ZONE 'UTC'; CREATE FUNCTION pick(n int) RETURNS text LANGUAGE sql AS 'SELECT ''int'''",
		"2026-01-01 07:00:00+00", "int"},
}

// Sessions change what the pool's statements mean: in a text, in a transaction of the API's and in one by hand, which may be
// rolled back. Others run queries, outside of transactions and in ones that may have begun before. What begins when no
// migration is under way and ends before the next has the present meaning. What waits for the locks of one has the meaning
// that it leaves.
func TestOwnMigrationsStress(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	const limit, readers = 5, 6
	db := pooltest.OpenPostgres(t, "lifeguard", pgtest.DSN(t), limit, "timezone=UTC")
	_, err := db.Exec("CREATE TABLE events (at timestamp); CREATE FUNCTION pick(n numeric) RETURNS text LANGUAGE sql AS 'SELECT ''numeric'''")
	require.NoError(t, err)
	began := time.Now()

	var present atomic.Pointer[migration]
	present.Store(&migration{step: completed})
	var quiet, waited, inTx atomic.Int64
	goesOn := func() bool {
		took := time.Since(began)
		lacking := quiet.Load() == 0 || waited.Load() == 0 || inTx.Load() == 0 // as on a machine that is busy otherwise
		return !t.Failed() && (took < pooltest.StormLength(4*time.Second) || lacking && took < 30*time.Second && !testing.Short())
	}
	var wg sync.WaitGroup
	for g := range readers {
		rnd := rand.New(rand.NewPCG(seed, uint64(g)))
		// check runs a query on q that began when began was.
		check := func(q pooltest.RowQueryer, began *migration, count *atomic.Int64) {
			const event, pick = "INSERT INTO events VALUES ($1) RETURNING at::text", "SELECT pick($1::int) /* ' */"
			var got, want string
			var err error
			insert := rnd.IntN(3) == 0
			if insert {
				err = q.QueryRowContext(t.Context(), event, "2026-01-01T12:00:00+05:00").Scan(&got)
			} else {
				err = q.QueryRowContext(t.Context(), pick, 4).Scan(&got)
			}
			ended := present.Load()
			if ended.number != began.number || ended.step != completed || began.step == running || began.step == locked && !insert {
				return
			}
			if want = migrations[ended.meaning].pick; insert {
				want = migrations[ended.meaning].event
			}
			if began.step == locked {
				count = &waited
			}
			count.Add(1)
			if assert.NoError(t, err) {
				assert.Equal(t, want, got, "%v, then %v", began, ended)
			}
		}
		wg.Go(func() {
			for goesOn() {
				if rnd.IntN(2) > 0 {
					check(db, present.Load(), &quiet)
					continue
				}
				began := present.Load()
				tx, err := db.BeginTx(t.Context(), nil)
				if !assert.NoError(t, err) {
					return
				}
				if began.step == locked {
					began = &migration{} // BEGIN waits for nothing
				}
				for range 1 + rnd.IntN(5) {
					check(tx, began, &inTx)
					pause(rnd, time.Millisecond)
				}
				_ = tx.Rollback()
			}
		})
	}
	rnd := rand.New(rand.NewPCG(seed, readers))
	numbers := 0
	for goesOn() {
		pause(rnd, 8*time.Millisecond)
		old := present.Load()
		next := migration{number: old.number + 1, meaning: 1 - old.meaning}
		numbers++
		if !assert.NoError(t, migrate(t.Context(), db, rnd, &present, next)) {
			break
		}
	}
	wg.Wait()
	t.Logf("%d migrations; checked: %d queries between two, %d in transactions, %d that waited for one", numbers, quiet.Load(), inTx.Load(), waited.Load())
	for _, n := range []*atomic.Int64{&quiet, &waited, &inTx} {
		assert.True(t, n.Load() > 0 || testing.Short(), "nothing was checked")
	}
}

// migrate runs m, and says in present how far it is.
func migrate(ctx context.Context, db *pooltest.Client, rnd *rand.Rand, present *atomic.Pointer[migration], m migration) error {
	at := func(step migrationStep) {
		now := m
		now.step = step
		present.Store(&now)
	}
	change := migrations[m.meaning].change
	at(running)
	commit := rnd.IntN(4) > 0
	if !commit {
		m.meaning = 1 - m.meaning
	}
	lock := func(_ sql.Result, err error) error {
		if err == nil {
			at(locked)
			pause(rnd, 4*time.Millisecond)
		}
		return err
	}
	defer at(completed)
	switch how := rnd.IntN(4); {
	case how == 0 && commit:
		blocker, err := db.Server.BeginTx(ctx, nil)
		if err != nil {
			return err
		}
		defer blocker.Rollback()
		if _, err = blocker.ExecContext(ctx, "LOCK TABLE events IN ACCESS SHARE MODE"); err != nil {
			return err
		}
		result := make(chan error, 1)
		go func() {
			_, err := db.ExecContext(ctx, change)
			result <- err
		}()
		for queued := false; err == nil && !queued; {
			err = blocker.QueryRowContext(ctx, "SELECT EXISTS (SELECT FROM pg_locks WHERE relation = 'events'::regclass AND NOT granted AND mode = 'AccessExclusiveLock')").
				Scan(&queued)
		}
		err = errors.Join(lock(nil, err), blocker.Rollback())
		return errors.Join(err, <-result)
	case how == 1:
		conn, err := db.Conn(ctx)
		if err != nil {
			return err
		}
		defer conn.Close()
		if _, err = conn.ExecContext(ctx, "BEGIN"); err != nil {
			return err
		}
		end := "ROLLBACK"
		if commit {
			end = "COMMIT"
		}
		if err = lock(conn.ExecContext(ctx, change)); err == nil {
			_, err = conn.ExecContext(ctx, end)
		}
		return err
	default:
		tx, err := db.BeginTx(ctx, nil)
		if err != nil {
			return err
		}
		defer tx.Rollback()
		if err = lock(tx.ExecContext(ctx, change)); err == nil && commit {
			return tx.Commit()
		}
		return err
	}
}

// pause gives others time, most of them none or little of it.
func pause(rnd *rand.Rand, longest time.Duration) {
	if rnd.IntN(2) == 0 {
		time.Sleep(time.Duration(rnd.Int64N(int64(longest))))
	}
}
