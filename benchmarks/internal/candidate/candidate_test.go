package candidate

import (
	"context"
	"errors"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/go-lifeguard/lifeguard/internal/fakedriver"
	"github.com/go-lifeguard/lifeguard/internal/pgtest"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Run(m)) }

func open(t *testing.T, c Candidate, dsn string, s Settings) Pool {
	t.Helper()
	pool, err := c.Open(t.Context(), dsn, s)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := pool.Close(); err != nil {
			t.Error(err)
		}
	})
	return pool
}

// A comparison is worth something only if everybody does the same work.
func TestCandidatesDoWhatTheyAreAsked(t *testing.T) {
	dsn := pgtest.DSN(t)
	for _, c := range All() {
		t.Run(c.Name(), func(t *testing.T) {
			ctx := t.Context()
			pool := open(t, c, dsn, Settings{Connections: 2})
			count := func(table string) int64 {
				t.Helper()
				n, err := pool.Int(ctx, "SELECT count(*) FROM "+table)
				if err != nil {
					t.Fatal(err)
				}
				return n
			}
			for _, text := range []string{
				"DROP TABLE IF EXISTS pairs", "CREATE TABLE pairs (n bigint, name text)",
			} {
				if err := pool.Exec(ctx, text); err != nil {
					t.Fatal(err)
				}
			}
			for i := range 3 {
				if err := pool.Exec(ctx, "INSERT INTO pairs VALUES ($1, $2)", i, "name"); err != nil {
					t.Fatal(err)
				}
			}
			if n, err := pool.Int(ctx, "SELECT n FROM pairs WHERE n = $1", 2); n != 2 || err != nil {
				t.Errorf("Int = %d, %v, want 2", n, err)
			}
			if n, err := pool.Pairs(ctx, "SELECT n, name FROM pairs WHERE n < $1", 2); n != 2 || err != nil {
				t.Errorf("Pairs = %d, %v, want 2", n, err)
			}

			failed := errors.New("failed")
			err := pool.Tx(ctx, func(tx Tx) error {
				return errors.Join(tx.Exec(ctx, "INSERT INTO pairs VALUES (9, '')"), failed)
			})
			if !errors.Is(err, failed) || count("pairs") != 3 {
				t.Errorf("a transaction that failed: %v, %d rows, want 3", err, count("pairs"))
			}
			err = pool.Tx(ctx, func(tx Tx) error {
				if err := tx.Exec(ctx, "INSERT INTO pairs VALUES (9, '')"); err != nil {
					return err
				}
				if n, err := tx.Int(ctx, "SELECT count(*) FROM pairs"); n != 4 || err != nil {
					t.Errorf("inside: %d rows, %v, want 4", n, err)
				}
				return nil
			})
			if err != nil || count("pairs") != 4 {
				t.Errorf("a transaction: %v, %d rows, want 4", err, count("pairs"))
			}

			st, err := pool.Prepare(ctx, "SELECT n FROM pairs WHERE n = $1")
			if errors.As(err, new(Unable)) {
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			for _, want := range []int64{0, 1, 2} {
				if n, err := st.Int(ctx, want); n != want || err != nil {
					t.Errorf("prepared: %d, %v, want %d", n, err, want)
				}
			}
			if err := st.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestCandidatesKeepToTheLimit(t *testing.T) {
	server := pgtest.Shared(t)
	for _, c := range All() {
		t.Run(c.Name(), func(t *testing.T) {
			const limit = 3
			dsn := server.Database(t)
			pool := open(t, c, dsn, Settings{Connections: limit})
			var releases []func() error
			for range limit {
				release, err := pool.Acquire(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				releases = append(releases, release)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
			defer cancel()
			if release, err := pool.Acquire(ctx); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("one more than the limit: %v, want the end of the context", err)
				if err == nil {
					releases = append(releases, release)
				}
			}
			for _, release := range releases {
				if err := release(); err != nil {
					t.Error(err)
				}
			}
			var all sync.WaitGroup
			for range 4 * limit {
				all.Go(func() {
					n, err := pool.Int(t.Context(), "SELECT count(*) FROM pg_stat_activity WHERE datname = "+
						"current_database()")
					if err != nil || n > limit {
						t.Errorf("%d connections (%v), want at most %d", n, err, limit)
					}
				})
			}
			all.Wait()
		})
	}
}

// What a candidate adds to a driver in memory must be its own cost alone, so it has to be laid over that driver.
func TestCandidatesOverAnotherDriver(t *testing.T) {
	for _, c := range append(All(), Tracing()...) {
		t.Run(c.Name(), func(t *testing.T) {
			db, err := c.Over(fakedriver.Fast(), Settings{Connections: 2})
			if errors.As(err, new(Unable)) {
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer db.Close()
			var n int64
			if err := db.QueryRow("SELECT 1").Scan(&n); n != 1 || err != nil {
				t.Errorf("%d, %v, want 1", n, err)
			}
		})
	}
}

// Candidates whose tracing is measured have to trace, and only those.
func TestTracing(t *testing.T) {
	for _, c := range append(All(), Tracing()...) {
		t.Run(c.Name(), func(t *testing.T) {
			recorder := tracetest.NewSpanRecorder()
			provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(recorder))
			db, err := c.Over(fakedriver.Fast(), Settings{Connections: 2, Tracing: provider})
			if errors.As(err, new(Unable)) {
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer db.Close()
			ctx, caller := provider.Tracer("caller").Start(t.Context(), "request")
			var n int64
			if err := db.QueryRowContext(ctx, "SELECT 1").Scan(&n); err != nil {
				t.Fatal(err)
			}
			caller.End()
			var own []string
			for _, s := range recorder.Ended() {
				if s.Name() != "request" {
					own = append(own, s.Name())
				}
			}
			traces := slices.ContainsFunc(Tracing(), func(other Candidate) bool { return other.Name() == c.Name() })
			if c.Name() == "lifeguard" {
				traces = false // the query was fast
			}
			if traces != (len(own) > 0) {
				t.Errorf("spans %q, want some: %v", own, traces)
			}
		})
	}
}
