package lifeguard_test

import (
	"context"
	"database/sql"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-lifeguard/lifeguard/internal/faultproxy"
	"github.com/go-lifeguard/lifeguard/internal/pgtest"
)

// BenchmarkStatements shows what the statement cache gains on PostgreSQL. Batches on plain lib/pq, the baseline, and
// through lifeguard alternate, so that both see the same machine; the figures are medians of the batches, in
// microseconds an operation and as the ratio of throughputs. In Prepared both run a statement of db.Prepare, on four
// connections; the others have ten.
//
//	go test -run '^$' -bench 'Statements$' -benchtime 20x .
func BenchmarkStatements(b *testing.B) {
	dsn := pgtest.DSN(b)
	setup := openControl(b, dsn)
	_, err := setup.Exec("CREATE TABLE customers (id int PRIMARY KEY, name text NOT NULL, visits int NOT NULL DEFAULT 0);" +
		"INSERT INTO customers SELECT g, 'customer ' || g FROM generate_series(1, 10000) g; ANALYZE customers")
	require.NoError(b, err)
	far := newTap(b, dsn) // as far away as a server in the next town
	far.SetFrontend(nil)

	for _, at := range []struct {
		name, dsn string
		delay     time.Duration
		clients   []int
		batch     int
	}{
		{"Delay=0", dsn, 0, []int{1, 8, 32, 64}, 400},
		{"Delay=1ms", far.dsn, time.Millisecond, []int{1, 8, 64}, 50},
	} {
		far.SetShape(faultproxy.Both, faultproxy.Shape{Delay: at.delay})
		for _, op := range statementOperations {
			plain, kept := openPostgres(b, "postgres", at.dsn, op.limit), openPostgres(b, "lifeguard", at.dsn, op.limit)
			for _, clients := range at.clients {
				b.Run(fmt.Sprintf("%s/Op=%s/Clients=%d", at.name, op.name, clients), func(b *testing.B) {
					compareStatements(b, op.prepare, [2]*sql.DB{plain.DB, kept.DB}, clients, max(at.batch/clients, at.batch/10))
				})
			}
		}
	}
	far.SetShape(faultproxy.Both, faultproxy.Shape{})
}

var statementOperations = []struct {
	name    string
	limit   int // connections
	prepare func(testing.TB, *sql.DB) (run func(i int) error)
}{
	{"QueryRow", 10, func(_ testing.TB, db *sql.DB) func(int) error {
		return func(i int) error {
			var name string
			return db.QueryRow("SELECT name FROM customers WHERE id = $1", 1+i%10000).Scan(&name)
		}
	}},
	{"QueryRowContext", 10, func(_ testing.TB, db *sql.DB) func(int) error { // as services have it: each with an end
		return func(i int) error {
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			var name string
			return db.QueryRowContext(ctx, "SELECT name FROM customers WHERE id = $1", 1+i%10000).Scan(&name)
		}
	}},
	{"Exec", 10, func(_ testing.TB, db *sql.DB) func(int) error {
		return func(i int) error {
			_, err := db.Exec("UPDATE customers SET visits = visits + $2 WHERE id = $1", 1+i%10000, 1)
			return err
		}
	}},
	{"ExecNoRow", 10, func(_ testing.TB, db *sql.DB) func(int) error { // nobody has such an id: the server writes nothing
		return func(i int) error {
			_, err := db.Exec("UPDATE customers SET visits = visits + $2 WHERE id = $1", -1-i%10000, 1)
			return err
		}
	}},
	{"Prepared", 4, func(tb testing.TB, db *sql.DB) func(int) error {
		st, err := db.Prepare("SELECT name FROM customers WHERE id = $1 AND visits >= 0")
		require.NoError(tb, err)
		tb.Cleanup(func() { st.Close() })
		return func(i int) error {
			var name string
			return st.QueryRow(1 + i%10000).Scan(&name)
		}
	}},
}

func compareStatements(b *testing.B, prepare func(testing.TB, *sql.DB) func(int) error, dbs [2]*sql.DB, clients, batch int) {
	runs := [2]func(int) error{prepare(b, dbs[0]), prepare(b, dbs[1])}
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
	var times [2][]float64
	var ratios []float64
	for b.Loop() {
		for i, run := range runs {
			times[i] = append(times[i], measure(run))
		}
		n := len(ratios)
		ratios = append(ratios, times[0][n]/times[1][n])
	}
	b.ReportMetric(0, "ns/op") // an iteration is a batch of everything, which says nothing
	b.ReportMetric(median(times[0]), "plain-µs")
	b.ReportMetric(median(times[1]), "lifeguard-µs")
	b.ReportMetric(median(ratios), "x-throughput")
}
