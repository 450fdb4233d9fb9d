package stmtcache_test

import (
	"context"
	"database/sql"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-lifeguard/lifeguard/internal/faultproxy"
	"github.com/go-lifeguard/lifeguard/internal/pgtest"
	"github.com/go-lifeguard/lifeguard/internal/pooltest"
)

// BenchmarkStatements shows what the statement cache gains on PostgreSQL. Batches on plain lib/pq, the baseline, and
// through lifeguard alternate, so that both see the same machine; the figures are medians of the batches, in
// microseconds an operation and as the ratio of throughputs. In Prepared both run a statement of db.Prepare, on four
// connections; the others have ten. by-hand is a statement of db.Prepare on plain lib/pq, which takes one round trip and no
// planning: what there is to gain, without leaving lib/pq and database/sql. cache-off is lifeguard without the cache: what of
// the difference is the pool's.
//
//	go test -run '^$' -bench 'Statements$' -benchtime 20x ./internal/stmtcache
func BenchmarkStatements(b *testing.B) {
	dsn := pgtest.DSN(b)
	setup := pooltest.OpenControl(b, dsn)
	_, err := setup.Exec("CREATE TABLE customers (id int PRIMARY KEY, name text NOT NULL, visits int NOT NULL DEFAULT 0);" +
		"INSERT INTO customers SELECT g, 'customer ' || g FROM generate_series(1, 10000) g; ANALYZE customers")
	require.NoError(b, err)
	far := pooltest.NewTap(b, dsn) // as far away as a server in the next town
	far.SetFrontend(nil)

	for _, at := range []struct {
		name, dsn string
		delay     time.Duration
		clients   []int
		batch     int
	}{
		{"Delay=0", dsn, 0, []int{1, 8, 32, 64}, 400},
		{"Delay=1ms", far.DSN, time.Millisecond, []int{1, 8, 64}, 50},
	} {
		far.SetShape(faultproxy.Both, faultproxy.Shape{Delay: at.delay})
		for _, op := range statementOperations {
			// Its handles are closed before the next one begins. All of them together are more than a server takes.
			b.Run(fmt.Sprintf("%s/Op=%s", at.name, op.name), func(b *testing.B) {
				plain, kept := pooltest.OpenPostgres(b, "postgres", at.dsn, op.limit), pooltest.OpenPostgres(b, "lifeguard", at.dsn, op.limit)
				runs := []func(int) error{op.prepare(b, plain.DB), op.prepare(b, kept.DB)}
				beside := "by-hand-x"
				if op.byHand != nil {
					runs = append(runs, op.byHand(b, pooltest.OpenPostgres(b, "postgres", at.dsn, op.limit).DB))
				} else {
					beside = "cache-off-x"
					runs = append(runs, op.prepare(b, pooltest.OpenPostgres(b, "lifeguard", at.dsn, op.limit, "statement_cache_size=0").DB))
				}
				for _, clients := range at.clients {
					b.Run(fmt.Sprintf("Clients=%d", clients), func(b *testing.B) {
						compareStatements(b, runs, beside, clients, max(at.batch/clients, at.batch/10))
					})
				}
			})
		}
	}
	far.SetShape(faultproxy.Both, faultproxy.Shape{})
}

// BenchmarkStatementsDuringDDL compares two pools of lifeguard's. In one of them, a table is altered every second. Its ratio of
// throughputs is what that costs.
//
//	go test -run '^$' -bench 'DuringDDL$' -benchtime 20x ./internal/stmtcache
func BenchmarkStatementsDuringDDL(b *testing.B) {
	dsn := pgtest.DSN(b)
	_, err := pooltest.OpenControl(b, dsn).Exec("CREATE TABLE customers (id int PRIMARY KEY, name text NOT NULL); CREATE TABLE others (n int);" +
		"INSERT INTO customers SELECT g, 'customer ' || g FROM generate_series(1, 10000) g; ANALYZE customers")
	require.NoError(b, err)
	for _, clients := range []int{8, 64} {
		b.Run(fmt.Sprintf("Clients=%d", clients), func(b *testing.B) {
			quiet, altered := pooltest.OpenPostgres(b, "lifeguard", dsn, 10), pooltest.OpenPostgres(b, "lifeguard", dsn, 10)
			ctx, cancel := context.WithCancel(b.Context())
			var ddl sync.WaitGroup
			ddl.Go(func() { // ends with the benchmark
				for tick := time.NewTicker(time.Second); ; {
					select {
					case <-ctx.Done():
						tick.Stop()
						return
					case <-tick.C:
						if _, err := altered.Exec("ALTER TABLE others ALTER n SET DEFAULT 1"); err != nil {
							b.Error(err)
						}
					}
				}
			})
			runs := []func(int) error{direct(queryName)(b, quiet.DB), direct(queryName)(b, altered.DB)}
			compareStatements(b, runs, "", clients, 8000/clients) // some of its batches meet the DDL
			cancel()
			ddl.Wait()
		})
	}
}

var statementOperations = []struct {
	name            string
	limit           int // connections
	prepare, byHand func(testing.TB, *sql.DB) (run func(i int) error)
}{
	{"QueryRow", 10, direct(queryName), byHand(queryName)},
	// As services have it: each with a context of its own that can end.
	{"QueryRowContext", 10, direct(queryNameContext), byHand(queryNameContext)},
	{"Exec", 10, direct(update), byHand(update)},
	// Nobody has such an id: the server writes nothing.
	{"ExecNoRow", 10, direct(updateNobody), byHand(updateNobody)},
	// A program that makes up a text for each query.
	{"NewTexts", 10, func(_ testing.TB, db *sql.DB) func(int) error {
		var n atomic.Int64
		return func(int) error {
			var name string
			return db.QueryRow(fmt.Sprintf("SELECT name FROM customers WHERE id = $1 AND visits > -%d", n.Add(1)), 1).Scan(&name)
		}
	}, nil},
	{"Prepared", 4, func(tb testing.TB, db *sql.DB) func(int) error {
		st, err := db.Prepare("SELECT name FROM customers WHERE id = $1 AND visits >= 0")
		require.NoError(tb, err)
		tb.Cleanup(func() { st.Close() })
		return func(i int) error {
			var name string
			return st.QueryRow(1 + i%10000).Scan(&name)
		}
	}, nil},
}

// A statementRun runs one of the texts below, as run does it.
type statementRun struct {
	text string
	run  func(ctx context.Context, st preparedOrNot, i int) error
}

// preparedOrNot is a text on a handle, or a statement.
type preparedOrNot interface {
	exec(ctx context.Context, args ...any) error
	queryRow(ctx context.Context, args ...any) *sql.Row
}

type textOn struct {
	*sql.DB
	text string
}

func (t textOn) exec(ctx context.Context, args ...any) error {
	_, err := t.ExecContext(ctx, t.text, args...)
	return err
}

func (t textOn) queryRow(ctx context.Context, args ...any) *sql.Row {
	return t.QueryRowContext(ctx, t.text, args...)
}

type statementOn struct{ *sql.Stmt }

func (s statementOn) exec(ctx context.Context, args ...any) error {
	_, err := s.ExecContext(ctx, args...)
	return err
}

func (s statementOn) queryRow(ctx context.Context, args ...any) *sql.Row {
	return s.QueryRowContext(ctx, args...)
}

func direct(r statementRun) func(testing.TB, *sql.DB) func(int) error {
	return func(_ testing.TB, db *sql.DB) func(int) error {
		return func(i int) error { return r.run(context.Background(), textOn{db, r.text}, i) }
	}
}

func byHand(r statementRun) func(testing.TB, *sql.DB) func(int) error {
	return func(tb testing.TB, db *sql.DB) func(int) error {
		st, err := db.Prepare(r.text)
		require.NoError(tb, err)
		tb.Cleanup(func() { st.Close() })
		return func(i int) error { return r.run(context.Background(), statementOn{st}, i) }
	}
}

var (
	queryName = statementRun{"SELECT name FROM customers WHERE id = $1", scanName}

	queryNameContext = statementRun{queryName.text, func(ctx context.Context, st preparedOrNot, i int) error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		return scanName(ctx, st, i)
	}}

	update = statementRun{"UPDATE customers SET visits = visits + $2 WHERE id = $1", func(ctx context.Context, st preparedOrNot, i int) error {
		return st.exec(ctx, 1+i%10000, 1)
	}}

	updateNobody = statementRun{update.text, func(ctx context.Context, st preparedOrNot, i int) error {
		return st.exec(ctx, -1-i%10000, 1)
	}}
)

func scanName(ctx context.Context, st preparedOrNot, i int) error {
	var name string
	return st.queryRow(ctx, 1+i%10000).Scan(&name)
}

// compareStatements runs the first, the second and, if there is one, what stands beside them.
func compareStatements(b *testing.B, runs []func(int) error, beside string, clients, batch int) {
	measure := func(run func(int) error) float64 {
		start := time.Now()
		var wg sync.WaitGroup
		for g := range clients {
			wg.Go(func() {
				for i := range batch {
					if err := run(1000*g + i); err != nil {
						b.Error(err)
						return
					}
				}
			})
		}
		wg.Wait()
		return float64(time.Since(start).Microseconds()) / float64(clients*batch)
	}
	for _, run := range runs { // dials, and first preparations
		measure(run)
	}
	times, gains := make([][]float64, len(runs)), make([][]float64, len(runs))
	for b.Loop() {
		for i, run := range runs {
			times[i] = append(times[i], measure(run))
			n := len(times[i]) - 1
			gains[i] = append(gains[i], times[0][n]/times[i][n])
		}
	}
	b.ReportMetric(0, "ns/op") // an iteration is a batch of everything, which says nothing
	b.ReportMetric(pooltest.Median(times[0]), "plain-µs")
	b.ReportMetric(pooltest.Median(times[1]), "lifeguard-µs")
	b.ReportMetric(pooltest.Median(gains[1]), "x-throughput")
	if len(runs) > 2 {
		b.ReportMetric(pooltest.Median(gains[2]), beside)
	}
}
