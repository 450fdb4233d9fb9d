package datadog

import (
	"database/sql"
	"database/sql/driver"
	"fmt"
	"os"
	"strings"
	"testing"

	sqltrace "github.com/DataDog/dd-trace-go/contrib/database/sql/v2"
	"github.com/DataDog/dd-trace-go/v2/ddtrace/mocktracer"
	"github.com/DataDog/dd-trace-go/v2/ddtrace/tracer"
	"github.com/lib/pq"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/go-lifeguard/lifeguard"
	"github.com/go-lifeguard/lifeguard/ecosystem/wrappers/suite"
	"github.com/go-lifeguard/lifeguard/internal/pgtest"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Run(m)) }

// start has the spans of a test recorded. Nothing looks for an agent.
func start(t *testing.T) mocktracer.Tracer {
	recorder := mocktracer.Start()
	t.Cleanup(recorder.Stop)
	return recorder
}

func TestLibrary(t *testing.T) {
	start(t)
	suite.Run(t, []suite.Library{
		{Name: "sqltrace.Open", Hides: true, HidesClose: true, OnlyOver: true, ShowsDriver: true,
			Open: func(name string, _ func() driver.Driver, dsn string) (*sql.DB, error) {
				return sqltrace.Open(name, dsn)
			}},
		{Name: "sqltrace.Register", Hides: true, HidesClose: true, OnlyOver: true, ShowsDriver: true,
			Open: func(_ string, d func() driver.Driver, dsn string) (*sql.DB, error) {
				name := suite.Unique("traced")
				sqltrace.Register(name, d())
				return sqltrace.Open(name, dsn)
			}},
	})
}

// TestNotUnder: a handle of DataDog's shows the driver that it wraps, so that nothing can be opened over it.
func TestNotUnder(t *testing.T) {
	db, err := sqltrace.Open("postgres", pgtest.Shared(t).DSN())
	require.NoError(t, err)
	defer db.Close()
	assert.IsType(t, &pq.Driver{}, db.Driver())
}

// TestSpans: the same program makes the same spans over lifeguard as over lib/pq, but for the name that it was opened by.
func TestSpans(t *testing.T) {
	recorder := start(t)
	open := func(name string) *sql.DB {
		db, err := sqltrace.Open(name, pgtest.Shared(t).DSN())
		require.NoError(t, err)
		t.Cleanup(func() { assert.NoError(t, db.Close()) })
		return db
	}
	spans := func(db *sql.DB) (seen []string) {
		recorder.Reset()
		require.NoError(t, db.QueryRowContext(t.Context(), "SELECT $1::int", 1).Scan(new(int)))
		_, err := db.ExecContext(t.Context(), "SELEC")
		require.Error(t, err)
		tx, err := db.BeginTx(t.Context(), nil)
		require.NoError(t, err)
		_, err = tx.ExecContext(t.Context(), "SELECT 2")
		require.NoError(t, err)
		require.NoError(t, tx.Rollback())
		for _, s := range recorder.FinishedSpans() {
			line := fmt.Sprintln(s.Tag("sql.query_type"), s.Tag("resource.name"), s.Tag("db.name"), s.Tag("out.host"), s.Tag("out.port"), s.Tag("error.message"))
			assert.NotContains(t, strings.ToLower(line), "secret", "the password")
			seen = append(seen, line)
		}
		return seen
	}
	want := spans(open("postgres"))
	require.Len(t, want, 6, "%v", want)
	assert.Equal(t, want, spans(open("lifeguard")))
}

// TestPropagation: in the mode "full" each text has the number of its span, so that none comes twice.
func TestPropagation(t *testing.T) {
	start(t)
	hits := func(mode tracer.DBMPropagationMode) uint64 {
		db, err := sqltrace.Open("lifeguard", pgtest.Shared(t).DSN(), sqltrace.WithDBMPropagation(mode))
		require.NoError(t, err)
		defer db.Close()
		pool, ok := lifeguard.PoolOf(db)
		require.True(t, ok)
		span, ctx := tracer.StartSpanFromContext(t.Context(), "request")
		defer span.Finish()
		for i := range 10 {
			require.NoError(t, db.QueryRowContext(ctx, "SELECT $1::int", i).Scan(new(int)))
		}
		return pool.Stats().StatementHits
	}
	assert.NotZero(t, hits(tracer.DBMPropagationModeService))
	assert.Zero(t, hits(tracer.DBMPropagationModeFull))
}
