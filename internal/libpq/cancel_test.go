package libpq

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"encoding/binary"
	"flag"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/go-lifeguard/lifeguard/internal/pgtest"
)

// operations are what a connection does at most for an argument's number of seconds.
var operations = []struct {
	name string
	run  func(ctx context.Context, conn driver.Conn, seconds float64) error
}{
	{"exec", func(ctx context.Context, conn driver.Conn, seconds float64) error {
		_, err := conn.(driver.ExecerContext).ExecContext(ctx, "SELECT pg_sleep("+literal(seconds)+")", nil)
		return err
	}},
	{"exec with an argument", func(ctx context.Context, conn driver.Conn, seconds float64) error {
		_, err := conn.(driver.ExecerContext).ExecContext(ctx, "SELECT pg_sleep($1)", one(seconds))
		return err
	}},
	{"query", func(ctx context.Context, conn driver.Conn, seconds float64) error {
		_, err := run(ctx, conn, "SELECT pg_sleep("+literal(seconds)+")")
		return err
	}},
	{"query with an argument", func(ctx context.Context, conn driver.Conn, seconds float64) error {
		_, err := run(ctx, conn, "SELECT pg_sleep($1)", one(seconds)...)
		return err
	}},
	{"rows", func(ctx context.Context, conn driver.Conn, seconds float64) error {
		_, err := run(ctx, conn, "SELECT CASE WHEN n < 1000 THEN '' ELSE pg_sleep($1)::text END FROM generate_series(1, 1000) n", one(seconds)...)
		return err
	}},
	{"prepared", func(ctx context.Context, conn driver.Conn, seconds float64) error {
		st, err := conn.(driver.ConnPrepareContext).PrepareContext(ctx, "SELECT pg_sleep($1)")
		if err != nil {
			return err
		}
		rows, err := st.(driver.StmtQueryContext).QueryContext(ctx, one(seconds))
		if err == nil {
			_, err = read(rows)
		}
		if e := st.Close(); err == nil {
			err = e
		}
		return err
	}},
}

func literal(seconds float64) string { return strconv.FormatFloat(seconds, 'f', -1, 64) }

func one(seconds float64) []driver.NamedValue {
	return []driver.NamedValue{{Ordinal: 1, Value: seconds}}
}

// sleeping waits until a backend sleeps in a query.
func sleeping(t *testing.T, admin *sql.DB, conn driver.Conn) {
	t.Helper()
	pid, ok := BackendPID(conn)
	require.True(t, ok)
	for is := false; !is; {
		require.NoError(t, admin.QueryRowContext(t.Context(), "SELECT EXISTS (SELECT FROM pg_stat_activity "+
			"WHERE pid = $1 AND state = 'active' AND wait_event = 'PgSleep')", pid).Scan(&is))
	}
}

// The end of the context ends the operation, and nothing but the operation: the connection goes on.
func TestCancel(t *testing.T) {
	dsn := pgtest.DSN(t)
	admin, err := sql.Open("postgres", dsn)
	require.NoError(t, err)
	defer admin.Close()
	for _, op := range operations {
		t.Run(op.name, func(t *testing.T) {
			noGoroutines(t)
			conn, socket := mustDial(t, dsn)
			c := NewCanceller(conn, socket, SocketOptions{})
			require.NotNil(t, c)
			for range 3 {
				ctx, cancel := context.WithCancel(t.Context())
				inner, watched := c.Watch(ctx)
				require.True(t, watched)
				assert.Nil(t, inner.Done(), "lib/pq starts no goroutine")
				failed := make(chan error, 1)
				go func() { failed <- op.run(inner, conn, 60) }()
				sleeping(t, admin, conn)
				cancel()
				assert.Equal(t, "57014", Code(<-failed))
				cancelled, arrived := c.Unwatch()
				assert.True(t, cancelled)
				assert.True(t, arrived)
				value, err := run(t.Context(), conn, "SELECT 1")
				require.NoError(t, err)
				assert.EqualValues(t, 1, value)
			}
		})
	}
}

var cancels = flag.Int("cancels", 400, "how many operations are cancelled at random moments")

// TestCancelsNeverMeetTheNext ends contexts at all moments of short operations, before and after their end. What runs on the
// connection next has no context, and must never be cancelled. LIFEGUARD_TEST_SEED repeats a run.
func TestCancelsNeverMeetTheNext(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("LIFEGUARD_TEST_SEED"); text != "" {
		var err error
		seed, err = strconv.ParseUint(text, 10, 64)
		require.NoError(t, err)
	}
	t.Logf("LIFEGUARD_TEST_SEED=%d", seed)
	noGoroutines(t)
	dsn := pgtest.DSN(t)
	const connections = 2
	each := *cancels / connections
	if testing.Short() {
		each = 100
	}
	var mu sync.Mutex
	var hit, late, never int // cancels that ended their operation, that came after it, and those that were not sent
	var workers sync.WaitGroup
	for worker := range uint64(connections) {
		conn, socket := mustDial(t, dsn)
		workers.Go(func() {
			random := rand.New(rand.NewPCG(seed, worker))
			c := NewCanceller(conn, socket, SocketOptions{})
			for i := range each {
				ctx, cancel := context.WithCancel(t.Context())
				inner, watched := c.Watch(ctx)
				assert.True(t, watched)
				op, lasts, end := operations[random.IntN(len(operations))], random.Float64()/200, time.Duration(random.IntN(1500))*time.Microsecond
				if i == 0 { // this one is hit on a busy machine, too
					op, lasts, end = operations[0], 5, 200*time.Millisecond
				}
				ends := time.AfterFunc(end, cancel)
				err := op.run(inner, conn, lasts)
				if random.IntN(4) == 0 {
					cancel() // when the answer is there, and perhaps beside the other
				}
				cancelled, arrived := c.Unwatch()
				ends.Stop()
				cancel()
				mu.Lock()
				switch {
				case Code(err) == "57014":
					hit++
				case cancelled:
					late++
				default:
					never++
				}
				mu.Unlock()
				ok := assert.Equal(t, cancelled, arrived) &&
					assert.True(t, err == nil || Code(err) == "57014" && cancelled, "operation %d, %s: %v", i, op.name, err)
				next := operations[random.IntN(len(operations))]
				err = next.run(context.Background(), conn, 0.0002)
				if !ok || !assert.NoError(t, err, "after operation %d, %s, cancelled: %v", i, op.name, cancelled) {
					return
				}
			}
		})
	}
	workers.Wait()
	t.Logf("%d cancels hit, %d came late, %d were not sent", hit, late, never)
	assert.Positive(t, hit)
	assert.Positive(t, late)
	assert.Positive(t, never)
}

func TestWatchNothing(t *testing.T) {
	var none *Canceller
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	same, watched := none.Watch(ctx)
	assert.Equal(t, ctx, same)
	assert.False(t, watched)
	cancelled, arrived := none.Unwatch()
	assert.False(t, cancelled || arrived)
	none.Abandon()
	conn, socket := mustDial(t, pgtest.DSN(t))
	assert.Nil(t, NewCanceller(conn, nil, SocketOptions{}))
	assert.Nil(t, NewCanceller(otherConn{conn}, socket, SocketOptions{}))
}

// canceller gives one whose server hangs up after its greeting, and hands on each request to cancel.
func canceller(t *testing.T, o SocketOptions, request func(net.Conn)) *Canceller {
	first := true
	dsn := listen(t, func(c net.Conn) {
		if !first {
			request(c)
			return
		}
		first = false
		read, err := c.Read(make([]byte, 1000))
		assert.Positive(t, read)
		assert.NoError(t, err)
		_, _ = io.WriteString(c, authenticated+backendKey+readyForQuery)
	})
	conn, socket := mustDial(t, dsn)
	c := NewCanceller(conn, socket, o)
	require.NotNil(t, c)
	return c
}

func TestCancelRequest(t *testing.T) {
	got := make(chan []byte, 1)
	c := canceller(t, SocketOptions{}, func(c net.Conn) {
		request := make([]byte, 16)
		_, _ = io.ReadFull(c, request)
		got <- request
	})
	type key struct{}
	ctx, cancel := context.WithCancel(context.WithValue(t.Context(), key{}, "value"))
	hidden, watched := c.Watch(ctx)
	require.True(t, watched)
	assert.Equal(t, "value", hidden.Value(key{}))
	assert.NoError(t, hidden.Err())
	again, watched := c.Watch(ctx)
	assert.False(t, watched, "one at a time")
	assert.Equal(t, ctx, again)
	cancel()
	cancelled, arrived := c.Unwatch()
	assert.True(t, cancelled)
	assert.True(t, arrived)
	cancelled, _ = c.Unwatch()
	assert.False(t, cancelled, "it was unwatched")
	want := binary.BigEndian.AppendUint32(nil, 16)
	want = binary.BigEndian.AppendUint32(want, 80877102)
	want = binary.BigEndian.AppendUint32(want, specimenPID)
	assert.Equal(t, append(want, specimenKey...), <-got)
	assert.Nil(t, c.hidden.Context, "no context outlives its operation")

	_, watched = c.Watch(context.Background())
	assert.False(t, watched, "it cannot end")
}

// A context that ends after its operation cancels nothing.
func TestCancelAfterwards(t *testing.T) {
	noGoroutines(t)
	c := canceller(t, SocketOptions{}, func(net.Conn) { t.Error("a request to cancel") })
	for range 100 {
		ctx, cancel := context.WithCancel(t.Context())
		_, watched := c.Watch(ctx)
		require.True(t, watched)
		cancelled, arrived := c.Unwatch()
		assert.False(t, cancelled || arrived)
		cancel()
	}
	ctx, cancel := context.WithCancel(t.Context())
	_, watched := c.Watch(ctx)
	require.True(t, watched)
	c.Abandon()
	cancel()
	c.Abandon()
	cancelled, _ := c.Unwatch()
	assert.False(t, cancelled)
}

// A server that does not take the request is not waited for longer than the socket.
func TestCancelDoesNotArrive(t *testing.T) {
	noGoroutines(t)
	c := canceller(t, SocketOptions{SocketTimeout: time.Hour}, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) })
	for _, to := range []net.Addr{c.to, &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1}} {
		c.to = to
		ctx, cancel := context.WithCancel(t.Context())
		_, watched := c.Watch(ctx)
		require.True(t, watched)
		cancel()
		cancelled, arrived := c.Unwatch()
		assert.True(t, cancelled)
		assert.False(t, arrived)
	}
}
