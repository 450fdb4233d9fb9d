package lifeguard_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/url"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/lib/pq"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/go-lifeguard/lifeguard"
	"github.com/go-lifeguard/lifeguard/internal/faultproxy"
	"github.com/go-lifeguard/lifeguard/internal/pgtest"
	"github.com/go-lifeguard/lifeguard/internal/pooltest"
)

var (
	allFaults = flag.Bool("faults", false, "break the network and the server at length, as make faults does")
	cancels   = flag.Int("cancels", 200, "queries that TestCancelledQueries cancels")
)

// A basin is a pool under load, a server of its own, and the bad network between them.
type basin struct {
	t      *testing.T
	rnd    *rand.Rand // of the faults; for the test's goroutine alone
	server *pgtest.Server
	look   *sql.DB // to look at the server with, past the proxy
	proxy  *faultproxy.Proxy
	db     *sql.DB
	name   string // its application_name

	limit                                      int
	poolTimeout, socketTimeout, connectTimeout time.Duration // connectTimeout is 0 where the DSN has none
	cached                                     bool          // statements are kept

	calls   atomic.Pointer[calls]
	large   atomic.Bool // one of the writers sends values of megabytes
	paused  atomic.Bool
	busy    atomic.Int64
	first   int64 // the ids of this basin's rows are from first up to first + idsEach
	struck  strikes
	written []map[int64]ledgerOutcome

	stopping chan struct{} // closed when the writers are to end
	writers  sync.WaitGroup
	watcher  sync.WaitGroup
	most     atomic.Int64 // most connections seen on the server
	looks    atomic.Int64
	slowLook atomic.Int64 // nanoseconds; the longest look since the network was healed
	slowest  atomic.Pointer[slowest]

	goroutines  goleak.Option // those that were there before
	descriptors int           // likewise
}

const idsEach = 1 << 40

// slowest is the longest operation of a caller.
type slowest struct {
	took time.Duration
	what string
	err  error
}

func (s *slowest) String() string {
	return fmt.Sprintf("%v (%s: %v)", s.took.Round(time.Millisecond), s.what, s.err)
}

// calls are the operations that began within some stretch of time.
type calls struct {
	mu        sync.Mutex
	succeeded int
	late      int            // of succeeded, those that took more than soon
	cancelled int            // by their own context
	failed    map[string]int // by the cause that the error names
	errors    map[string]string
	slowest   time.Duration
	what      string // was slowest
}

func newCalls() *calls { return &calls{failed: map[string]int{}, errors: map[string]string{}} }

func (c *calls) failures() (n int) {
	for _, k := range c.failed {
		n += k
	}
	return n
}

func (c *calls) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.succeeded + c.failures()
}

func (c *calls) String() string {
	causes := slices.Sorted(maps.Keys(c.failed))
	for i, cause := range causes {
		causes[i] = fmt.Sprintf("%d× %s", c.failed[cause], cause)
	}
	return fmt.Sprintf("%d succeeded, %d cancelled, %d failed (%s), slowest %v (%s)", c.succeeded, c.cancelled,
		c.failures(), strings.Join(causes, ", "), c.slowest.Round(time.Millisecond), c.what)
}

// waterServer is the server that basins are filled from.
func waterServer(t *testing.T) *pgtest.Server {
	t.Helper()
	server := pgtest.Start(t, "max_connections=40")
	look, err := sql.Open("postgres", server.DSN())
	require.NoError(t, err)
	defer look.Close()
	_, err = look.Exec("CREATE TABLE ledger (id bigint PRIMARY KEY)")
	require.NoError(t, err)
	return server
}

// newBasin opens a pool on server through a proxy. params go to the DSN: pool_timeout, socket_timeout and connect_timeout
// have to be among them, the last unless the driver is to have none.
func newBasin(t *testing.T, rnd *rand.Rand, server *pgtest.Server, limit int, params ...string) *basin {
	t.Helper()
	n := pooltest.Number()
	b := &basin{
		t: t, rnd: rnd, server: server, limit: limit, cached: true,
		name:     fmt.Sprintf("basin_%d_%d", os.Getpid(), n),
		stopping: make(chan struct{}),
		first:    n * idsEach,
	}
	for _, p := range params {
		name, value, _ := strings.Cut(p, "=")
		seconds, err := time.ParseDuration(value + "s")
		if err != nil {
			seconds, err = time.ParseDuration(value)
		}
		require.NoError(t, err, p)
		switch name {
		case "pool_timeout":
			b.poolTimeout = seconds
		case "socket_timeout":
			b.socketTimeout = seconds
		case "connect_timeout":
			b.connectTimeout = seconds
		case "statement_cache_size":
			b.cached = seconds > 0
		}
	}
	require.NotZero(t, b.poolTimeout)
	require.NotZero(t, b.socketTimeout)

	b.look = pooltest.OpenControl(t, server.DSN())
	require.NoError(t, b.look.Ping())
	b.goroutines = goleak.IgnoreCurrent()
	b.descriptors = descriptors(t)

	var err error
	b.proxy, err = faultproxy.New(fmt.Sprintf("%s:%d", server.Host(), server.Port()))
	require.NoError(t, err)
	t.Cleanup(func() {
		// First, because it ends what hangs.
		assert.NoError(t, b.proxy.Close())
		if b.db != nil {
			b.db.Close()
		}
	})
	u, err := url.Parse(server.DSN())
	require.NoError(t, err)
	u.Host = b.proxy.Addr()
	b.db, err = lifeguard.Open("postgres", pooltest.AddParams(t, u.String(), append(params,
		"application_name="+b.name, fmt.Sprint("connection_limit=", limit))...), pooltest.Quiet)
	require.NoError(t, err)
	return b
}

// descriptors counts the open files of this process, 0 where the system does not tell.
func descriptors(t *testing.T) int {
	t.Helper()
	if runtime.GOOS != "linux" {
		return 0
	}
	files, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	return len(files)
}

// writersEach is how many callers a basin has for each connection.
const writersEach = 3

// fill starts the writers, and the watcher who counts connections on the server.
func (b *basin) fill(seed uint64) {
	b.calls.Store(newCalls())
	for g := range b.limit * writersEach {
		own := map[int64]ledgerOutcome{}
		b.written = append(b.written, own)
		b.writers.Go(func() {
			w := &writer{basin: b, rnd: rand.New(rand.NewPCG(seed, uint64(g))), own: own, next: b.first + int64(g)<<28, sendsLarge: g == 0}
			w.run()
		})
	}
	b.watcher.Go(b.watch)
}

// watch looks at the server every few milliseconds for the pool's connections. Those whose client has closed its end do
// not count: nobody can know of it on a server whom the news has not reached.
func (b *basin) watch() {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-b.stopping:
			return
		case <-tick.C:
		}
		start := time.Now()
		ports, err := b.ports()
		if err != nil {
			continue // the server is down, or full
		}
		b.slowLook.Store(max(b.slowLook.Load(), int64(time.Since(start))))
		open := 0
		for _, port := range ports {
			if !b.proxy.ClientLeft(port) {
				open++
			}
		}
		b.looks.Add(1)
		b.most.Store(max(b.most.Load(), int64(open)))
	}
}

func (b *basin) ports() (ports []int, err error) {
	rows, err := b.look.Query("SELECT client_port FROM pg_stat_activity WHERE application_name = $1", b.name)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var port int
		if err := rows.Scan(&port); err != nil {
			return nil, err
		}
		ports = append(ports, port)
	}
	return ports, rows.Err()
}

// A writer uses the pool in all the ways there are, one after the other.
type writer struct {
	*basin
	rnd        *rand.Rand
	own        map[int64]ledgerOutcome
	next       int64
	sendsLarge bool

	ctx    context.Context // of the present piece of work
	called *calls          // those the present piece of work belongs to
}

func (w *writer) run() {
	for {
		select {
		case <-w.stopping:
			return
		case <-time.After(time.Duration(w.rnd.IntN(4000)) * time.Microsecond):
		}
		if w.paused.Load() {
			continue
		}
		w.busy.Add(1)
		w.work()
		w.busy.Add(-1)
	}
}

const (
	insertRow  = "INSERT INTO ledger VALUES ($1)"
	selectEcho = "SELECT $1::bigint"
	selectRows = "SELECT i, $1::bigint FROM generate_series(1, $2::int) AS i"
	selectSize = "SELECT octet_length($1::bytea)"
)

// work does one thing. Its rows are noted as what the pool said of them.
func (w *writer) work() {
	w.called = w.calls.Load()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	switch w.rnd.IntN(8) {
	case 0:
		timer := time.AfterFunc(time.Duration(w.rnd.IntN(10_000))*time.Microsecond, cancel)
		defer timer.Stop()
	case 1:
		ctx, cancel = context.WithTimeout(ctx, time.Duration(w.rnd.IntN(50))*time.Millisecond)
		defer cancel()
	}
	w.ctx = ctx
	id := w.next
	w.next++
	if w.sendsLarge && w.large.Load() && w.rnd.IntN(8) == 0 {
		value := make([]byte, 2<<20)
		var size int
		if w.try("large", func() error { return w.db.QueryRowContext(ctx, selectSize, value).Scan(&size) }) == nil {
			w.same("large", int64(len(value)), int64(size))
		}
		return
	}
	switch w.rnd.IntN(6) {
	case 0:
		w.own[id] = unknown
		if w.try("insert", func() error { _, err := w.db.ExecContext(ctx, insertRow, id); return err }) == nil {
			w.own[id] = acknowledged
		}
	case 1:
		w.own[id] = w.transaction(id)
	case 2:
		var got int64
		if w.try("row", func() error { return w.db.QueryRowContext(ctx, selectEcho, id).Scan(&got) }) == nil {
			w.same("row", id, got)
		}
	case 3:
		w.try("rows", func() error { return w.rows(id, 1+w.rnd.IntN(500)) })
	case 4:
		w.prepared(id)
	case 5:
		var got int64
		if w.try("text", func() error { return w.db.QueryRowContext(ctx, fmt.Sprint("SELECT ", id)).Scan(&got) }) == nil {
			w.same("text", id, got)
		}
	}
}

// same checks a value that was read in the way what says.
func (w *writer) same(what string, want, got int64) {
	if want != got {
		w.wrong(what, want, got, nil)
	}
}

// wrong reports an answer that is not the one to the question: with its bytes, because one that differs in the last of
// them alone is not another's, and with what came after it.
func (w *writer) wrong(what string, want, got int64, after error) {
	w.t.Errorf("%s: asked for %d (%#x), got %d (%#x): a wrong answer; after it: %v; statements are kept: %v; before it: %v",
		what, want, want, got, got, after, w.cached, &w.basin.struck)
}

// strikes are the latest faults, for who wants to know what an operation may have met.
type strikes struct {
	mu     sync.Mutex
	latest []string // guarded by mu
}

func (s *strikes) note(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	const enough = 8
	if len(s.latest) == enough {
		s.latest = slices.Delete(s.latest, 0, 1)
	}
	s.latest = append(s.latest, time.Now().Format("05.000 ")+name)
}

func (s *strikes) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.latest, ", ") + time.Now().Format(", 05.000 now")
}

// strike notes when a fault begins and ends.
func (b *basin) strike(f serverFault, length time.Duration) {
	b.struck.note(f.name)
	defer b.struck.note("end of " + f.name)
	f.strike(b, length)
}

// transaction says what became of id.
func (w *writer) transaction(id int64) ledgerOutcome {
	var tx *sql.Tx
	if w.try("begin", func() (err error) { tx, err = w.db.BeginTx(w.ctx, nil); return err }) != nil {
		return refused // it was not even sent
	}
	if w.try("insert in transaction", func() error { _, err := tx.ExecContext(w.ctx, insertRow, id); return err }) != nil {
		// Whatever becomes of the rollback, nobody has asked for a commit. Why the connection is bad was said before.
		w.try("rollback", func() error { _ = tx.Rollback(); return nil })
		return refused
	}
	if w.rnd.IntN(4) == 0 {
		w.try("rollback", tx.Rollback)
		return refused
	}
	if w.try("commit", tx.Commit) != nil {
		return unknown
	}
	return acknowledged
}

// rows reads n rows. It must not take less for all of them.
func (w *writer) rows(id int64, n int) error {
	rows, err := w.db.QueryContext(w.ctx, selectRows, id, n)
	if err != nil {
		return err
	}
	defer rows.Close()
	var i int64
	for rows.Next() {
		var number, got int64
		if err := rows.Scan(&number, &got); err != nil {
			return err
		}
		i++
		if number != i || got != id {
			want := id
			if number != i {
				want, got = i, number
			}
			rows.Next()
			w.wrong("rows", want, got, rows.Err())
			return rows.Err()
		}
	}
	if err := rows.Err(); err != nil {
		return err
	}
	w.same("number of rows", int64(n), i)
	return nil
}

func (w *writer) prepared(id int64) {
	var st *sql.Stmt
	if w.try("prepare", func() (err error) { st, err = w.db.PrepareContext(w.ctx, selectEcho); return err }) != nil {
		return
	}
	for range 2 {
		var got int64
		if w.try("prepared", func() error { return st.QueryRowContext(w.ctx, id).Scan(&got) }) == nil {
			w.same("prepared", id, got)
		}
	}
	w.try("close", func() error {
		if err := st.Close(); err != nil && !errors.Is(err, driver.ErrBadConn) {
			return err // the statement of a broken connection is gone with it
		}
		return nil
	})
}

// try times one operation and takes down how it ended. The driver's panics pass for errors.
func (w *writer) try(what string, operation func() error) (err error) {
	begin := time.Now()
	err = func() (err error) {
		defer func() {
			if v := recover(); v != nil {
				driverPanicked.Store(true)
				err = fmt.Errorf("%w: %v", errDriverPanic, v)
			}
		}()
		return operation()
	}()
	took := time.Since(begin)
	for {
		before := w.slowest.Load()
		if before != nil && took <= before.took || w.slowest.CompareAndSwap(before, &slowest{took, what, err}) {
			break
		}
	}

	c := w.called
	c.mu.Lock()
	defer c.mu.Unlock()
	if took > c.slowest {
		c.slowest, c.what = took, what
	}
	switch {
	case err == nil:
		c.succeeded++
		if took > soon {
			c.late++
		}
	case w.ctx.Err() != nil && endOfContext(err):
		c.cancelled++
	default:
		cause := causeOf(err)
		c.failed[cause]++
		if c.errors[cause] == "" {
			c.errors[cause] = what + ": " + err.Error()
		}
	}
	return err
}

var errDriverPanic = errors.New("the driver panicked")

// driverPanicked says whether the driver ever did. lib/pq starts a goroutine for each context that can end, and a panic of
// its own, over garbage, leaves that behind.
var driverPanicked atomic.Bool

func ofDriverPanics() (options []goleak.Option) {
	if driverPanicked.Load() {
		for _, function := range []string{"(*stmt)", "(*conn)"} {
			options = append(options, goleak.IgnoreAnyFunction("github.com/lib/pq."+function+".watchCancel.func1"))
		}
	}
	return options
}

// endOfContext says whether err is how an operation ends whose context has ended.
func endOfContext(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, sql.ErrTxDone) ||
		errors.Is(err, driver.ErrBadConn) || pooltest.WasCancelled(err)
}

// causeOf is what an error names as its cause, "" if it names none.
func causeOf(err error) string {
	var timeout *lifeguard.PoolTimeoutError
	if errors.As(err, &timeout) {
		switch {
		case timeout.Err != nil:
			return "pool timeout: " + causeOf(timeout.Err)
		case timeout.InUse < timeout.Limit-1: // one may be on its way from hand to hand
			return "" // something else than holders must have been the cause
		}
		return "pool timeout: full"
	}
	text := err.Error()
	var server *pq.Error
	var network net.Error
	switch {
	case errors.Is(err, errDriverPanic), strings.Contains(text, "the driver panicked while it opened a connection"):
		return "driver panicked"
	case strings.Contains(text, "socket_timeout="):
		return "socket_timeout"
	case strings.Contains(text, "was given up after"):
		return "dial given up"
	case strings.Contains(text, "has not finished after"):
		return "dial not finished"
	case strings.Contains(text, "that was open has not answered within"):
		return "ping not answered"
	case errors.As(err, &server) && server.Code != "":
		return "server says " + string(server.Code)
	case errors.Is(err, syscall.ECONNREFUSED):
		return "connection refused"
	case errors.Is(err, syscall.ECONNRESET):
		return "connection reset"
	case errors.Is(err, syscall.EPIPE):
		return "broken pipe"
	case errors.Is(err, driver.ErrBadConn), strings.Contains(text, driver.ErrBadConn.Error()):
		return "bad connection"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), strings.HasSuffix(text, "EOF"):
		return "end of connection"
	case errors.As(err, &network) && network.Timeout() && strings.Contains(text, "i/o timeout"):
		return "i/o timeout"
	case strings.HasPrefix(text, "pq: "):
		return "protocol"
	}
	return ""
}

// A serverFault is something that happens to the network or the server.
type serverFault struct {
	name   string
	length time.Duration // in TestFaults
	rare   bool          // takes the whole server down: a storm has it less often

	// strike does it, for about length, in the test's goroutine: see basin.strike. When it has returned, the network is
	// healed.
	strike func(b *basin, length time.Duration)

	// params are the pool's in TestFaults, where they differ from faultParams.
	params []string

	// causes matches what errors may name, during the fault and in the moment after.
	causes string
}

var faultParams = []string{"pool_timeout=1", "socket_timeout=1", "connect_timeout=2"}

const (
	// broken is what the end of a connection looks like, depending on where the driver meets it. 23505 is the second
	// execution of an INSERT: lib/pq answers with driver.ErrBadConn, which makes database/sql repeat a statement, also
	// when the connection ended after the statement had been sent.
	broken = "(pool timeout: )?(bad connection|connection reset|broken pipe|end of connection)|server says 23505"

	full     = "pool timeout: full" // of calls that take long
	unheard  = "socket_timeout|pool timeout: ping not answered"
	noDial   = "pool timeout: (dial given up|dial not finished|i/o timeout)"
	shutdown = "server says 57P0[123]|(pool timeout: )?server says 57P03"
)

var serverFaults = []serverFault{
	{
		name: "replies cut by RST", length: 700 * time.Millisecond, causes: broken,
		strike: func(b *basin, length time.Duration) { b.cutReplies(length, faultproxy.RST) },
	}, {
		name: "replies cut by FIN", length: 700 * time.Millisecond, causes: broken, params: []string{"statement_cache_size=0"},
		strike: func(b *basin, length time.Duration) { b.cutReplies(length, faultproxy.FIN) },
	}, {
		name: "open connections are half-open", length: 1700 * time.Millisecond, causes: unheard + "|" + full + "|" + noDial,
		strike: func(b *basin, length time.Duration) {
			b.proxy.Lose(faultproxy.Both)
			b.pause(length)
		},
	}, {
		name: "replies vanish", length: 1700 * time.Millisecond, causes: unheard + "|" + full + "|" + noDial,
		params: []string{"statement_cache_size=0"},
		strike: func(b *basin, length time.Duration) {
			b.proxy.Lose(faultproxy.ToClient)
			b.pause(length)
		},
	}, {
		name: "everything vanishes", length: 2200 * time.Millisecond, causes: unheard + "|" + full + "|" + noDial,
		strike: func(b *basin, length time.Duration) {
			b.admit(faultproxy.Unreachable)
			b.proxy.Lose(faultproxy.Both)
			b.pause(length)
		},
	}, {
		// Without connect_timeout lib/pq does not bound what follows the opening of the socket.
		name: "nothing is answered", length: 2200 * time.Millisecond,
		causes: unheard + "|" + full + "|" + noDial,
		params: []string{"pool_timeout=1", "socket_timeout=1", "statement_cache_size=0"},
		strike: func(b *basin, length time.Duration) {
			b.admit(faultproxy.Silent)
			b.proxy.Lose(faultproxy.Both)
			b.pause(length)
		},
	}, {
		name: "200ms of latency, and jitter", length: 1600 * time.Millisecond, causes: unheard + "|" + full + "|" + noDial,
		params: []string{"pool_timeout=3", "socket_timeout=2", "connect_timeout=4"},
		strike: func(b *basin, length time.Duration) {
			b.proxy.SetShape(faultproxy.Both, faultproxy.Shape{Delay: 75 * time.Millisecond, Jitter: 50 * time.Millisecond})
			b.pause(length)
		},
	}, {
		name: "1 kB/s", length: 1600 * time.Millisecond, causes: unheard + "|" + full + "|" + noDial,
		strike: func(b *basin, length time.Duration) {
			b.large.Store(true)
			defer b.large.Store(false)
			b.proxy.SetShape(faultproxy.Both, faultproxy.Shape{BytesPerSecond: 1000})
			b.pause(length)
		},
	}, {
		name: "dials are refused", length: 1300 * time.Millisecond, causes: broken + "|pool timeout: (connection refused|dial not finished)",
		strike: func(b *basin, length time.Duration) {
			b.admit(faultproxy.Refuse)
			b.proxy.Cut(faultproxy.RST)
			b.pause(length)
		},
	}, {
		name: "dials hang", length: 1500 * time.Millisecond, causes: broken + "|" + noDial,
		strike: func(b *basin, length time.Duration) {
			b.admit(faultproxy.Unreachable)
			b.proxy.Cut(faultproxy.RST)
			b.pause(length)
		},
	}, {
		name: "dials are accepted and not answered", length: 1500 * time.Millisecond, causes: broken + "|" + noDial,
		strike: func(b *basin, length time.Duration) {
			b.admit(faultproxy.Silent)
			b.proxy.Cut(faultproxy.FIN)
			b.pause(length)
		},
	}, {
		name: "the server answers garbage", length: 1300 * time.Millisecond,
		causes: broken + "|" + unheard + "|" + full + "|" + noDial + "|(pool timeout: )?(protocol|end of connection|connection reset|" +
			"driver panicked|server says .*)|driver panicked",
		strike: func(b *basin, length time.Duration) {
			b.admit(faultproxy.Garbage)
			b.proxy.Garble()
			b.pause(length)
		},
	}, {
		name: "the server restarts at once", length: 300 * time.Millisecond, rare: true,
		causes: broken + "|" + shutdown,
		strike: func(b *basin, length time.Duration) {
			b.server.Stop(b.t, "immediate")
			b.pause(length)
			b.server.Start(b.t)
		},
	}, {
		name: "the postmaster is killed", length: 300 * time.Millisecond, rare: true,
		causes: broken + "|" + shutdown,
		strike: func(b *basin, length time.Duration) {
			b.server.Kill(b.t)
			b.pause(length)
			b.server.Start(b.t)
		},
	}, {
		name: "others take max_connections", length: 1500 * time.Millisecond,
		causes: broken + "|pool timeout: (server says 53300|connection refused)|" + full,
		strike: (*basin).crowd,
	},
}

// pause lets a fault last.
func (b *basin) pause(length time.Duration) { time.Sleep(length) }

func (b *basin) admit(a faultproxy.Admission) {
	b.t.Helper()
	require.NoError(b.t, b.proxy.Admit(a))
}

func (b *basin) cutReplies(length time.Duration, how faultproxy.Ending) {
	for end := time.Now().Add(length); time.Now().Before(end); {
		b.proxy.CutAfter(faultproxy.ToClient, b.rnd.IntN(3000), how)
		b.pause(time.Duration(b.rnd.IntN(40)) * time.Millisecond)
	}
}

// crowd has others take every connection that the server has, and then give a few back, fewer than the pool may have.
func (b *basin) crowd(length time.Duration) {
	others, err := sql.Open("postgres", pooltest.AddParams(b.t, b.server.DSN(), "application_name=others"))
	require.NoError(b.t, err)
	defer func() { assert.NoError(b.t, others.Close()) }()
	others.SetMaxIdleConns(0)
	var held []*sql.Conn
	defer func() {
		for _, c := range held {
			assert.NoError(b.t, c.Close())
		}
	}()
	b.admit(faultproxy.Refuse) // else the pool would be quicker
	b.proxy.Cut(faultproxy.RST)
	for full := 0; full < 10; {
		c, err := others.Conn(b.t.Context())
		if err != nil {
			require.True(b.t, pooltest.IsCode(err, "53300"), "%v", err)
			full++ // though one that was cut may be ending still
			b.pause(5 * time.Millisecond)
			continue
		}
		held = append(held, c)
	}
	b.admit(faultproxy.Forward)
	b.pause(2 * length / 3)
	few := len(held) - b.limit/2
	for _, c := range held[few:] {
		assert.NoError(b.t, c.Close())
	}
	held = held[:few]
	b.pause(length / 3)
}

// heal ends the faults and gives back the calls that begin from then on.
func (b *basin) heal() *calls {
	b.t.Helper()
	require.NoError(b.t, b.proxy.Heal())
	b.slowLook.Store(0)
	c := newCalls()
	b.calls.Store(c)
	return c
}

// longest is the longest that a caller may wait.
func (b *basin) longest() time.Duration { return b.poolTimeout + b.socketTimeout + time.Second }

// unnamed reports errors that name no cause, or not one of those that match causes.
func (b *basin) unnamed(during string, c *calls, causes string) {
	b.t.Helper()
	match := regexp.MustCompile("^(" + causes + ")$")
	c.mu.Lock()
	defer c.mu.Unlock()
	for cause, n := range c.failed {
		if cause == "" || !match.MatchString(cause) {
			b.t.Errorf("%s: %d errors name %q as their cause, which it was not: %s", during, n, cause, c.errors[cause])
		}
	}
}

// soon is within what calls succeed again after a fault.
const soon = 2 * time.Second

// tooBusy is how long a look at the server past pool and proxy takes only where this machine has no time for anybody.
const tooBusy = 100 * time.Millisecond

// recovered checks the calls that began in the first moment after the network was healed: 99 in 100 succeed soon.
func (b *basin) recovered(c *calls) {
	b.t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.succeeded + c.failures()
	assert.Positive(b.t, n)
	switch look := time.Duration(b.slowLook.Load()); {
	case 100*(c.succeeded-c.late) >= 99*n:
	case look >= tooBusy:
		b.t.Logf("not judged, because a plain connection to the server took %v for a look: %d of %d calls failed and %d took more than %v",
			look, c.failures(), n, c.late, soon)
	default:
		b.t.Errorf("after the end of the fault %d of %d calls failed and %d took more than %v (a look took %v): %v",
			c.failures(), n, c.late, soon, look, c.errors)
	}
}

// stop ends the writers. If some of them hang, it reports that, frees them, and answers false.
func (b *basin) stop() bool {
	b.t.Helper()
	close(b.stopping)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		b.writers.Wait()
		b.watcher.Wait()
	}()
	select {
	case <-ended:
		return true
	case <-time.After(b.longest()):
		buf := make([]byte, 1<<20)
		b.t.Errorf("%d callers are still waiting %v after the last call began:\n%s", b.busy.Load(), b.longest(),
			callersIn(string(buf[:runtime.Stack(buf, true)])))
		require.NoError(b.t, b.proxy.Close())
		<-ended
		return false
	}
}

// callersIn picks one writer's stack out of all.
func callersIn(stacks string) string {
	for stack := range strings.SplitSeq(stacks, "\n\n") {
		if strings.Contains(stack, "(*writer).try") {
			return stack
		}
	}
	return stacks
}

// placesBack checks that by deadline the pool has nothing in use and can give out everything it has, and that no
// statement is left on its connections.
func (b *basin) placesBack(deadline time.Time) {
	b.t.Helper()
	pool := pooltest.PoolOf(b.t, b.db)
	for {
		st := pool.Stats()
		if st.InUse == 0 && st.Waiting == 0 {
			break
		}
		if time.Now().After(deadline) {
			b.t.Errorf("places are missing: %+v, %+v", st, pool.Holders())
			return
		}
		time.Sleep(time.Millisecond)
	}
	// What is due at once, with a moment for a machine that does other things too.
	deadline = later(deadline, time.Now().Add(200*time.Millisecond))
	ctx, cancel := context.WithDeadline(b.t.Context(), deadline)
	defer cancel()
	conns := make([]*sql.Conn, b.limit)
	var wg sync.WaitGroup
	for i := range conns {
		wg.Go(func() {
			c, err := b.db.Conn(ctx)
			if assert.NoError(b.t, err, "place %d of %d, %+v", i+1, b.limit, pool.Stats()) {
				conns[i] = c
			}
		})
	}
	b.quickly(time.Until(deadline)+time.Second, "taking all places", wg.Wait)
	pids := map[int]bool{}
	for _, c := range conns {
		if c == nil {
			continue
		}
		var pid, statements, texts int
		const question = "SELECT pg_backend_pid(), (SELECT count(*) FROM pg_prepared_statements), " +
			"(SELECT count(DISTINCT statement) FROM pg_prepared_statements)"
		if assert.NoError(b.t, c.QueryRowContext(ctx, question).Scan(&pid, &statements, &texts)) {
			pids[pid] = true
			assert.Equal(b.t, texts, statements, "a statement is prepared more than once on a connection")
			if !b.cached {
				assert.Zero(b.t, statements, "statements left")
			}
		}
	}
	assert.Len(b.t, pids, b.limit)
	for _, c := range conns {
		if c != nil {
			assert.NoError(b.t, c.Close())
		}
	}
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// rowsThere compares what the pool said of the rows with the rows.
func (b *basin) rowsThere() (acknowledgedRows, unknownRows int) {
	b.t.Helper()
	there := map[int64]bool{}
	rows, err := b.look.Query("SELECT id FROM ledger WHERE id >= $1 AND id < $2", b.first, b.first+idsEach)
	require.NoError(b.t, err)
	defer rows.Close()
	for rows.Next() {
		var id int64
		require.NoError(b.t, rows.Scan(&id))
		there[id] = true
	}
	require.NoError(b.t, rows.Err())
	for _, own := range b.written {
		for id, outcome := range own {
			switch {
			case outcome == acknowledged && !there[id]:
				b.t.Errorf("row %d is missing, though it was acknowledged", id)
			case outcome == refused && there[id]:
				b.t.Errorf("row %d is there, though it was never committed", id)
			}
			switch outcome {
			case acknowledged:
				acknowledgedRows++
			case unknown:
				unknownRows++
			}
		}
	}
	return acknowledgedRows, unknownRows
}

// drain closes everything and checks that nothing is left.
func (b *basin) drain() {
	b.t.Helper()
	counts := b.proxy.Counts()
	assert.LessOrEqual(b.t, counts.MostSessions, b.limit, "connections at the proxy")
	assert.LessOrEqual(b.t, counts.MostDialing, b.limit, "dials at the proxy")
	assert.LessOrEqual(b.t, int(b.most.Load()), b.limit, "connections on the server")
	assert.NotZero(b.t, b.looks.Load())
	assert.LessOrEqual(b.t, b.slowest.Load().took, b.longest(), "%v", b.slowest.Load())

	b.quickly(b.longest(), "closing the handle", func() { assert.NoError(b.t, b.db.Close()) })
	ours := append(ofDriverPanics(), b.goroutines)
	for _, function := range []string{"(*link).run", "(*pump).read", "(*pump).write", "(*Proxy).resume.func1"} {
		ours = append(ours, goleak.IgnoreAnyFunction("github.com/go-lifeguard/lifeguard/internal/faultproxy."+function))
	}
	// A dial that was under way ends by itself, and so does a request to cancel.
	limit := time.Now().Add(max(b.connectTimeout, b.poolTimeout) + time.Second)
	err := goleak.Find(ours...)
	for err != nil && time.Now().Before(limit) {
		err = goleak.Find(ours...)
	}
	assert.NoError(b.t, err, "goroutines left")
	assert.Zero(b.t, b.proxy.Counts().Sessions, "connections left")

	assert.NoError(b.t, b.proxy.Close())
	require.NoError(b.t, b.look.Ping())
	left := 0
	assert.Eventually(b.t, func() bool { left = descriptors(b.t); return left <= b.descriptors }, 5*time.Second,
		5*time.Millisecond, "descriptors")
	if left > b.descriptors {
		b.t.Errorf("%d descriptors, %d before", left, b.descriptors)
	}
}

// aMoment is how long after a fault calls are looked at, or until there were some, but not longer than soon.
const aMoment = 600 * time.Millisecond

// after waits for calls that begin after a fault to end.
func (b *basin) after(moment time.Duration, c *calls) {
	healed := time.Now()
	b.pause(moment)
	const some = 100
	for c.count() < some && time.Since(healed) < soon {
		b.pause(10 * time.Millisecond)
	}
	b.calls.Store(newCalls())
}

// TestFaults has one fault at a time.
func TestFaults(t *testing.T) {
	if !*allFaults {
		t.Skip("make faults runs it; TestFaultsMixed has each of these faults, too")
	}
	rnd := pooltest.Seed(t)
	server := waterServer(t)
	for _, f := range serverFaults {
		t.Run(f.name, func(t *testing.T) {
			params := f.params
			if len(params) == 0 || strings.HasPrefix(params[0], "statement_cache_size") {
				params = slices.Concat(faultParams, params)
			}
			b := newBasin(t, rnd, server, 5, params...)
			b.fill(rnd.Uint64())
			before := b.calls.Load()
			b.pause(100 * time.Millisecond)
			during := newCalls()
			b.calls.Store(during)

			b.strike(f, f.length)

			after := b.heal()
			healed := time.Now()
			b.after(aMoment, after)
			if !b.stop() {
				return
			}
			b.unnamed("before", before, f.causes) // what began before may have met the fault
			b.unnamed("during", during, f.causes)
			b.unnamed("after", after, f.causes)
			b.recovered(after)
			b.placesBack(healed.Add(b.poolTimeout + b.connectTimeout))
			acknowledgedRows, unknownRows := b.rowsThere()
			b.drain()
			t.Logf("during: %v", during)
			t.Logf("after: %v", after)
			t.Logf("%d rows acknowledged, %d unknown; %+v; at most %d on the server in %d looks; slowest %v",
				acknowledgedRows, unknownRows, b.proxy.Counts(), b.most.Load(), b.looks.Load(),
				b.slowest.Load())
			assert.Positive(t, acknowledgedRows)
		})
	}
}

// TestFaultsMixed strikes with faults at random, some on top of each other; in the short form with each of them once.
func TestFaultsMixed(t *testing.T) {
	if testing.Short() {
		t.Skip("takes ten seconds")
	}
	rnd := pooltest.Seed(t)
	b := newBasin(t, rnd, waterServer(t), 5, faultParams...)
	b.fill(rnd.Uint64())
	during := b.calls.Load()
	var struck []string
	if *allFaults {
		for end := time.Now().Add(10 * time.Second); time.Now().Before(end); {
			struck = append(struck, b.strikeAtRandom()...)
			b.pause(time.Duration(rnd.IntN(600)) * time.Millisecond)
		}
	} else {
		for _, i := range rnd.Perm(len(serverFaults)) {
			f := serverFaults[i]
			b.strike(f, time.Duration(rnd.IntN(400))*time.Millisecond)
			struck = append(struck, f.name)
			if rnd.IntN(3) > 0 {
				require.NoError(t, b.proxy.Heal())
				b.pause(time.Duration(rnd.IntN(300)) * time.Millisecond)
			}
		}
	}
	after := b.heal()
	healed := time.Now()
	// Twice as long as after a single fault: connections that the last faults have left half-open cost a call each.
	b.after(2*aMoment, after)
	if !b.stop() {
		return
	}
	b.unnamed("during", during, anyCause())
	b.unnamed("after", after, anyCause())
	b.recovered(after)
	b.placesBack(healed.Add(b.poolTimeout + b.connectTimeout))
	acknowledgedRows, unknownRows := b.rowsThere()
	b.drain()
	t.Logf("%d faults: %s", len(struck), strings.Join(struck, ", "))
	t.Logf("during: %v", during)
	t.Logf("after: %v", after)
	t.Logf("%d rows acknowledged, %d unknown; %+v; at most %d on the server in %d looks; slowest %v",
		acknowledgedRows, unknownRows, b.proxy.Counts(), b.most.Load(), b.looks.Load(), b.slowest.Load())
	assert.Positive(t, acknowledgedRows)
}

// strikeAtRandom strikes with one fault or two, the second in the midst of what the first has left behind, and heals the
// network now and then. It returns their names.
func (b *basin) strikeAtRandom() (struck []string) {
	for {
		f := serverFaults[b.rnd.IntN(len(serverFaults))]
		if f.rare && b.rnd.IntN(2) == 0 {
			continue
		}
		// Short as a rule, and now and then longer than every timeout.
		length := time.Duration(b.rnd.IntN(500)) * time.Millisecond
		if b.rnd.IntN(10) == 0 {
			length = b.poolTimeout + b.socketTimeout
		}
		b.strike(f, length)
		struck = append(struck, f.name)
		if len(struck) == 2 || b.rnd.IntN(3) > 0 {
			break
		}
	}
	require.NoError(b.t, b.proxy.Heal())
	return struck
}

// anyCause matches the causes of all faults.
func anyCause() string {
	var causes []string
	for _, f := range serverFaults {
		causes = append(causes, f.causes)
	}
	return strings.Join(causes, "|")
}

// TestRecovery has a thousand callers while the server is down.
func TestRecovery(t *testing.T) {
	const limit = 10
	callers := 100 // with the race detector, 200 are more than a machine with other work has time for
	if *allFaults {
		callers = 1000
	}
	rnd := pooltest.Seed(t)
	b := newBasin(t, rnd, waterServer(t), limit, "pool_timeout=1", "socket_timeout=2", "connect_timeout=2")
	down := 2500 * time.Millisecond
	b.calls.Store(newCalls())
	w := &writer{basin: b, ctx: context.Background()}
	seed := rnd.Uint64()
	for g := range callers {
		b.writers.Go(func() {
			rnd := rand.New(rand.NewPCG(seed, uint64(g)))
			for {
				select {
				case <-b.stopping:
					return
				case <-time.After(time.Duration(200+rnd.IntN(400)) * time.Millisecond):
				}
				own := *w
				own.called = b.calls.Load()
				b.busy.Add(1)
				own.try("text", func() error { _, err := b.db.Exec("SELECT 1"); return err })
				b.busy.Add(-1)
			}
		})
	}
	b.watcher.Go(b.watch)
	b.pause(300 * time.Millisecond)

	b.server.Stop(t, "immediate")
	b.pause(100 * time.Millisecond) // in which those meet it who had a connection
	during := newCalls()
	b.calls.Store(during)
	before := b.proxy.Counts().Accepted
	b.pause(down)
	dials := b.proxy.Counts().Accepted - before
	b.server.Start(t)
	after := b.heal()
	back := time.Now()
	b.after(aMoment, after)
	if !b.stop() {
		return
	}

	perSecond := float64(dials) / down.Seconds()
	t.Logf("%d dials in %v, %.1f a second; at most %d at once", dials, down, perSecond, b.proxy.Counts().MostDialing)
	t.Logf("while it was down: %v", during)
	t.Logf("after: %v", after)
	assert.Positive(t, dials, "the pool tries")
	assert.LessOrEqual(t, perSecond, 5.0)
	assert.Greater(t, during.failures(), callers/2)
	// Through the proxy, a server that is down accepts and hangs up. The last callers live to see it come back, and a
	// pool that is busy with the others.
	b.unnamed("during", during, "pool timeout: (connection reset|broken pipe|end of connection|dial not finished|server says 57P03)|"+full)
	if look := time.Duration(b.slowLook.Load()); look < tooBusy {
		assert.LessOrEqual(t, during.failed[full], during.failures()/20, "errors that name the holders instead of the server")
	} else {
		t.Logf("not judged, because a plain connection to the server took %v for a look: %d errors name the holders", look, during.failed[full])
	}
	b.recovered(after)
	b.placesBack(back.Add(b.poolTimeout + b.connectTimeout))
	b.drain()
}

// TestRecoveryFromLostDials has every place taken by dials that nothing will ever come of: the network has lost them, or
// a server that is no more had accepted them. That must not keep the pool from a server that is back, be pool_timeout as
// long as it may.
func TestRecoveryFromLostDials(t *testing.T) {
	server := waterServer(t)
	for name, params := range map[string][]string{"connect_timeout": {"connect_timeout=6"}, "no connect_timeout": nil} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBasin(t, nil, server, 2, slices.Concat([]string{"pool_timeout=6", "socket_timeout=1"}, params)...)
			b.admit(faultproxy.Silent)
			answered := make(chan error, 1)
			go func() { answered <- b.db.QueryRow(selectEcho, 1).Scan(new(int)) }()
			pooltest.Eventually(t, "as many dials as there are places", func() bool { return b.proxy.Counts().Dialing == b.limit })
			b.admit(faultproxy.Forward)
			back := time.Now()
			require.NoError(t, <-answered)
			assert.LessOrEqual(t, time.Since(back), soon)
		})
	}
}

// TestCancelledQueries cancels queries at random moments and looks at what comes after them on the same connections:
// every value is asked for once, so an answer to somebody else's question shows, and so does a cancellation that hits
// the wrong query.
func TestCancelledQueries(t *testing.T) {
	const limit, callers = 16, 20
	wanted := int64(*cancels) / 2 // for each of the two
	if testing.Short() {
		wanted /= 5
	}
	rnd := pooltest.Seed(t)
	dsn := pgtest.DSN(t)
	for _, cache := range []int{100, 0} {
		rnd := rand.New(rand.NewPCG(rnd.Uint64(), 0))
		t.Run(fmt.Sprint("statement_cache_size=", cache), func(t *testing.T) {
			t.Parallel()
			c := pooltest.OpenPostgres(t, "lifeguard", dsn, limit, fmt.Sprint("statement_cache_size=", cache), "pool_timeout=20")
			const slow = "SELECT $1::bigint FROM pg_sleep(0.0005)"
			kept, err := c.Prepare(slow)
			require.NoError(t, err)
			var cancelled, answered, value atomic.Int64
			kinds := []struct {
				name string
				ask  func(ctx context.Context, v int64) (int64, error)
			}{
				{"arguments", func(ctx context.Context, v int64) (got int64, err error) {
					return got, c.QueryRowContext(ctx, slow, v).Scan(&got)
				}},
				{"text", func(ctx context.Context, v int64) (got int64, err error) {
					return got, c.QueryRowContext(ctx, fmt.Sprintf("SELECT %d FROM pg_sleep(0.0005)", v)).Scan(&got)
				}},
				{"prepared", func(ctx context.Context, v int64) (got int64, err error) {
					return got, kept.QueryRowContext(ctx, v).Scan(&got)
				}},
				{"exec", func(ctx context.Context, v int64) (int64, error) {
					_, err := c.ExecContext(ctx, "SELECT pg_sleep(0.0005), $1::bigint", v)
					return v, err
				}},
				{"transaction", func(ctx context.Context, v int64) (got int64, err error) {
					tx, err := c.BeginTx(ctx, nil)
					if err != nil {
						return 0, err
					}
					defer tx.Rollback()
					if err := tx.QueryRowContext(ctx, slow, v).Scan(&got); err != nil {
						return 0, err
					}
					return got, tx.Commit()
				}},
				{"query in a transaction", func(ctx context.Context, v int64) (got int64, err error) {
					tx, err := c.BeginTx(context.Background(), nil)
					if err != nil {
						return 0, err
					}
					defer tx.Rollback()
					return got, tx.QueryRowContext(ctx, slow, v).Scan(&got)
				}},
				{"rows", func(ctx context.Context, v int64) (got int64, err error) {
					rows, err := c.QueryContext(ctx, "SELECT $1::bigint FROM generate_series(1, 200)", v)
					if err != nil {
						return 0, err
					}
					defer rows.Close()
					for rows.Next() {
						if err := rows.Scan(&got); err != nil {
							return 0, err
						}
						if got != v {
							return got, nil
						}
					}
					return got, rows.Err()
				}},
			}
			var wg sync.WaitGroup
			for range callers {
				rnd := rand.New(rand.NewPCG(rnd.Uint64(), 0))
				wg.Go(func() {
					// Not those that were waiting for a connection, to which nothing can happen.
					for cancelled.Load()-int64(pooltest.PoolOf(t, c.DB).Stats().Canceled) < wanted && !t.Failed() {
						kind := kinds[rnd.IntN(len(kinds))]
						ctx, cancel := pooltest.CancelSoon(t.Context(), rnd, 3*time.Millisecond)
						v := value.Add(1)
						got, err := kind.ask(ctx, v)
						switch {
						case err == nil:
							answered.Add(1)
							assert.Equal(t, v, got, "%s: an answer to another question", kind.name)
						case ctx.Err() != nil && endOfContext(err):
							cancelled.Add(1)
						default:
							t.Errorf("%s, not cancelled yet: %v", kind.name, err)
						}
						cancel()

						// Whoever comes next must not notice.
						kind = kinds[rnd.IntN(len(kinds))]
						v = value.Add(1)
						got, err = kind.ask(t.Context(), v)
						assert.NoError(t, err, "%s, never cancelled", kind.name)
						assert.Equal(t, v, got, "%s: an answer to another question", kind.name)
					}
				})
			}
			wg.Wait()
			t.Logf("%d cancelled, %d answered before that, %+v", cancelled.Load(), answered.Load(), pooltest.PoolOf(t, c.DB).Stats())
			assert.Positive(t, answered.Load())
			require.NoError(t, kept.Close())
			c.AllSlots(t, limit)
		})
	}
}

// quickly fails the test if f takes longer than limit, and then waits for it all the same.
func (b *basin) quickly(limit time.Duration, what string, f func()) {
	b.t.Helper()
	begin := time.Now()
	done := make(chan struct{})
	go func() { defer close(done); f() }()
	select {
	case <-done:
		if took := time.Since(begin); took > limit {
			b.t.Errorf("%s took %v, at most %v expected", what, took, limit)
		}
	case <-time.After(limit + 2*time.Second):
		buf := make([]byte, 1<<20)
		b.t.Errorf("%s hangs; at most %v expected:\n%s", what, limit, buf[:runtime.Stack(buf, true)])
		b.proxy.Cut(faultproxy.RST)
		<-done
	}
}

// TestHalfOpen has each call that waits for an answer do so in vain.
func TestHalfOpen(t *testing.T) {
	server := waterServer(t)
	open := func(t *testing.T, params ...string) *basin {
		t.Helper()
		return newBasin(t, nil, server, 2, slices.Concat([]string{"pool_timeout=1", "socket_timeout=500ms"}, params)...)
	}
	const limit = 2500 * time.Millisecond // pool_timeout + socket_timeout + 1s
	ctx := context.Background()

	t.Run("the caller's own deadline", func(t *testing.T) {
		t.Parallel()
		b := open(t)
		require.NoError(t, b.db.Ping())
		b.proxy.Lose(faultproxy.Both)
		ctx, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
		defer cancel()
		b.quickly(limit, "a query", func() {
			_, err := b.db.ExecContext(ctx, "SELECT 1")
			assert.ErrorIs(t, err, context.DeadlineExceeded, "what ended it was the caller's deadline")
			assert.NotContains(t, err.Error(), "socket_timeout")
		})
	})
	t.Run("the caller's own deadline in a transaction", func(t *testing.T) {
		t.Parallel()
		b := open(t)
		tx, err := b.db.Begin()
		require.NoError(t, err)
		b.proxy.Lose(faultproxy.Both)
		ctx, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
		defer cancel()
		b.quickly(limit, "a query", func() {
			_, err := tx.ExecContext(ctx, "SELECT 1")
			assert.ErrorIs(t, err, context.DeadlineExceeded, "what ended it was the caller's deadline")
			assert.NotContains(t, err.Error(), "socket_timeout")
		})
		b.quickly(limit, "a rollback", func() { _ = tx.Rollback() })
	})
	t.Run("the connection is not used again", func(t *testing.T) {
		t.Parallel()
		b := open(t)
		var before, after int
		require.NoError(t, b.db.QueryRow("SELECT pg_backend_pid()").Scan(&before))
		b.proxy.Lose(faultproxy.Both)
		b.quickly(limit, "a query", func() {
			assert.ErrorContains(t, b.db.QueryRow(selectEcho, 1).Scan(new(int)), "socket_timeout=500ms")
		})
		require.NoError(t, b.proxy.Heal())
		b.quickly(limit, "the next query", func() {
			assert.NoError(t, b.db.QueryRow("SELECT pg_backend_pid()").Scan(&after))
		})
		assert.NotEqual(t, before, after)
	})
	t.Run("cancellation with a long connect_timeout", func(t *testing.T) {
		t.Parallel()
		// lib/pq's statements wait for the request to cancel to be answered.
		b := open(t, "connect_timeout=20")
		require.NoError(t, b.db.QueryRow(selectEcho, 1).Scan(new(int)))
		b.admit(faultproxy.Silent)
		b.proxy.Lose(faultproxy.Both)
		b.quickly(limit, "a query", func() {
			assert.ErrorContains(t, b.db.QueryRow(selectEcho, 2).Scan(new(int)), "socket_timeout=500ms")
		})
	})
	const notKept = "EXPLAIN SELECT $1::int" // so it is closed on the server
	t.Run("closing a statement", func(t *testing.T) {
		t.Parallel()
		b := open(t)
		conn, err := b.db.Conn(ctx)
		require.NoError(t, err)
		st, err := conn.PrepareContext(ctx, notKept)
		require.NoError(t, err)
		b.proxy.Lose(faultproxy.Both)
		b.quickly(limit, "closing a statement", func() { _ = st.Close() })
		b.quickly(limit, "closing the connection", func() { _ = conn.Close() })
		b.quickly(limit, "the next query", func() { assert.NoError(t, b.db.QueryRow(selectEcho, 2).Scan(new(int))) })
	})
	t.Run("giving back a connection with open statements", func(t *testing.T) {
		t.Parallel()
		b := open(t)
		conn, err := b.db.Conn(ctx)
		require.NoError(t, err)
		_, err = conn.PrepareContext(ctx, notKept)
		require.NoError(t, err)
		b.proxy.Lose(faultproxy.Both)
		b.quickly(limit, "closing the connection", func() { _ = conn.Close() })
		b.quickly(limit, "a reset, as those that were idle are lost, too", pooltest.PoolOf(t, b.db).Reset)
		b.placesBack(time.Now().Add(limit))
	})
	t.Run("a connection that may be dead", func(t *testing.T) {
		t.Parallel()
		b := open(t)
		dead, err := b.db.Conn(ctx)
		require.NoError(t, err)
		lost, err := b.db.Conn(ctx)
		require.NoError(t, err)
		var pid int
		require.NoError(t, dead.QueryRowContext(ctx, "SELECT pg_backend_pid()").Scan(&pid))
		_, err = b.look.Exec("SELECT pg_terminate_backend($1, 20000)", pid)
		require.NoError(t, err)
		// The pool learns of one that has broken, and so it pings the other before it hands it out again.
		require.NoError(t, lost.Close())
		require.Error(t, dead.PingContext(ctx))
		dead.Close()
		b.proxy.Lose(faultproxy.Both)
		b.quickly(limit, "the next query", func() {
			// Whether it succeeds depends on how much of pool_timeout the ping leaves.
			if err := b.db.QueryRow(selectEcho, 2).Scan(new(int)); err != nil {
				assert.ErrorIs(t, err, lifeguard.ErrPoolTimeout)
			}
		})
		b.quickly(limit, "a reset", pooltest.PoolOf(t, b.db).Reset)
		b.placesBack(time.Now().Add(limit))
	})
	t.Run("rows after garbage", func(t *testing.T) {
		t.Parallel()
		// Often enough for each kind of it. After some, nothing comes any more.
		times := 2
		if *allFaults {
			times = 10
		}
		for range times {
			b := open(t)
			rows, err := b.db.Query("SELECT i, repeat(chr(1), 1000) FROM generate_series(1, 20000) AS i")
			require.NoError(t, err)
			require.True(t, rows.Next())
			b.proxy.Garble()
			value, read := strings.Repeat("\x01", 1000), 1
			b.quickly(limit, "reading the rows", func() {
				// lib/pq panics over some of it: then it is the caller's panic, as without lifeguard.
				defer func() {
					if recover() == nil {
						assert.Error(t, rows.Err())
					}
				}()
				for rows.Next() {
					var i int
					var text string
					err := rows.Scan(&i, &text)
					if read++; err != nil || i != read || text != value {
						t.Errorf("row %d is %d, %q: %v", read, i, text, err)
					}
				}
			})
			b.quickly(limit, "closing the rows", func() {
				defer func() { _ = recover() }()
				_ = rows.Close()
			})
			b.quickly(limit, "the next query", func() { assert.NoError(t, b.db.QueryRow(selectEcho, 2).Scan(new(int))) })
			require.NoError(t, b.db.Close())
		}
	})
}

// TestOwnDeadlineIsNotSocketTimeout has queries end at deadlines that are sooner than socket_timeout.
func TestOwnDeadlineIsNotSocketTimeout(t *testing.T) {
	c := pooltest.OpenPostgres(t, "lifeguard", pgtest.DSN(t), 4, "socket_timeout=20")
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 100 {
				ctx, cancel := context.WithTimeout(t.Context(), 3*time.Millisecond)
				rows, err := c.QueryContext(ctx, "SELECT pg_sleep($1) FROM generate_series(1, 10)", 0.001)
				if err == nil {
					for rows.Next() {
					}
					err = rows.Err()
					rows.Close()
				}
				if err != nil {
					assert.NotContains(t, err.Error(), "socket_timeout")
				}
				cancel()
			}
		})
	}
	wg.Wait()
}

// TestDialsThatFail has a listener of its own end dials in ways that lib/pq answers in ways of its own.
func TestDialsThatFail(t *testing.T) {
	open := func(t *testing.T, each func(*net.TCPConn)) *sql.DB {
		t.Helper()
		t.Parallel()
		l, err := net.Listen("tcp4", "127.0.0.1:0")
		require.NoError(t, err)
		var serving sync.WaitGroup
		serving.Go(func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				serving.Go(func() {
					defer c.Close()
					c.SetDeadline(time.Now().Add(5 * time.Second))
					each(c.(*net.TCPConn))
				})
			}
		})
		db, err := lifeguard.Open("postgres", fmt.Sprintf("postgres://user:secret@%s/db?sslmode=disable&pool_timeout=200ms", l.Addr()), pooltest.Quiet)
		require.NoError(t, err)
		t.Cleanup(func() {
			assert.NoError(t, db.Close())
			l.Close()
			serving.Wait()
		})
		return db
	}
	t.Run("the driver panics", func(t *testing.T) {
		// A message that is shorter than its own length: what was opened for it must not stay open.
		ended := make(chan error, 100)
		db := open(t, func(c *net.TCPConn) {
			c.Read(make([]byte, 1000))
			c.Write(make([]byte, 8))
			_, err := io.Copy(io.Discard, c)
			ended <- err
		})
		func() {
			defer func() { recover() }()
			assert.Error(t, db.Ping())
		}()
		select {
		case <-ended:
		case <-time.After(2 * time.Second):
			t.Error("the socket of the dial is still open")
		}
	})
	// A server may be on its way up, so there is a reason to wait for it, and to say how long.
	for when, each := range map[string]func(*net.TCPConn){
		"reset before the driver has said anything": func(c *net.TCPConn) { c.SetLinger(0) },
		"reset while the driver logs in": func(c *net.TCPConn) {
			c.Read(make([]byte, 1000))
			c.Write([]byte{'R', 0, 0, 0, 8, 0, 0, 0, 3}) // asks for the password
			c.SetLinger(0)
		},
		"ended while the driver logs in": func(c *net.TCPConn) { c.Read(make([]byte, 1000)) },
	} {
		t.Run(when, func(t *testing.T) {
			db := open(t, each)
			for range 5 {
				assert.ErrorIs(t, db.Ping(), lifeguard.ErrPoolTimeout)
			}
		})
	}
}
