package lifeguard_test

import (
	"bytes"
	"context"
	"database/sql"
	"database/sql/driver"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/go-lifeguard/lifeguard"
	"github.com/go-lifeguard/lifeguard/internal/fakedriver"
	"github.com/go-lifeguard/lifeguard/internal/pooltest"
)

// leakReports are what a pool said about leaks, to its handler and to its log.
type leakReports struct {
	mu    sync.Mutex
	leaks []lifeguard.Leak // guarded by mu
	log   bytes.Buffer     // guarded by mu
}

func (r *leakReports) handle(l lifeguard.Leak) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.leaks = append(r.leaks, l)
}

func (r *leakReports) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.log.Write(p)
}

// take gives the reports since the last call.
func (r *leakReports) take() ([]lifeguard.Leak, []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	leaks, text := r.leaks, strings.TrimSuffix(r.log.String(), "\n")
	r.leaks = nil
	r.log.Reset()
	if text == "" {
		return leaks, nil
	}
	return leaks, strings.Split(text, "\n")
}

// next gives the first report for which is is true, and leaves those that follow for later.
func (r *leakReports) next(is func(lifeguard.Leak) bool) (found lifeguard.Leak, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	i := slices.IndexFunc(r.leaks, is)
	if i < 0 {
		return found, false
	}
	found = r.leaks[i]
	r.leaks = r.leaks[i+1:]
	return found, true
}

func (r *leakReports) options() []lifeguard.Option {
	return []lifeguard.Option{
		lifeguard.WithLeakHandler(r.handle),
		lifeguard.WithLogger(slog.New(slog.NewTextHandler(r, nil))),
	}
}

// openReported is openFake for tests that read the reports.
func openReported(t *testing.T, srv *fakedriver.Server, set func(*lifeguard.Config), opts ...lifeguard.Option) (*sql.DB, *lifeguard.Pool, *leakReports) {
	t.Helper()
	cfg := lifeguard.DefaultConfig()
	cfg.PoolName = "fake"
	if set != nil {
		set(&cfg)
	}
	r := &leakReports{}
	db, err := lifeguard.OpenDB(srv.Connector(), append(append(r.options(), lifeguard.WithConfig(cfg)), opts...)...)
	require.NoError(t, err)
	pool, ok := lifeguard.PoolOf(db)
	require.True(t, ok)
	t.Cleanup(func() {
		assert.NoError(t, db.Close())
		assert.Eventually(t, func() bool { return srv.Open() == 0 }, 10*time.Second, time.Millisecond, "connections left open")
		assert.Empty(t, srv.Violations())
	})
	return db, pool, r
}

// A holdKind is a way to keep a connection. hold keeps one until what it returns is called.
type holdKind struct {
	name       string
	lastQuery  string
	operations int
	inTx       bool
	hold       func(t *testing.T, ctx context.Context, db *sql.DB) (giveBack func())
}

var holdKinds = []holdKind{
	{"Tx", "UPDATE customers SET name = ?", 2, true, holdTx},
	{"Conn", "", 0, false, holdConn},
	{"Rows", "SELECT name FROM customers WHERE id = ?", 1, false, holdRows},
	{"Row", "SELECT count(*) FROM customers", 1, false, holdRow},
	{"StmtRows", "SELECT name FROM customers", 1, false, holdStmtRows},
}

func holdTx(t *testing.T, ctx context.Context, db *sql.DB) func() {
	tx, err := db.BeginTx(ctx, nil)
	require.NoError(t, err)
	_, err = tx.ExecContext(ctx, "UPDATE customers SET name = 'secret'")
	require.NoError(t, err)
	return func() { assert.NoError(t, tx.Commit()) }
}

func holdConn(t *testing.T, ctx context.Context, db *sql.DB) func() {
	c, err := db.Conn(ctx)
	require.NoError(t, err)
	return func() { assert.NoError(t, c.Close()) }
}

func holdRows(t *testing.T, ctx context.Context, db *sql.DB) func() {
	rows, err := db.QueryContext(ctx, "SELECT name FROM customers WHERE id = 4711")
	require.NoError(t, err)
	require.True(t, rows.Next())
	return func() {
		assert.NoError(t, rows.Close())
		assert.NoError(t, rows.Err())
	}
}

func holdRow(t *testing.T, ctx context.Context, db *sql.DB) func() {
	row := db.QueryRowContext(ctx, "SELECT count(*) FROM customers")
	return func() {
		var n int
		assert.NoError(t, row.Scan(&n))
	}
}

func holdStmtRows(t *testing.T, ctx context.Context, db *sql.DB) func() {
	stmt, err := db.PrepareContext(ctx, "SELECT name FROM customers")
	require.NoError(t, err)
	t.Cleanup(func() { stmt.Close() })
	rows, err := stmt.QueryContext(ctx)
	require.NoError(t, err)
	return func() { assert.NoError(t, rows.Close()) }
}

func TestLeakReports(t *testing.T) {
	for _, kind := range holdKinds {
		for _, threshold := range []time.Duration{100 * time.Millisecond, 5 * time.Second, time.Minute} {
			t.Run(fmt.Sprintf("%s/Threshold=%v", kind.name, threshold), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { testLeakReport(t, kind, threshold) })
			})
		}
	}
}

func testLeakReport(t *testing.T, kind holdKind, threshold time.Duration) {
	recorder := tracetest.NewSpanRecorder()
	tracers := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(recorder))
	db, pool, reports := openReported(t, fakedriver.New(), func(c *lifeguard.Config) { c.LeakThreshold = threshold },
		lifeguard.WithTracerProvider(tracers))
	tolerance := min(threshold/10, time.Second)

	ctx, span := tracers.Tracer("test").Start(t.Context(), "request")
	time.Sleep(rand.N(2 * threshold)) // the janitor's rounds must not matter
	since := time.Now()
	giveBack := kind.hold(t, ctx, db)
	span.End()

	time.Sleep(threshold - time.Nanosecond)
	synctest.Wait()
	leaks, log := reports.take()
	require.Empty(t, leaks, "before leak_threshold")
	require.Empty(t, log)
	require.Len(t, pool.Holders(), 1)
	assert.False(t, pool.Holders()[0].Leaked)
	assert.Zero(t, pool.Stats().Leaks)

	time.Sleep(tolerance + time.Nanosecond)
	synctest.Wait()
	leaks, log = reports.take()
	require.Len(t, leaks, 1)
	leak := leaks[0]
	assert.Equal(t, "fake", leak.Pool)
	assert.Equal(t, lifeguard.LeakHeld, leak.Kind)
	assert.True(t, leak.Leaked)
	assert.False(t, leak.Returned || leak.Reclaimed || leak.Busy)
	assert.Equal(t, since, leak.Since)
	assert.GreaterOrEqual(t, leak.Held, threshold)
	assert.LessOrEqual(t, leak.Held, threshold+tolerance)
	assert.Equal(t, kind.lastQuery, leak.LastQuery)
	assert.Equal(t, kind.operations, leak.Operations)
	assert.Equal(t, kind.inTx, leak.InTx)
	assert.Equal(t, span.SpanContext(), leak.SpanContext)
	require.NotEmpty(t, leak.Stack)
	function := "lifeguard_test.hold" + kind.name
	assert.True(t, strings.HasSuffix(leak.Stack[0].Function, function), "the first frame is %s", leak.Stack[0].Function)
	assert.EqualValues(t, 1, pool.Stats().Leaks)
	assert.True(t, pool.Holders()[0].Leaked)

	require.Len(t, log, 1)
	assert.Contains(t, log[0], `level=WARN msg="lifeguard: a connection is held too long" pool=fake held=`)
	assert.Contains(t, log[0], function)
	assert.Contains(t, log[0], span.SpanContext().TraceID().String())
	assert.NotContains(t, log[0], "secret")
	assert.NotContains(t, log[0], "4711")

	i := slices.IndexFunc(recorder.Ended(), func(s sdktrace.ReadOnlySpan) bool { return s.Name() == "connection leak" })
	require.GreaterOrEqual(t, i, 0)
	made := recorder.Ended()[i]
	assert.Equal(t, since, made.StartTime())
	assert.Equal(t, since.Add(leak.Held), made.EndTime())
	assert.False(t, made.Parent().IsValid(), "a trace of its own: the one that took the connection may be over")
	require.Len(t, made.Links(), 1)
	assert.Equal(t, span.SpanContext(), made.Links()[0].SpanContext)
	assert.Equal(t, codes.Error, made.Status().Code)
	attributes := attribute.NewSet(made.Attributes()...)
	for key, want := range map[attribute.Key]string{
		"db.client.connection.pool.name": "fake", "lifeguard.leak.kind": "held", "code.function.name": leak.Stack[0].Function,
	} {
		got, _ := attributes.Value(key)
		assert.Equal(t, want, got.AsString(), key)
	}

	// Reported again when the time held has doubled, and when it has doubled once more; not in between.
	for _, times := range []time.Duration{2, 4} {
		time.Sleep(time.Until(since.Add(times*threshold - time.Nanosecond)))
		synctest.Wait()
		leaks, _ = reports.take()
		require.Empty(t, leaks)
		time.Sleep(tolerance + time.Nanosecond)
		synctest.Wait()
		leaks, log = reports.take()
		require.Len(t, leaks, 1)
		assert.GreaterOrEqual(t, leaks[0].Held, times*threshold)
		require.Len(t, log, 1)
		assert.Contains(t, log[0], "is still held")
	}
	assert.EqualValues(t, 1, pool.Stats().Leaks, "counted once")
	ended := 0
	for _, s := range recorder.Ended() {
		if s.Name() == "connection leak" {
			ended++
		}
	}
	assert.Equal(t, 1, ended)

	time.Sleep(threshold)
	held := time.Since(since)
	giveBack()
	time.Sleep(tolerance)
	synctest.Wait()
	leaks, log = reports.take()
	require.Len(t, leaks, 1)
	assert.True(t, leaks[0].Returned)
	assert.False(t, leaks[0].Reclaimed)
	assert.GreaterOrEqual(t, leaks[0].Held, held)
	assert.LessOrEqual(t, leaks[0].Held, held+tolerance)
	require.Len(t, log, 1)
	assert.Contains(t, log[0], "level=INFO")
	assert.Contains(t, log[0], "was returned")
	assert.NotContains(t, log[0], "stack=")
	assert.Empty(t, pool.Holders())

	time.Sleep(100 * threshold)
	synctest.Wait()
	leaks, log = reports.take()
	assert.Empty(t, leaks)
	assert.Empty(t, log)
}

// Ten workers, each taking a connection for half a threshold at most, 10,000 times a second together.
func TestNoReportForThoseInTime(t *testing.T) {
	length := 2 * time.Minute
	if pooltest.RaceEnabled || testing.Short() {
		length = 5 * time.Second
	}
	synctest.Test(t, func(t *testing.T) {
		const threshold = 2 * time.Millisecond
		db, pool, reports := openReported(t, fakedriver.New(), func(c *lifeguard.Config) { c.LeakThreshold = threshold })
		end := time.Now().Add(length)
		var wg sync.WaitGroup
		for i := range 10 {
			wg.Go(func() {
				kind := holdKinds[1+i%3] // those without statements to close afterwards
				for time.Now().Before(end) {
					giveBack := kind.hold(t, t.Context(), db)
					time.Sleep(threshold / 2)
					giveBack()
				}
			})
		}
		wg.Wait()
		time.Sleep(time.Second)
		leaks, log := reports.take()
		assert.Empty(t, leaks)
		assert.Empty(t, log)
		st := pool.Stats()
		t.Logf("%d checkouts, %.0f a second", st.Acquired, float64(st.Acquired)/length.Seconds())
		assert.GreaterOrEqual(t, float64(st.Acquired), 9900*length.Seconds())
		assert.Zero(t, st.Leaks)
	})
}

var leakFreeFor = flag.Duration("leakfree", 2*time.Second,
	"how long TestNoReportInRealTime takes connections and gives them back")

// The same by the machine's clock, with everything that a bubble does not have: goroutines that run side by side,
// garbage collections, a janitor that is late. Who falls behind makes up for it.
func TestNoReportInRealTime(t *testing.T) {
	const (
		workers   = 8
		perSecond = 10_000
		threshold = 2 * time.Second // more than a loaded machine keeps a goroutine from its work
	)
	db, pool, reports := openReported(t, fakedriver.New(), func(c *lifeguard.Config) {
		pooltest.Limit(workers)(c)
		c.LeakThreshold = threshold
	})
	start := time.Now()
	var longest [workers]time.Duration
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for n := 0; ; n++ {
				at := start.Add(time.Duration(n) * workers * time.Second / perSecond)
				if at.Sub(start) >= *leakFreeFor {
					return
				}
				time.Sleep(time.Until(at))
				taken := time.Now()
				giveBack := holdKinds[1+n%3].hold(t, context.Background(), db) // those without statements to close afterwards
				giveBack()
				longest[w] = max(longest[w], time.Since(taken))
			}
		})
	}
	wg.Wait()
	took := time.Since(start)
	leaks, log := reports.take()
	st := pool.Stats()
	t.Logf("%d checkouts in %v, %.0f a second; the longest took %v", st.Acquired, took.Round(time.Millisecond),
		float64(st.Acquired)/took.Seconds(), slices.Max(longest[:]))
	assert.Empty(t, leaks)
	assert.Empty(t, log)
	assert.Zero(t, st.Leaks)
	assert.Zero(t, st.LostRows)
	assert.EqualValues(t, workers*((*leakFreeFor*perSecond/time.Second+workers-1)/workers), st.Acquired)
}

// A query that runs is slow, not leaked: the log says so and Holders shows it busy, but it is not counted, no span is
// made, and the handler is not called. What it leaves behind is a leak.
func TestRunningIsNoLeak(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := fakedriver.New()
		srv.OnQuery(func(context.Context, *fakedriver.Conn, string, []driver.NamedValue) error {
			time.Sleep(3*time.Minute + 500*time.Millisecond)
			return nil
		})
		recorder := tracetest.NewSpanRecorder()
		leakSpans := func() (n int) {
			for _, s := range recorder.Ended() {
				if s.Name() == "connection leak" {
					n++
				}
			}
			return n
		}
		db, pool, reports := openReported(t, srv, nil,
			lifeguard.WithTracerProvider(sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(recorder))))
		done := make(chan struct{})
		go func() {
			defer close(done)
			_, err := db.ExecContext(t.Context(), "REINDEX TABLE customers")
			assert.NoError(t, err)
		}()
		for _, after := range []time.Duration{61 * time.Second, time.Minute} { // at the threshold, and at twice of it
			time.Sleep(after)
			leaks, log := reports.take()
			assert.Empty(t, leaks)
			require.Len(t, log, 1)
			assert.Contains(t, log[0], `level=WARN msg="lifeguard: a connection is held by an operation that is still running"`)
			assert.Contains(t, log[0], "REINDEX TABLE customers")
			assert.Contains(t, log[0], "TestRunningIsNoLeak")
			require.Len(t, pool.Holders(), 1)
			h := pool.Holders()[0]
			assert.True(t, h.Busy)
			assert.False(t, h.Leaked)
			assert.Equal(t, 1, h.Operations)
			assert.Zero(t, pool.Stats().Leaks)
			assert.Zero(t, leakSpans())
		}
		<-done
		time.Sleep(time.Hour)
		synctest.Wait()
		leaks, log := reports.take()
		assert.Empty(t, leaks)
		assert.Empty(t, log)
		assert.Zero(t, pool.Stats().Leaks)
		assert.Zero(t, leakSpans())

		// The same query with rows that nobody closes.
		rows, err := db.QueryContext(t.Context(), "SELECT name FROM customers ORDER BY random()")
		require.NoError(t, err)
		leaks, _ = reports.take()
		require.Empty(t, leaks)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		leaks, _ = reports.take()
		require.Len(t, leaks, 1)
		assert.Equal(t, "SELECT name FROM customers ORDER BY random()", leaks[0].LastQuery)
		assert.False(t, leaks[0].Busy)
		assert.EqualValues(t, 1, pool.Stats().Leaks)
		assert.Equal(t, 1, leakSpans())
		assert.NoError(t, rows.Close())
	})
}

// Rows that are read in the time of a look after their query ran for long are no leak.
func TestSlowQueryThenRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := fakedriver.New()
		srv.OnQuery(func(context.Context, *fakedriver.Conn, string, []driver.NamedValue) error {
			time.Sleep(rand.N(time.Second) + 2*time.Minute)
			return nil
		})
		db, _, reports := openReported(t, srv, nil)
		for range 50 {
			rows, err := db.QueryContext(t.Context(), "SELECT name FROM customers ORDER BY random()")
			require.NoError(t, err)
			time.Sleep(900 * time.Millisecond)
			require.NoError(t, rows.Close())
		}
		leaks, _ := reports.take()
		assert.Empty(t, leaks)
	})
}

func TestLeakHandlerPanics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := lifeguard.DefaultConfig()
		reports := &leakReports{}
		calls := 0
		db, err := lifeguard.OpenDB(fakedriver.New().Connector(), lifeguard.WithConfig(cfg),
			lifeguard.WithLogger(slog.New(slog.NewTextHandler(reports, nil))),
			lifeguard.WithLeakHandler(func(lifeguard.Leak) { calls++; panic("out of paper") }))
		require.NoError(t, err)
		defer db.Close()
		defer pooltest.Take(t, db).Close()
		time.Sleep(200 * time.Second)
		synctest.Wait()
		assert.Equal(t, 2, calls, "the next report is made all the same")
		_, log := reports.take()
		assert.Contains(t, strings.Join(log, "\n"), `level=ERROR msg="lifeguard: the leak handler panicked" pool=`)
		assert.Contains(t, strings.Join(log, "\n"), "out of paper")
	})
}

// A handler may use the pool, and even close it.
func TestLeakHandlerUsesThePool(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var db *sql.DB
		var holders []lifeguard.Holder
		srv := fakedriver.New()
		db, err := lifeguard.OpenDB(srv.Connector(), lifeguard.WithConfig(lifeguard.DefaultConfig()), pooltest.Quiet,
			lifeguard.WithLeakHandler(func(lifeguard.Leak) {
				p, _ := lifeguard.PoolOf(db)
				holders = p.Holders()
				db.Close()
			}))
		require.NoError(t, err)
		c := pooltest.Take(t, db)
		time.Sleep(time.Hour)
		synctest.Wait()
		assert.Len(t, holders, 1)
		assert.NoError(t, c.Close())
		synctest.Wait()
		assert.Zero(t, srv.Open())
	})
}

func janitors() int {
	buf := make([]byte, 1<<20)
	return strings.Count(string(buf[:runtime.Stack(buf, true)]), "lifeguard.(*janitor).run(")
}

func TestOneJanitor(t *testing.T) {
	before := janitors()
	for _, threshold := range []time.Duration{0, time.Minute} {
		cfg := lifeguard.DefaultConfig()
		cfg.LeakThreshold = threshold
		db, err := lifeguard.OpenDB(fakedriver.New().Connector(), lifeguard.WithConfig(cfg))
		require.NoError(t, err)
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() { _, _ = db.ExecContext(t.Context(), "SELECT 1") })
		}
		wg.Wait()
		want := before
		if threshold > 0 {
			want++
		}
		// A goroutine that has not run yet is listed by its creator.
		assert.Eventually(t, func() bool { return janitors() == want }, 5*time.Second, time.Millisecond)
		require.NoError(t, db.Close())
		assert.Eventually(t, func() bool { return janitors() == before }, 5*time.Second, time.Millisecond)
	}
}

// realClock reads the machine's clock, which a synctest bubble hides.
func realClock(t *testing.T) time.Duration {
	var tv syscall.Timeval
	require.NoError(t, syscall.Gettimeofday(&tv))
	return time.Duration(tv.Nano())
}

// In a pool where nothing is leased nothing wakes up: virtual time passes in one step.
func TestJanitorRests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db, _, _ := openReported(t, fakedriver.New(), func(c *lifeguard.Config) { c.MaxIdleConnectionLifetime = 0 })
		_, err := db.ExecContext(t.Context(), "SELECT 1")
		require.NoError(t, err)
		start := time.Now()
		real := realClock(t)
		time.Sleep(1000 * 24 * time.Hour)
		assert.Equal(t, 1000*24*time.Hour, time.Since(start))
		// 86 million looks would take minutes.
		assert.Less(t, realClock(t)-real, 10*time.Second)
		// It is there again when it is needed.
		c := pooltest.Take(t, db)
		defer c.Close()
		pool, _ := lifeguard.PoolOf(db)
		time.Sleep(61 * time.Second)
		synctest.Wait()
		assert.EqualValues(t, 1, pool.Stats().Leaks)
	})
}

// Detection off: nothing is reported, and holders are still known.
func TestNoLeakThreshold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db, pool, reports := openReported(t, fakedriver.New(), func(c *lifeguard.Config) { c.LeakThreshold = 0 })
		c := holdUnreported(t, db)
		time.Sleep(24 * time.Hour)
		leaks, log := reports.take()
		assert.Empty(t, leaks)
		assert.Empty(t, log)
		require.Len(t, pool.Holders(), 1)
		assert.Equal(t, 24*time.Hour, pool.Holders()[0].Held)
		assert.Contains(t, pool.Holders()[0].Stack[0].Function, "holdUnreported")
		assert.NoError(t, c.Close())
	})
}

func holdUnreported(t *testing.T, db *sql.DB) *sql.Conn {
	c, err := db.Conn(t.Context())
	require.NoError(t, err)
	return c
}

// nested calls f below that many frames of itself.
//
//go:noinline
func nested(frames int, f func()) {
	if frames > 1 {
		nested(frames-1, f)
		return
	}
	f()
}

// Each goroutine checks connections out below a number of frames of its own, and the holder's stack must show that number.
// This holds for connections that are handed on, checked out again, or opened by a goroutine of database/sql.
func TestHolderStacksUnderContention(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	for _, handleLimit := range []int{0, 4} {
		t.Run(fmt.Sprintf("SetMaxOpenConns=%d", handleLimit), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				db, pool, _ := openReported(t, fakedriver.New(), pooltest.Limit(8))
				db.SetMaxOpenConns(handleLimit)
				var wg sync.WaitGroup
				for i := range 20 {
					rnd := rand.New(rand.NewPCG(seed, uint64(i)))
					ctx := trace.ContextWithSpanContext(t.Context(), trace.NewSpanContext(trace.SpanContextConfig{
						TraceID: trace.TraceID{1, byte(i)}, SpanID: trace.SpanID{1},
					}))
					hold := func(turn int) {
						c, err := db.Conn(ctx)
						if !assert.NoError(t, err) {
							return
						}
						// The marker finds this hold among those of the others.
						marker := fmt.Sprintf("SELECT marker_%d_%d", i, turn)
						time.Sleep(time.Duration(rnd.Int64N(int64(2 * time.Millisecond))))
						_, err = c.ExecContext(ctx, marker)
						assert.NoError(t, err)
						time.Sleep(time.Duration(rnd.Int64N(int64(5 * time.Millisecond))))
						holders := pool.Holders()
						at := slices.IndexFunc(holders, func(h lifeguard.Holder) bool { return h.LastQuery == marker })
						if assert.GreaterOrEqual(t, at, 0, "a holder who is not listed") {
							h := holders[at]
							frames := 0
							for _, f := range h.Stack {
								if strings.HasSuffix(f.Function, ".nested") {
									frames++
								}
							}
							assert.Equal(t, i+1, frames, "%v", h.Stack)
							if assert.NotEmpty(t, h.Stack) {
								assert.Contains(t, h.Stack[0].Function, "TestHolderStacksUnderContention")
							}
							assert.Equal(t, trace.TraceID{1, byte(i)}, h.SpanContext.TraceID())
						}
						assert.NoError(t, c.Close())
					}
					wg.Go(func() {
						for turn := range 50 {
							nested(i+1, func() { hold(turn) })
						}
					})
				}
				wg.Wait()
			})
		})
	}
}

// The application is found, and a few of its callers with it, below however many frames of libraries.
func TestStackBelowLibraries(t *testing.T) {
	for layers := range 6 {
		db, pool, _ := openReported(t, fakedriver.New(), pooltest.Limit(1))
		begin := db.Begin
		for range layers {
			begin = sync.OnceValues(begin)
		}
		tx, err := beginForTest(begin)
		require.NoError(t, err)
		h := pool.Holders()[0]
		require.GreaterOrEqual(t, len(h.Stack), 4, "%d layers: %v", layers, h.Stack)
		// Without the race detector, layers are inlined into the test and count as its own.
		i := slices.IndexFunc(h.Stack, func(f runtime.Frame) bool { return strings.HasSuffix(f.Function, ".beginForTest") })
		require.GreaterOrEqual(t, i, 0, "%d layers: %v", layers, h.Stack)
		assert.Contains(t, h.Stack[i+1].Function, "TestStackBelowLibraries")
		require.NoError(t, tx.Rollback())
	}
}

//go:noinline
func beginForTest(begin func() (*sql.Tx, error)) (*sql.Tx, error) { return begin() }

// A checkout that got no stack, because there were too many at its moment, gets one at its next operation, if it lasts.
func TestLateStack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db, pool, _ := openReported(t, fakedriver.New(), pooltest.Limit(2))
		c := pooltest.Take(t, db)
		for len(pool.Holders()[0].Stack) > 0 { // in one moment of virtual time
			require.NoError(t, c.Close())
			c = pooltest.Take(t, db)
		}
		defer c.Close()
		time.Sleep(61 * time.Second) // the janitor has looked at it
		require.Empty(t, pool.Holders()[0].Stack)
		pingForTest(t, c)
		h := pool.Holders()[0]
		require.NotEmpty(t, h.Stack)
		assert.Contains(t, h.Stack[0].Function, "pingForTest")
		assert.Equal(t, time.Now(), h.LastUsed)
		assert.Equal(t, 61*time.Second, h.Held)
	})
}

func pingForTest(t *testing.T, c *sql.Conn) { require.NoError(t, c.PingContext(t.Context())) }

func TestPoolTimeoutDoesNotStopThePool(t *testing.T) {
	// Holders are read while checkouts go on at full speed, by many at once.
	db, pool, _ := openReported(t, fakedriver.New(), pooltest.Limit(4))
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for ctx.Err() == nil {
				_, err := db.ExecContext(t.Context(), "SELECT 1")
				assert.NoError(t, err)
			}
		})
	}
	looks := 0
	for ctx.Err() == nil {
		for _, h := range pool.Holders() {
			assert.LessOrEqual(t, h.Operations, 1)
		}
		looks++
	}
	wg.Wait()
	t.Logf("%d looks at the holders, %d checkouts", looks, pool.Stats().Acquired)
	assert.Greater(t, pool.Stats().Acquired, uint64(1000))
}

// A holder is dated at its checkout, however many quick operations came before it.
func TestHoldersAreDated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db, pool, _ := openReported(t, fakedriver.New(), pooltest.Limit(1))
		for _, pause := range []time.Duration{0, 500 * time.Microsecond, 2 * time.Millisecond, 300 * time.Millisecond} {
			for range 100 {
				_, err := db.ExecContext(t.Context(), "SELECT 1")
				require.NoError(t, err)
			}
			time.Sleep(pause)
			c := pooltest.Take(t, db)
			lag := time.Since(pool.Holders()[0].Since)
			assert.GreaterOrEqual(t, lag, time.Duration(0))
			assert.LessOrEqual(t, lag, time.Millisecond, "after %v", pause)
			require.NoError(t, c.Close())
		}
	})
}
