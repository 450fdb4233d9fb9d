package pool_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/go-lifeguard/lifeguard"
	"github.com/go-lifeguard/lifeguard/internal/fakedriver"
	"github.com/go-lifeguard/lifeguard/internal/pooltest"
)

// crash is what the driver panics with.
const crash = "the driver panics"

// errTransient is an error of a dial that a retry can mend.
type errTransient struct{}

func (errTransient) Error() string    { return "the database system is starting up" }
func (errTransient) SQLState() string { return "57P03" }

// storm is a pool of several handles on a driver that fails in all ways there are.
type storm struct {
	t       *testing.T
	srv     *fakedriver.Server
	handles []*sql.DB
	shared  []*sql.Stmt // one of each handle
	pool    *lifeguard.Pool
	patient bool // no wait may run out: if one does, a waiter was lost
	calm    atomic.Bool

	done, failed, panicked, ended atomic.Int64
}

const (
	stormLimit   = 5
	stormHighest = 8 // the limit moves up to this
)

// The whole pool at random under the race detector: contexts that end, a driver that panics, ends goroutines and loses
// connections, lifetimes of a moment, a limit that moves, resets, several handles, and a shutdown at the end. With a
// patient pool every wait has to end with a connection.
//
//	LIFEGUARD_TEST_SEED=n go test -race -run TestStorm ./internal/pool
func TestStorm(t *testing.T) {
	for name, timeout := range map[string]time.Duration{"Patient": time.Minute, "Hasty": 5 * time.Millisecond} {
		t.Run(name, func(t *testing.T) {
			rnd := pooltest.Seed(t)
			before := goleak.IgnoreCurrent()
			s := newStorm(t, rnd, timeout)
			s.rage(rnd, pooltest.StormLength(2*time.Second), nil)
			s.checkNothingLost()
			s.rage(rnd, pooltest.StormLength(time.Second), s.shutdown)
			s.checkEnd()
			goleak.VerifyNone(t, before)
		})
	}
}

func newStorm(t *testing.T, rnd *rand.Rand, timeout time.Duration) *storm {
	s := &storm{t: t, srv: fakedriver.New(), patient: timeout > time.Second}
	s.calm.Store(true)
	s.script(rand.New(rand.NewPCG(rnd.Uint64(), 3)))
	name := fmt.Sprint("storm ", pooltest.Number())
	lifeguard.Register(name, s.srv.Driver(), pooltest.Quiet)
	for range 3 {
		db, err := sql.Open(name, fmt.Sprintf("host=a connection_limit=%d min_connections=1 pool_timeout=%s "+
			"max_connection_lifetime=200ms max_idle_connection_lifetime=50ms pool_name=%q", stormLimit, timeout, name))
		require.NoError(t, err)
		s.handles = append(s.handles, db)
	}
	s.pool = pooltest.PoolOf(t, s.handles[0])
	for _, db := range s.handles {
		st, err := db.Prepare("shared")
		require.NoError(t, err)
		s.shared = append(s.shared, st)
	}
	return s
}

// script has the driver fail, until it is calm.
func (s *storm) script(rnd *rand.Rand) {
	var mu sync.Mutex // guards rnd
	chance := func(n int) bool {
		mu.Lock()
		defer mu.Unlock()
		return rnd.IntN(n) == 0
	}
	fail := func(ctx context.Context, n int, panics bool) error {
		if s.calm.Load() {
			return nil
		}
		if chance(20) {
			select {
			case <-time.After(time.Millisecond):
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		switch {
		case chance(n):
			return driver.ErrBadConn
		case chance(n):
			return errors.New("no")
		case panics && chance(n):
			panic(crash)
		case panics && chance(n):
			runtime.Goexit()
		}
		return nil
	}
	background := context.Background()
	s.srv.OnDial(func(ctx context.Context) error {
		switch {
		case s.calm.Load():
		case chance(100):
			return errTransient{}
		case chance(200):
			return fakedriver.ErrNothing
		}
		return fail(ctx, 200, true)
	})
	s.srv.OnQuery(func(ctx context.Context, _ *fakedriver.Conn, query string, _ []driver.NamedValue) error {
		// After a panic in a statement of a sql.Conn that one cannot be closed any more: database/sql keeps a lock.
		return fail(ctx, 150, query != "of a Conn")
	})
	s.srv.OnPrepare(func(ctx context.Context, _ *fakedriver.Conn, query string) error {
		return fail(ctx, 150, query != "of a Conn")
	})
	s.srv.OnBegin(func(ctx context.Context, _ *fakedriver.Conn, _ driver.TxOptions) error { return fail(ctx, 150, true) })
	s.srv.OnNext(func(*fakedriver.Conn, int) error { return fail(background, 300, true) })
	s.srv.OnReset(func(ctx context.Context, _ *fakedriver.Conn) error { return fail(ctx, 300, true) })
	s.srv.OnPing(func(ctx context.Context, _ *fakedriver.Conn) error { return fail(ctx, 100, true) })
	s.srv.OnClose(func(*fakedriver.Conn) error { return fail(background, 50, true) })
	// Not a panic: database/sql commits and rolls back on goroutines of its own, too, where that ends the process.
	s.srv.OnCommit(func(*fakedriver.Conn) error { return fail(background, 100, false) })
	s.srv.OnRollback(func(*fakedriver.Conn) error { return fail(background, 100, false) })
}

// rage has callers use the handles at random for so long, and until all has been tried, with meddle in the middle.
func (s *storm) rage(rnd *rand.Rand, length time.Duration, meddle func(*rand.Rand)) {
	s.calm.Store(false)
	end := time.Now().Add(length)
	var callers sync.WaitGroup
	for range 40 {
		rnd := rand.New(rand.NewPCG(rnd.Uint64(), 0))
		callers.Go(func() {
			for time.Now().Before(end) || s.panicked.Load() == 0 || s.ended.Load() == 0 {
				s.call(rnd)
			}
		})
	}
	meddler, disturber := rand.New(rand.NewPCG(rnd.Uint64(), 1)), rand.New(rand.NewPCG(rnd.Uint64(), 2))
	callers.Go(func() {
		for time.Now().Before(end) {
			time.Sleep(2 * time.Millisecond)
			s.disturb(disturber)
			st := s.pool.Stats()
			if st.Open > stormHighest || s.srv.Open() > stormHighest {
				s.t.Errorf("%d open on the server, %+v", s.srv.Open(), st)
			}
		}
	})
	if meddle != nil {
		callers.Go(func() { time.Sleep(length / 2); meddle(meddler) })
	}
	callers.Wait()
	s.t.Logf("%d calls, %d failed, %d panicked, %d ended their goroutine; %+v", s.done.Load(), s.failed.Load(), s.panicked.Load(),
		s.ended.Load(), s.pool.Stats())
}

// disturb is what happens to a pool from outside.
func (s *storm) disturb(rnd *rand.Rand) {
	switch rnd.IntN(200) {
	case 0, 1, 2, 3:
		if conns := s.srv.Conns(); len(conns) > 0 {
			conns[rnd.IntN(len(conns))].Kill()
		}
	case 4:
		s.srv.Kill()
	case 5:
		s.pool.Reset()
	case 6, 7:
		assert.NoError(s.t, s.pool.SetConnectionLimit(1+rnd.IntN(stormHighest)))
	case 8:
		s.pool.Holders()
	}
}

// call runs one operation on a goroutine of its own, which the driver may end.
func (s *storm) call(rnd *rand.Rand) {
	ctx, cancel := context.Background(), func() {}
	if rnd.IntN(3) == 0 {
		ctx, cancel = pooltest.CancelSoon(ctx, rnd, 8*time.Millisecond)
	}
	defer cancel()
	began := time.Now()
	over := make(chan struct{})
	go func() {
		returned := false
		defer close(over)
		defer func() {
			switch v := recover(); {
			case v == crash:
				s.panicked.Add(1)
			case v != nil:
				panic(v)
			case !returned:
				s.ended.Add(1)
			}
		}()
		err := s.operate(ctx, rnd)
		returned = true
		s.done.Add(1)
		if err != nil {
			s.failed.Add(1)
		}
		if s.patient && errors.Is(err, lifeguard.ErrPoolTimeout) {
			s.t.Errorf("a waiter was lost: %v", err)
		}
		if err != nil && strings.Contains(err.Error(), "lifeguard: sessions are used through leases") {
			s.t.Error(err)
		}
	}()
	<-over
	if took := time.Since(began); took > 20*time.Second {
		s.t.Errorf("a call took %v", took)
	}
}

func (s *storm) operate(ctx context.Context, rnd *rand.Rand) error {
	i := rnd.IntN(len(s.handles))
	db := s.handles[i]
	switch rnd.IntN(7) {
	case 0:
		_, err := db.ExecContext(ctx, "UPDATE", rnd.IntN(100))
		return err
	case 1:
		return db.QueryRowContext(ctx, "SELECT").Scan(new(int))
	case 2:
		rows, err := db.QueryContext(ctx, "rows 5")
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
		}
		return rows.Err()
	case 3:
		tx, err := db.BeginTx(ctx, nil)
		if err != nil {
			return err
		}
		defer tx.Rollback()
		if _, err := tx.ExecContext(ctx, "UPDATE"); err != nil {
			return err
		}
		return tx.Commit()
	case 4:
		return s.shared[i].QueryRowContext(ctx).Scan(new(int))
	case 5:
		return onConn(ctx, db)
	}
	return db.PingContext(ctx)
}

// onConn closes a statement after its connection may have gone to another holder.
func onConn(ctx context.Context, db *sql.DB) error {
	c, err := db.Conn(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	st, err := c.PrepareContext(ctx, "of a Conn")
	if err != nil {
		return err
	}
	_, err = st.ExecContext(ctx)
	_ = c.Close()
	return errors.Join(err, st.Close())
}

// checkNothingLost: nobody is waiting, nothing is borrowed, and the whole limit can be had at once, and no more.
func (s *storm) checkNothingLost() {
	s.calm.Store(true)
	require.NoError(s.t, s.pool.SetConnectionLimit(stormLimit))
	pooltest.Settled(s.t, s.pool)
	db := s.handles[1]
	var all []*sql.Conn
	for range stormLimit {
		ctx, cancel := context.WithTimeout(s.t.Context(), 10*time.Second)
		c, err := db.Conn(ctx)
		for err != nil && ctx.Err() == nil {
			c, err = db.Conn(ctx) // a hasty pool may not have dialled in time
		}
		cancel()
		require.NoError(s.t, err, "a slot was lost: %+v", s.pool.Stats())
		all = append(all, c)
	}
	assert.Equal(s.t, stormLimit, s.pool.Stats().InUse)
	pooltest.Eventually(s.t, "only those are open", func() bool { return s.srv.Open() == stormLimit })
	for _, c := range all {
		assert.NoError(s.t, c.Close())
	}
	pooltest.Settled(s.t, s.pool)
}

// shutdown ends the pool under load, in time or not.
func (s *storm) shutdown(rnd *rand.Rand) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(rnd.IntN(10))*time.Millisecond)
	defer cancel()
	// Errors are those of connections that did not close, and of holders that were too slow.
	_ = lifeguard.Shutdown(ctx, s.handles[0])
	assert.Error(s.t, s.handles[0].PingContext(context.Background()))
	_ = s.pool.Shutdown(ctx)
	assert.ErrorIs(s.t, s.handles[1].PingContext(context.Background()), lifeguard.ErrPoolClosed)
}

func (s *storm) checkEnd() {
	s.calm.Store(true)
	for i, db := range s.handles {
		assert.NoError(s.t, s.shared[i].Close())
		assert.NoError(s.t, db.Close())
	}
	pooltest.Settled(s.t, s.pool)
	pooltest.Eventually(s.t, "all connections are closed", func() bool {
		st := s.pool.Stats()
		return s.srv.Open() == 0 && st.Open == 0 && st.Opened == st.Closed
	})
	assert.Zero(s.t, s.srv.Stmts())
	assert.Zero(s.t, s.srv.OpenRows())
	assert.Empty(s.t, s.srv.Violations())
}
