package stmtcache_test

import (
	"database/sql"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/lib/pq"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/go-lifeguard/lifeguard"
	"github.com/go-lifeguard/lifeguard/internal/bouncertest"
	"github.com/go-lifeguard/lifeguard/internal/pgtest"
	"github.com/go-lifeguard/lifeguard/internal/pooltest"
)

// poolerKnowsStatements says whether this machine's PgBouncer can keep the statements of its clients apart.
func poolerKnowsStatements(t *testing.T) bool {
	var major, minor int
	_, err := fmt.Sscanf(bouncertest.Version(t), "%d.%d", &major, &minor)
	require.NoError(t, err)
	return major > 1 || minor >= 21
}

// rawPooler starts a PgBouncer in transaction mode, with two server connections, which hands on what its clients prepare
// as it is.
func rawPooler(t *testing.T, dsn string) string {
	settings := []string{"default_pool_size=2"}
	if poolerKnowsStatements(t) {
		settings = append(settings, "max_prepared_statements=0")
	}
	return bouncertest.Start(t, dsn, settings...)
}

// atPooler is openPostgres without a look at the server, where all connections are the pooler's.
func atPooler(t *testing.T, driverName, dsn string, limit int, log *pooltest.LogBuffer, params ...string) *sql.DB {
	t.Helper()
	var db *sql.DB
	var err error
	if driverName == "postgres" {
		db, err = sql.Open("postgres", dsn)
		require.NoError(t, err)
		db.SetMaxOpenConns(limit)
	} else {
		db, err = lifeguard.Open("postgres", pooltest.AddParams(t, dsn, append(params, "connection_limit="+strconv.Itoa(limit))...),
			lifeguard.WithLogger(slog.New(slog.NewTextHandler(log, nil))))
		require.NoError(t, err)
	}
	t.Cleanup(func() { assert.NoError(t, db.Close()) })
	return db
}

// crossing has two clients of a pooler run a statement each, on different servers, and then the first one its own again,
// on the other's server: the pooler hands out the server that was used last.
func crossing(t *testing.T, a, b, other *sql.DB, run func(db *sql.DB, text string) (string, error)) (string, error) {
	t.Helper()
	const textA, textB = "SELECT 'a' || $1::text", "SELECT 'b' || $1::text"
	hold, err := other.Begin()
	require.NoError(t, err)
	got, err := run(a, textA)
	require.NoError(t, err)
	require.Equal(t, "a!", got)
	require.NoError(t, hold.Rollback())
	got, err = run(b, textB)
	require.NoError(t, err)
	require.Equal(t, "b!", got)
	return run(a, textA)
}

// Behind a pooler in transaction mode a name may stand for another client's statement. This is what makes looking for
// one necessary, and it is what plain lib/pq does with statements that a program prepares.
func TestStatementsRawPooler(t *testing.T) {
	t.Logf("PgBouncer %s in transaction mode, without prepared statements of its own", bouncertest.Version(t))
	dsn := rawPooler(t, pgtest.DSN(t))
	other := atPooler(t, "postgres", dsn, 1, nil)

	t.Run("hazard", func(t *testing.T) {
		stmts := map[string]*sql.Stmt{}
		a, b := atPooler(t, "postgres", dsn, 1, nil), atPooler(t, "postgres", dsn, 1, nil)
		got, err := crossing(t, a, b, other, func(db *sql.DB, text string) (got string, err error) {
			st := stmts[text]
			if st == nil {
				st, err = db.Prepare(text)
				require.NoError(t, err)
				stmts[text] = st
			}
			err = st.QueryRow("!").Scan(&got)
			return got, err
		})
		for _, st := range stmts {
			st.Close()
		}
		require.NoError(t, err)
		require.Equal(t, "b!", got, "the pooler did not cross the connections, so what follows shows nothing")
	})

	t.Run("queries", func(t *testing.T) {
		log := &pooltest.LogBuffer{}
		p := pooltest.NewTap(t, dsn)
		a, b := atPooler(t, "lifeguard", p.DSN, 1, log), atPooler(t, "lifeguard", p.DSN, 1, log)
		for range 5 {
			got, err := crossing(t, a, b, other, func(db *sql.DB, text string) (got string, err error) {
				err = db.QueryRow(text, "!").Scan(&got)
				return got, err
			})
			require.NoError(t, err)
			require.Equal(t, "a!", got)
		}
		_, named, _ := p.Take()
		assert.LessOrEqual(t, len(named), 2, "statements were named: %q", named) // one by each pool, to find out
		for _, db := range []*sql.DB{a, b} {
			st := pooltest.PoolOf(t, db).Stats()
			assert.Zero(t, st.StatementHits+st.StatementMisses)
		}
		assert.Contains(t, log.String(), "pgbouncer=true")
		assert.LessOrEqual(t, strings.Count(log.String(), "pooler stands"), 2)
	})

	t.Run("error", func(t *testing.T) {
		a, b := atPooler(t, "lifeguard", dsn, 1, &pooltest.LogBuffer{}), atPooler(t, "lifeguard", dsn, 1, &pooltest.LogBuffer{})
		var failed error
		for i := 0; i < 20 && failed == nil; i++ {
			for _, db := range []*sql.DB{a, b} {
				st, err := db.Prepare(fmt.Sprintf("SELECT %d", i)) // a name that the other has, or will have
				if err == nil {
					_, err = st.Exec()
				}
				if err != nil {
					failed = err
				}
			}
		}
		require.Error(t, failed)
		assert.Contains(t, failed.Error(), "pgbouncer=true")
		assert.IsType(t, &pq.Error{}, failed)
	})

	t.Run("pgbouncer=true", func(t *testing.T) {
		p := pooltest.NewTap(t, dsn)
		var clients []*sql.DB
		for range 2 {
			clients = append(clients, atPooler(t, "lifeguard", p.DSN, 4, &pooltest.LogBuffer{}, "pgbouncer=true"))
		}
		var wg sync.WaitGroup
		for g := range 8 {
			wg.Go(func() {
				db := clients[g%2]
				st, err := db.Prepare(fmt.Sprintf("SELECT $1::int * %d", g))
				if !assert.NoError(t, err) {
					return
				}
				defer st.Close()
				for i := range 100 {
					var n int
					if err := db.QueryRow(fmt.Sprintf("SELECT $1::int + %d", g), i).Scan(&n); err != nil || n != i+g {
						t.Errorf("%d + %d = %d, %v", i, g, n, err)
						return
					}
					if err := st.QueryRow(i).Scan(&n); err != nil || n != i*g {
						t.Errorf("%d * %d = %d, %v", i, g, n, err)
						return
					}
				}
			})
		}
		wg.Wait()
		_, named, _ := p.Take()
		assert.Empty(t, named)
	})
}

// A pooler in session mode gives each client a server of its own, but that cannot be told from outside: nothing is kept,
// and all works as on the plain driver.
func TestStatementsSessionPooler(t *testing.T) {
	settings := []string{"pool_mode=session"}
	if poolerKnowsStatements(t) {
		settings = append(settings, "max_prepared_statements=0")
	}
	db := atPooler(t, "lifeguard", bouncertest.Start(t, pgtest.DSN(t), settings...), 2, &pooltest.LogBuffer{})
	for i := range 10 {
		var n int
		require.NoError(t, db.QueryRow("SELECT $1::int", i).Scan(&n))
		require.Equal(t, i, n)
	}
	assert.Zero(t, pooltest.PoolOf(t, db).Stats().StatementHits)
}

// A pooler that keeps the statements of its clients apart is no hindrance.
func TestStatementsPoolerWithStatements(t *testing.T) {
	if !poolerKnowsStatements(t) {
		t.Skipf("PgBouncer %s has no prepared statements of its own, which came with 1.21", bouncertest.Version(t))
	}
	t.Logf("PgBouncer %s in transaction mode, with prepared statements of its own", bouncertest.Version(t))
	dsn := bouncertest.Start(t, pgtest.DSN(t), "default_pool_size=2", "max_prepared_statements=100")
	var clients []*sql.DB
	for range 2 {
		clients = append(clients, atPooler(t, "lifeguard", dsn, 4, &pooltest.LogBuffer{}))
	}
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 100 {
				var n int
				err := clients[g%2].QueryRow(fmt.Sprintf("SELECT $1::int + %d", i%20), g).Scan(&n)
				if err != nil || n != g+i%20 {
					t.Errorf("%d + %d = %d, %v", g, i%20, n, err)
					return
				}
			}
		})
	}
	wg.Wait()
	for _, db := range clients {
		st := pooltest.PoolOf(t, db).Stats()
		assert.Greater(t, st.StatementHits, st.StatementMisses)
	}
}
