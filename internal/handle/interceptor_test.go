package handle_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ngrok/sqlmw"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	"github.com/go-lifeguard/lifeguard"
	"github.com/go-lifeguard/lifeguard/internal/fakedriver"
	"github.com/go-lifeguard/lifeguard/internal/fakedriver/recorder"
	"github.com/go-lifeguard/lifeguard/internal/pooltest"
)

// openWatched is openLifeguard with all that may look at operations: interceptors that do nothing, spans and log lines
// of everything, and metrics.
func openWatched(c driver.Connector) (*sql.DB, error) {
	cfg := lifeguard.DefaultConfig()
	cfg.StatementCacheSize = 0
	cfg.Trace, cfg.QueryLog = lifeguard.TraceAll, lifeguard.QueryLogAll
	return lifeguard.OpenDB(c, lifeguard.WithConfig(cfg),
		lifeguard.WithInterceptors(sqlmw.NullInterceptor{}, sqlmw.NullInterceptor{}),
		lifeguard.WithTracerProvider(sdktrace.NewTracerProvider()),
		lifeguard.WithMeterProvider(sdkmetric.NewMeterProvider(sdkmetric.WithReader(sdkmetric.NewManualReader()))),
		lifeguard.WithLogger(slog.New(slog.NewTextHandler(io.Discard, &slog.HandlerOptions{Level: slog.LevelDebug}))))
}

// The differential test once more: being watched changes nothing either.
func TestFidelityWatched(t *testing.T) {
	t.Parallel()
	var list []recorder.Sets
	for set := range recorder.StmtSet(recorder.StmtAll + 1) {
		sets := fullSets
		sets.Conn, sets.Stmt = connWithoutShortcuts, set
		list = append(list, sets)
	}
	for i := range 10 { // one conn interface missing in each
		sets := fullSets
		sets.Conn &^= 1 << i
		list = append(list, sets)
	}
	list = append(list, fullSets, recorder.Sets{})
	// In parts, to use all processors.
	for part := range slices.Chunk(list, len(list)/4+1) {
		t.Run("Stmt", func(t *testing.T) {
			t.Parallel()
			compareWith(t, part, (*play).script)
		})
	}

	list = nil
	for set := range recorder.RowsSet(recorder.RowsAll + 1) {
		sets := fullSets
		sets.Rows = set
		list = append(list, sets)
	}
	t.Run("Rows", func(t *testing.T) {
		t.Parallel()
		compareWith(t, list, (*play).rowsScript)
	})
}

func compareWith(t *testing.T, list []recorder.Sets, script func(*play)) {
	t.Helper()
	different := 0
	for _, sets := range some(list) {
		d := difference(run(t, sets, true, openPlain, script), run(t, sets, true, openWatched, script))
		if d == "" {
			continue
		}
		t.Errorf("%v: %s", sets, d)
		if different++; different == 3 {
			t.Fatal("more are not tried")
		}
	}
}

// tell is an interceptor that takes down every call, with what the context says, and marks the contexts that follow.
type tell struct {
	name  string
	lines *[]string
}

type tellKey struct{}

// marks are the marks that the interceptors have left in a context.
func marks(ctx context.Context) string {
	if ctx == nil {
		return "nil context"
	}
	s, _ := ctx.Value(tellKey{}).(string)
	return s
}

func (r tell) line(ctx context.Context, what string) context.Context {
	*r.lines = append(*r.lines, fmt.Sprintf("%s %s [%s]", r.name, what, marks(ctx)))
	return context.WithValue(ctx, tellKey{}, marks(ctx)+" "+r.name+"."+what)
}

func (r tell) ConnBeginTx(ctx context.Context, c driver.ConnBeginTx, o driver.TxOptions) (context.Context, driver.Tx, error) {
	ctx = r.line(ctx, "begin")
	tx, err := c.BeginTx(ctx, o)
	return ctx, tx, err
}

func (r tell) ConnPrepareContext(ctx context.Context, c driver.ConnPrepareContext, q string) (context.Context, driver.Stmt, error) {
	ctx = r.line(ctx, "prepare")
	st, err := c.PrepareContext(ctx, q)
	return ctx, st, err
}

func (r tell) ConnPing(ctx context.Context, c driver.Pinger) error {
	return c.Ping(r.line(ctx, "ping"))
}

func (r tell) ConnExecContext(ctx context.Context, c driver.ExecerContext, q string, args []driver.NamedValue) (driver.Result, error) {
	return c.ExecContext(r.line(ctx, "exec"), q, args)
}

func (r tell) ConnQueryContext(ctx context.Context, c driver.QueryerContext, q string, args []driver.NamedValue) (context.Context, driver.Rows, error) {
	ctx = r.line(ctx, "query")
	rows, err := c.QueryContext(ctx, q, args)
	return ctx, rows, err
}

func (r tell) ConnectorConnect(ctx context.Context, c driver.Connector) (driver.Conn, error) {
	return c.Connect(r.line(ctx, "connect"))
}

func (r tell) ResultLastInsertId(res driver.Result) (int64, error) {
	r.line(context.Background(), "id")
	return res.LastInsertId()
}

func (r tell) ResultRowsAffected(res driver.Result) (int64, error) {
	r.line(context.Background(), "affected")
	return res.RowsAffected()
}

func (r tell) RowsNext(ctx context.Context, rows driver.Rows, dest []driver.Value) error {
	r.line(ctx, "next")
	return rows.Next(dest)
}

func (r tell) RowsClose(ctx context.Context, rows driver.Rows) error {
	r.line(ctx, "close")
	return rows.Close()
}

func (r tell) StmtExecContext(ctx context.Context, st driver.StmtExecContext, q string, args []driver.NamedValue) (driver.Result, error) {
	return st.ExecContext(r.line(ctx, "stmt exec "+q), args)
}

func (r tell) StmtQueryContext(ctx context.Context, st driver.StmtQueryContext, q string, args []driver.NamedValue) (context.Context, driver.Rows, error) {
	ctx = r.line(ctx, "stmt query "+q)
	rows, err := st.QueryContext(ctx, args)
	return ctx, rows, err
}

func (r tell) StmtClose(ctx context.Context, st driver.Stmt) error {
	r.line(ctx, "stmt close")
	return st.Close()
}

func (r tell) TxCommit(ctx context.Context, tx driver.Tx) error {
	r.line(ctx, "commit")
	return tx.Commit()
}

func (r tell) TxRollback(ctx context.Context, tx driver.Tx) error {
	r.line(ctx, "rollback")
	return tx.Rollback()
}

// TestInterceptorOrder follows every call through two interceptors: the first is outermost, and the context that it
// returns is the one of what follows from the call, for the next interceptor and for itself.
func TestInterceptorOrder(t *testing.T) {
	var lines []string
	db := openIntercepted(t, fakedriver.New(), tell{"A", &lines}, tell{"B", &lines})
	ctx := context.WithValue(t.Context(), tellKey{}, "caller")
	expect := func(want ...string) {
		t.Helper()
		assert.Equal(t, want, lines)
		lines = nil
	}

	require.NoError(t, db.PingContext(ctx))
	expect("A connect [caller]", "B connect [caller A.connect]", "A ping [caller]", "B ping [caller A.ping]")

	res, err := db.ExecContext(ctx, "UPDATE t")
	require.NoError(t, err)
	_, _ = res.LastInsertId()
	_, _ = res.RowsAffected()
	expect("A exec [caller]", "B exec [caller A.exec]", "A id []", "B id []", "A affected []", "B affected []")

	var n int
	require.NoError(t, db.QueryRowContext(ctx, "SELECT 1").Scan(&n))
	expect("A query [caller]", "B query [caller A.query]",
		"A next [caller A.query]", "B next [caller A.query B.query]",
		"A close [caller A.query]", "B close [caller A.query B.query]")

	tx, err := db.BeginTx(ctx, nil)
	require.NoError(t, err)
	require.NoError(t, tx.Commit())
	expect("A begin [caller]", "B begin [caller A.begin]",
		"A commit [caller A.begin]", "B commit [caller A.begin B.begin]")
	tx, err = db.BeginTx(ctx, nil)
	require.NoError(t, err)
	require.NoError(t, tx.Rollback())
	expect("A begin [caller]", "B begin [caller A.begin]",
		"A rollback [caller A.begin]", "B rollback [caller A.begin B.begin]")

	st, err := db.PrepareContext(ctx, "Q")
	require.NoError(t, err)
	_, err = st.ExecContext(ctx)
	require.NoError(t, err)
	require.NoError(t, st.QueryRowContext(ctx).Scan(&n))
	require.NoError(t, st.Close())
	expect("A prepare [caller]", "B prepare [caller A.prepare]",
		"A stmt exec Q [caller]", "B stmt exec Q [caller A.stmt exec Q]",
		"A stmt query Q [caller]", "B stmt query Q [caller A.stmt query Q]",
		"A next [caller A.stmt query Q]", "B next [caller A.stmt query Q B.stmt query Q]",
		"A close [caller A.stmt query Q]", "B close [caller A.stmt query Q B.stmt query Q]",
		"A stmt close [caller A.prepare]", "B stmt close [caller A.prepare B.prepare]")
}

func openIntercepted(t *testing.T, srv *fakedriver.Server, by ...sqlmw.Interceptor) *sql.DB {
	t.Helper()
	// In two steps: the option adds up.
	db, err := lifeguard.OpenDB(srv.Connector(), pooltest.Quiet,
		lifeguard.WithInterceptors(by[:1]...), lifeguard.WithInterceptors(by[1:]...))
	require.NoError(t, err)
	t.Cleanup(func() {
		assert.NoError(t, db.Close())
		assert.Zero(t, srv.Stmts())
		assert.Zero(t, srv.OpenRows())
		assert.Empty(t, srv.Violations())
	})
	return db
}

// forgetful returns no context, which sqlmw would hand on.
type forgetful struct{ sqlmw.NullInterceptor }

func (f forgetful) ConnBeginTx(ctx context.Context, c driver.ConnBeginTx, o driver.TxOptions) (context.Context, driver.Tx, error) {
	tx, err := c.BeginTx(ctx, o)
	return nil, tx, err
}

func (f forgetful) ConnPrepareContext(ctx context.Context, c driver.ConnPrepareContext, q string) (context.Context, driver.Stmt, error) {
	st, err := c.PrepareContext(ctx, q)
	return nil, st, err
}

func (f forgetful) ConnQueryContext(ctx context.Context, c driver.QueryerContext, q string, args []driver.NamedValue) (context.Context, driver.Rows, error) {
	rows, err := c.QueryContext(ctx, q, args)
	return nil, rows, err
}

func (f forgetful) RowsClose(ctx context.Context, rows driver.Rows) error {
	return errors.Join(notNil(ctx), rows.Close())
}

func (f forgetful) TxCommit(ctx context.Context, tx driver.Tx) error {
	return errors.Join(notNil(ctx), tx.Commit())
}

func (f forgetful) StmtClose(ctx context.Context, st driver.Stmt) error {
	return errors.Join(notNil(ctx), st.Close())
}

func notNil(ctx context.Context) error {
	if marks(ctx) != "caller" {
		return errors.New("not the caller's context: " + marks(ctx))
	}
	return nil
}

func TestInterceptorForgetsContext(t *testing.T) {
	db := openIntercepted(t, fakedriver.New(), forgetful{})
	ctx := context.WithValue(t.Context(), tellKey{}, "caller")
	rows, err := db.QueryContext(ctx, "SELECT 1")
	require.NoError(t, err)
	assert.NoError(t, rows.Close())
	tx, err := db.BeginTx(ctx, nil)
	require.NoError(t, err)
	assert.NoError(t, tx.Commit())
	st, err := db.PrepareContext(ctx, "SELECT 1")
	require.NoError(t, err)
	assert.NoError(t, st.Close())
}

// ownRows are an interceptor's rows, which tell nothing about what the driver's can do except by Unwrap.
type ownRows struct {
	driver.Rows
	read int
}

func (r *ownRows) Unwrap() driver.Rows { return r.Rows }

// ColumnTypeDatabaseTypeName answers in place of the driver's.
func (r *ownRows) ColumnTypeDatabaseTypeName(int) string { return "OWN" }

// counts puts rows of its own around the driver's and counts what is read from them.
type counts struct {
	sqlmw.NullInterceptor
	read *int
}

func (c counts) ConnQueryContext(ctx context.Context, conn driver.QueryerContext, q string, args []driver.NamedValue) (context.Context, driver.Rows, error) {
	rows, err := conn.QueryContext(ctx, q, args)
	if err != nil {
		return ctx, nil, err
	}
	return ctx, &ownRows{Rows: rows}, nil
}

func (c counts) StmtQueryContext(ctx context.Context, st driver.StmtQueryContext, _ string, args []driver.NamedValue) (context.Context, driver.Rows, error) {
	rows, err := st.QueryContext(ctx, args)
	if err != nil {
		return ctx, nil, err
	}
	return ctx, &ownRows{Rows: rows}, nil
}

func (c counts) RowsNext(_ context.Context, rows driver.Rows, dest []driver.Value) error {
	err := rows.Next(dest)
	if err == nil {
		rows.(*ownRows).read++
	}
	return err
}

func (c counts) RowsClose(_ context.Context, rows driver.Rows) error {
	*c.read += rows.(*ownRows).read
	return rows.Close()
}

// TestRowsUnwrapper: what the driver's rows can do stays visible behind an interceptor's own, whose answers come first.
func TestRowsUnwrapper(t *testing.T) {
	for _, set := range []recorder.RowsSet{recorder.RowsAll, 0} {
		var read, more int
		sets := fullSets
		sets.Rows = set
		r := recorder.New(sets, recorder.Script{Results: results, NumInput: numInput, Convert: convert, CheckNamedValue: checkNamedValue})
		db, err := lifeguard.OpenDB(r.Connector(), pooltest.Quiet,
			lifeguard.WithInterceptors(counts{read: &read}, sqlmw.NullInterceptor{}, counts{read: &more}))
		require.NoError(t, err)
		plain := sql.OpenDB(recorder.New(sets, recorder.Script{Results: results, NumInput: numInput, Convert: convert, CheckNamedValue: checkNamedValue}).Connector())

		readAll := func(db *sql.DB) (rowCount int, seen string) {
			rows, err := db.Query("rows")
			require.NoError(t, err)
			defer rows.Close()
			var b strings.Builder
			for {
				types, err := rows.ColumnTypes()
				require.NoError(t, err)
				for _, c := range types {
					length, ok := c.Length()
					nullable, known := c.Nullable()
					precision, scale, decimal := c.DecimalSize()
					fmt.Fprintln(&b, c.Name(), c.ScanType(), length, ok, nullable, known, precision, scale, decimal)
					if db != plain {
						want := map[recorder.RowsSet]string{recorder.RowsAll: "OWN", 0: ""}[set]
						assert.Equal(t, want, c.DatabaseTypeName())
					}
				}
				for rows.Next() {
					rowCount++
				}
				if !rows.NextResultSet() {
					break
				}
			}
			require.NoError(t, rows.Err())
			return rowCount, b.String()
		}
		wantRows, want := readAll(plain)
		gotRows, got := readAll(db)
		assert.Equal(t, want, got)
		assert.Equal(t, wantRows, gotRows)
		assert.NotZero(t, read)
		assert.Equal(t, read, more)
		assert.Equal(t, wantRows, read)
		require.NoError(t, db.Close())
		require.NoError(t, plain.Close())
	}
}

// An interceptor that knows the driver gets at its connection, and closing what it is given only has the pool close it.
func TestInterceptorUsesConnection(t *testing.T) {
	srv := fakedriver.New()
	var seen []int
	db := openIntercepted(t, srv, closes{seen: &seen})
	for range 2 {
		_, err := db.Exec("UPDATE t")
		require.NoError(t, err)
	}
	assert.Equal(t, []int{1, 2}, seen, "the connection was used once more after its Close")
	assert.Equal(t, 0, srv.Open())
}

type closes struct {
	sqlmw.NullInterceptor
	seen *[]int
}

func (c closes) ConnExecContext(ctx context.Context, conn driver.ExecerContext, q string, args []driver.NamedValue) (driver.Result, error) {
	*c.seen = append(*c.seen, lifeguard.Unwrap(conn).(*fakedriver.Conn).ID())
	res, err := conn.ExecContext(ctx, q, args)
	return res, errors.Join(err, conn.(driver.Conn).Close())
}

// skips asks for another way.
type skips struct{ sqlmw.NullInterceptor }

func (skips) ConnExecContext(context.Context, driver.ExecerContext, string, []driver.NamedValue) (driver.Result, error) {
	return nil, driver.ErrSkip
}

func TestInterceptorSkips(t *testing.T) {
	srv := fakedriver.New()
	var lines []string
	db := openIntercepted(t, srv, tell{"A", &lines}, skips{})
	_, err := db.ExecContext(t.Context(), "UPDATE t")
	require.NoError(t, err)
	assert.Equal(t, 1, srv.Prepares(), "database/sql prepares what the driver skips")
	assert.True(t, slices.ContainsFunc(lines, func(l string) bool { return strings.HasPrefix(l, "A stmt exec UPDATE t") }), lines)
}

// returnsNothing answers as many dials as dials says with neither a connection nor an error, and lets the others pass.
type returnsNothing struct {
	sqlmw.NullInterceptor
	dials *atomic.Int32
}

func (r returnsNothing) ConnectorConnect(ctx context.Context, c driver.Connector) (driver.Conn, error) {
	if r.dials.Add(-1) >= 0 {
		time.Sleep(time.Millisecond) // until all of the test's callers wait
		return nil, nil
	}
	return c.Connect(ctx)
}

// An interceptor that returns neither a connection nor an error costs those who wait for the dial an error that says so.
// It costs no slot, neither of the pool nor of the inner *sql.DB, and the next caller is served.
func TestInterceptorReturnsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const says = "an interceptor or the driver returned neither a connection nor an error"
		srv := fakedriver.New()
		var dials atomic.Int32
		db := openIntercepted(t, srv, sqlmw.NullInterceptor{}, returnsNothing{dials: &dials})
		pool := pooltest.PoolOf(t, db)
		require.NoError(t, pool.SetConnectionLimit(2))

		dials.Store(3)
		for range 3 { // in a pool that has never connected
			require.ErrorContains(t, db.PingContext(t.Context()), says)
		}
		held := pooltest.Take(t, db)
		dials.Store(1)
		require.ErrorContains(t, db.PingContext(t.Context()), says, "beside a connection that is in use")
		other := pooltest.Take(t, db)
		assert.Equal(t, 2, pool.Stats().Open)
		time.AfterFunc(time.Second, func() { assert.NoError(t, other.Close()) })
		require.NoError(t, db.PingContext(t.Context()), "in a full pool")
		require.NoError(t, held.Close())

		pool.Reset() // nothing is open now, so that one dial decides for all
		dials.Store(2)
		var callers sync.WaitGroup
		for range 5 {
			callers.Go(func() { assert.ErrorContains(t, db.PingContext(t.Context()), says) })
		}
		callers.Wait()
		time.Sleep(time.Second) // a second dial may be on its way
		dials.Store(0)
		for range 2 { // once more the limit is reached, and not passed
			defer pooltest.Take(t, db).Close()
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		assert.ErrorIs(t, db.PingContext(ctx), lifeguard.ErrPoolTimeout)
		assert.Equal(t, 2, srv.Open())
	})
}
