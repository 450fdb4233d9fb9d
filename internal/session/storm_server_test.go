package session_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/lib/pq"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/go-lifeguard/lifeguard"
	"github.com/go-lifeguard/lifeguard/internal/pgtest"
	"github.com/go-lifeguard/lifeguard/internal/pooltest"
)

// A wire dials for lib/pq and knows exactly which connections are open. The server knows it only some time later.
type wire struct {
	refusing atomic.Bool
	hanging  atomic.Bool

	mu    sync.Mutex
	ports map[int]*wireConn // by the client's port; nil for those that were closed
	open  int
	most  int // most that were open at the same time
}

type wireConn struct {
	net.Conn
	wire    *wire
	port    int
	started bool // the first packet has been written; lib/pq writes from one goroutine at that time
	closing sync.Once
}

var _ pq.DialerContext = (*wire)(nil)

func (w *wire) Dial(network, address string) (net.Conn, error) {
	return w.DialContext(context.Background(), network, address)
}

func (w *wire) DialTimeout(network, address string, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	return w.DialContext(ctx, network, address)
}

func (w *wire) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	for w.hanging.Load() && ctx.Err() == nil {
		time.Sleep(time.Millisecond)
	}
	if w.refusing.Load() {
		return nil, &net.OpError{Op: "dial", Net: network, Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
	}
	var d net.Dialer
	c, err := d.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return &wireConn{Conn: c, wire: w, port: c.LocalAddr().(*net.TCPAddr).Port}, nil
}

// Write looks at the first packet: lib/pq also dials to cancel a query, which is no session and does not count.
func (c *wireConn) Write(b []byte) (int, error) {
	if !c.started {
		c.started = true
		const cancelRequest = 80877102
		if len(b) < 8 || binary.BigEndian.Uint32(b[4:]) != cancelRequest {
			c.wire.mu.Lock()
			c.wire.ports[c.port] = c
			c.wire.open++
			c.wire.most = max(c.wire.most, c.wire.open)
			c.wire.mu.Unlock()
		}
	}
	return c.Conn.Write(b)
}

func (c *wireConn) Close() error {
	c.closing.Do(func() {
		c.wire.mu.Lock()
		defer c.wire.mu.Unlock()
		if c.wire.ports[c.port] == c {
			c.wire.ports[c.port] = nil
			c.wire.open--
		}
	})
	return c.Conn.Close()
}

// cut closes one of the open connections under lib/pq's feet.
func (w *wire) cut() {
	w.mu.Lock()
	var c *wireConn
	for _, c = range w.ports {
		if c != nil {
			break
		}
	}
	w.mu.Unlock()
	if c != nil {
		c.Conn.Close() // open still, as far as the pool is concerned
	}
}

// left says whether the connection from that port has been closed by the client.
func (w *wire) left(port int) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	c, known := w.ports[port]
	return known && c == nil
}

// wiredDriver is lib/pq dialling through a wire.
type wiredDriver struct {
	pq.Driver
	wire *wire
}

func (d wiredDriver) OpenConnector(dsn string) (driver.Connector, error) {
	c, err := pq.NewConnector(dsn)
	if err != nil {
		return nil, err
	}
	c.Dialer(d.wire)
	return c, nil
}

// openWired opens a handle through lifeguard whose connections go through a wire.
func openWired(t testing.TB, dsn string, limit int, params ...string) (*pooltest.Client, *wire) {
	t.Helper()
	w := &wire{ports: map[int]*wireConn{}}
	name := fmt.Sprint("wired ", pooltest.Number())
	lifeguard.Register(name, wiredDriver{wire: w}, pooltest.Quiet)
	return pooltest.OpenPostgres(t, name, dsn, limit, params...), w
}

// watchLimit looks at the server every few milliseconds, until stop, for more than limit connections of the client.
// Those that the client has closed do not count, though the server may not have noticed.
func watchLimit(t *testing.T, c *pooltest.Client, w *wire, limit int) (stop func()) {
	quit, done := make(chan struct{}), make(chan struct{})
	looks, most := 0, 0
	go func() {
		defer close(done)
		for tick := time.NewTicker(3 * time.Millisecond); ; {
			select {
			case <-quit:
				tick.Stop()
				return
			case <-tick.C:
			}
			open := slices.DeleteFunc(c.Backends(t), func(b pooltest.Backend) bool { return w.left(b.ClientPort) })
			looks++
			most = max(most, len(open))
		}
	}()
	return func() {
		close(quit)
		<-done
		w.mu.Lock()
		defer w.mu.Unlock()
		t.Logf("at most %d connections on the server in %d looks, %d by the client's own count", most, looks, w.most)
		assert.LessOrEqual(t, most, limit, "connections on the server")
		assert.LessOrEqual(t, w.most, limit, "connections by the client's own count")
		assert.NotZero(t, most)
	}
}

// panicInside begins a transaction, inserts id and panics.
func panicInside(ctx context.Context, c *pooltest.Client, id int64) (rolledBack bool) {
	defer func() { recover() }()
	tx, err := c.BeginTx(ctx, nil)
	if err != nil {
		return false
	}
	defer func() { rolledBack = tx.Rollback() == nil }()
	if _, err := tx.ExecContext(ctx, "INSERT INTO ledger VALUES ($1)", id); err != nil {
		return false
	}
	panic("in a transaction")
}

// TestLimitOnServer has 50 goroutines query, cancel within microseconds and panic inside transactions, on 5 connections.
func TestLimitOnServer(t *testing.T) {
	const limit = 5
	seed := pooltest.Seed(t).Uint64()
	c, w := openWired(t, pgtest.DSN(t), limit)
	_, err := c.Exec("CREATE TABLE ledger (id bigint PRIMARY KEY)")
	require.NoError(t, err)
	stop := watchLimit(t, c, w, limit)
	var committed, cancelled, panicked, queries atomic.Int64
	var wg sync.WaitGroup
	end := time.Now().Add(pooltest.StormLength(2500 * time.Millisecond))
	for g := range 50 {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(seed, uint64(g)))
			ctx := t.Context()
			for i := 0; time.Now().Before(end); i++ {
				id := int64(g)<<32 | int64(i)
				switch rnd.IntN(6) {
				case 0, 1:
					var got int64
					err := c.QueryRowContext(ctx, "SELECT $1::bigint", id).Scan(&got)
					if !assert.NoError(t, err) || !assert.Equal(t, id, got) {
						return
					}
					queries.Add(1)
				case 2:
					ctx, cancel := pooltest.CancelSoon(ctx, rnd, 500*time.Microsecond)
					var got int64
					if c.QueryRowContext(ctx, "SELECT $1::bigint", id).Scan(&got) != nil {
						cancelled.Add(1)
					}
					cancel()
				case 3:
					if panicInside(ctx, c, id) {
						panicked.Add(1)
					}
				case 4:
					tx, err := c.BeginTx(ctx, nil)
					if !assert.NoError(t, err) {
						return
					}
					_, err = tx.Exec("INSERT INTO ledger VALUES ($1)", id)
					if !assert.NoError(t, err) || !assert.NoError(t, tx.Commit()) {
						return
					}
					committed.Add(1)
				case 5:
					rows, err := c.QueryContext(ctx, "SELECT generate_series(1, 100)")
					if !assert.NoError(t, err) {
						return
					}
					for range rnd.IntN(100) {
						rows.Next()
					}
					assert.NoError(t, rows.Close())
				}
			}
		})
	}
	wg.Wait()
	pooltest.Settled(t, pooltest.PoolOf(t, c.DB))
	stop()
	t.Logf("%d queries, %d commits, %d cancelled, %d panics", queries.Load(), committed.Load(), cancelled.Load(), panicked.Load())
	for _, n := range []*atomic.Int64{&committed, &cancelled, &panicked, &queries} {
		assert.Positive(t, n.Load())
	}
	var rows int64
	require.NoError(t, c.QueryRow("SELECT count(*) FROM ledger").Scan(&rows))
	assert.Equal(t, committed.Load(), rows)
	c.AllSlots(t, limit)
}

// A ledgerOutcome is what a writer was told about its row.
type ledgerOutcome int

const (
	unknown      ledgerOutcome = iota // an error: the row may be there or not
	acknowledged                      // committed
	refused                           // rolled back
)

// TestStormOnServer kills connections in every way while rows are written. No acknowledged row may be missing, and no slot
// may be lost.
func TestStormOnServer(t *testing.T) {
	const limit, writers = 8, 24
	seed := pooltest.Seed(t).Uint64()
	c, w := openWired(t, pgtest.DSN(t), limit, "pool_timeout=20")
	_, err := c.Exec("CREATE TABLE ledger (id bigint PRIMARY KEY)")
	require.NoError(t, err)
	stop := watchLimit(t, c, w, limit)

	ctx, cancel := context.WithTimeout(t.Context(), pooltest.StormLength(6*time.Second))
	defer cancel()
	var faults, writing sync.WaitGroup
	faults.Go(func() { makeTrouble(ctx, t, c, w, rand.New(rand.NewPCG(seed, 1000))) })
	told := make([]map[int64]ledgerOutcome, writers)
	var mu sync.Mutex
	kinds := map[string]int{}
	for g := range writers {
		told[g] = map[int64]ledgerOutcome{}
		writing.Go(func() {
			rnd := rand.New(rand.NewPCG(seed, uint64(g)))
			for i := int64(0); ctx.Err() == nil; i++ {
				id := int64(g)<<32 | i
				outcome, err := write(t, c, rnd, id)
				told[g][id] = outcome
				if err != nil {
					mu.Lock()
					kinds[kindOfTrouble(err)]++
					mu.Unlock()
				}
			}
		})
	}
	writing.Wait()
	faults.Wait()
	pooltest.Settled(t, pooltest.PoolOf(t, c.DB))
	stop()
	c.AllSlots(t, limit)

	there := map[int64]bool{}
	rows, err := c.Query("SELECT id FROM ledger")
	require.NoError(t, err)
	for rows.Next() {
		var id int64
		require.NoError(t, rows.Scan(&id))
		there[id] = true
	}
	require.NoError(t, rows.Err())
	counts := map[ledgerOutcome]int{}
	for _, ids := range told {
		for id, outcome := range ids {
			counts[outcome]++
			switch {
			case outcome == acknowledged && !there[id]:
				t.Errorf("row %d is missing, though its commit was acknowledged", id)
			case outcome == refused && there[id]:
				t.Errorf("row %d is there, though it was rolled back", id)
			}
		}
	}
	t.Logf("%d acknowledged, %d rolled back, %d unknown, %d rows; errors %v; %+v", counts[acknowledged], counts[refused],
		counts[unknown], len(there), kinds, pooltest.PoolOf(t, c.DB).Stats())
	for _, outcome := range []ledgerOutcome{acknowledged, refused, unknown} {
		assert.Positive(t, counts[outcome])
	}
	assert.Zero(t, kinds["pool timeout"], "no fault lasts for as long as pool_timeout")
}

// write tries to write one row in one of several ways, and echoes a value to see that answers are not mixed up.
func write(t *testing.T, c *pooltest.Client, rnd *rand.Rand, id int64) (ledgerOutcome, error) {
	ctx := t.Context()
	if rnd.IntN(4) == 0 {
		var cancel context.CancelFunc
		ctx, cancel = pooltest.CancelSoon(ctx, rnd, 5*time.Millisecond)
		defer cancel()
	}
	const insert = "INSERT INTO ledger VALUES ($1)"
	switch rnd.IntN(5) {
	case 0:
		if _, err := c.ExecContext(ctx, insert, id); err != nil {
			return unknown, err
		}
		return acknowledged, nil
	case 1:
		if panicInside(ctx, c, id) {
			return refused, nil
		}
		return unknown, nil
	case 2:
		var got int64
		if err := c.QueryRowContext(ctx, "SELECT $1::bigint", id).Scan(&got); err != nil {
			return unknown, err
		}
		if got != id {
			t.Errorf("asked for %d, got %d", id, got)
		}
		return refused, nil
	}
	tx, err := c.BeginTx(ctx, nil)
	if err != nil {
		return unknown, err
	}
	defer tx.Rollback()
	if _, err := tx.ExecContext(ctx, insert, id); err != nil {
		return unknown, err
	}
	if rnd.IntN(5) == 0 {
		if err := tx.Rollback(); err != nil {
			return unknown, err
		}
		return refused, nil
	}
	if err := tx.Commit(); err != nil {
		return unknown, err
	}
	return acknowledged, nil
}

// makeTrouble does, until ctx ends, what networks and administrators do. It ends with everything working again.
func makeTrouble(ctx context.Context, t *testing.T, c *pooltest.Client, w *wire, rnd *rand.Rand) {
	admin := pooltest.OpenControl(t, c.DSN)
	for ctx.Err() == nil {
		pause := time.Duration(rnd.IntN(40)) * time.Millisecond
		switch rnd.IntN(8) {
		case 0:
			w.refusing.Store(true)
			pause *= 8
		case 1:
			w.hanging.Store(true)
			pause *= 8
		case 2:
			w.cut()
		case 3:
			_, err := admin.Exec("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = $1", c.Application)
			assert.NoError(t, err)
		default:
			_, err := admin.Exec("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = $1 "+
				"ORDER BY random() LIMIT 1", c.Application)
			assert.NoError(t, err)
		}
		time.Sleep(pause)
		w.refusing.Store(false)
		w.hanging.Store(false)
	}
}

// kindOfTrouble sorts errors for the log.
func kindOfTrouble(err error) string {
	var pqErr *pq.Error
	var netErr *net.OpError
	switch {
	case errors.Is(err, lifeguard.ErrPoolTimeout):
		return "pool timeout"
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return "context"
	case errors.Is(err, sql.ErrTxDone):
		return "transaction over"
	case errors.Is(err, driver.ErrBadConn):
		return "bad connection"
	case errors.As(err, &pqErr):
		return string(pqErr.Code)
	case errors.As(err, &netErr):
		return netErr.Op
	default:
		return err.Error()
	}
}
