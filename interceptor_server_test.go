package lifeguard_test

import (
	"database/sql"
	"testing"
	"time"

	"github.com/lib/pq"
	"github.com/ngrok/sqlmw"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/go-lifeguard/lifeguard"
	"github.com/go-lifeguard/lifeguard/internal/pgtest"
	"github.com/go-lifeguard/lifeguard/internal/pooltest"
)

// Interceptors stand before the statement cache: they see what the application runs, and it runs on kept statements.
func TestInterceptorsAndStatementCache(t *testing.T) {
	dsn := pgtest.DSN(t)
	read := 0
	db, err := lifeguard.Open("postgres", pooltest.AddParams(t, dsn, "connection_limit=1"), pooltest.Quiet,
		lifeguard.WithInterceptors(counts{read: &read}, sqlmw.NullInterceptor{}))
	require.NoError(t, err)
	c := pooltest.WatchClosing(t, db, "interceptors", dsn)
	pool := pooltest.PoolOf(t, db)

	kept := func() (n int) {
		require.NoError(t, c.QueryRow("SELECT count(*) FROM pg_prepared_statements").Scan(&n))
		return n
	}
	for i := range 3 {
		var n int
		require.NoError(t, c.QueryRow("SELECT $1::int + 1", i).Scan(&n))
		require.Equal(t, i+1, n)
	}
	assert.Equal(t, 1, kept())
	assert.EqualValues(t, 2, pool.Stats().StatementHits)
	assert.Equal(t, 4, read, "the last by kept")

	st, err := c.Prepare("SELECT $1::text || 'x'")
	require.NoError(t, err)
	var s string
	for range 3 {
		require.NoError(t, st.QueryRow("a").Scan(&s))
		require.Equal(t, "ax", s)
	}
	assert.Equal(t, 2, kept())
	// A statement that the server has forgotten is prepared again, behind the interceptors.
	_, err = c.Exec("DEALLOCATE ALL")
	require.NoError(t, err)
	require.NoError(t, st.QueryRow("b").Scan(&s))
	require.Equal(t, "bx", s)
	require.NoError(t, st.Close())
	rows, err := c.Query("SELECT $1::int + generate_series(1, 3)", 1)
	require.NoError(t, err)
	require.True(t, rows.Next())
	require.NoError(t, rows.Close())

	var pqErr *pq.Error
	_, err = c.Exec("SELECT 1 / $1::int", 0)
	require.ErrorAs(t, err, &pqErr)
	assert.EqualValues(t, "22012", pqErr.Code)
}

// What a slow and a failed query show on a real server.
func TestServerSpans(t *testing.T) {
	dsn := pgtest.DSN(t)
	spans := tracetest.NewSpanRecorder()
	db, err := lifeguard.Open("postgres", pooltest.AddParams(t, dsn, "connection_limit=1"), pooltest.Quiet,
		lifeguard.WithTracerProvider(sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans))))
	require.NoError(t, err)
	c := pooltest.WatchClosing(t, db, "spans", dsn)
	require.NoError(t, c.Ping())
	before := len(spans.Ended()) // connecting may have been slow
	_, err = c.Exec("CREATE TEMP TABLE unique_names (name text UNIQUE)")
	require.NoError(t, err)

	start := time.Now()
	var pause sql.NullString
	require.NoError(t, c.QueryRow("SELECT pg_sleep($1), 'secret'::text FROM generate_series(1, 1)", 0.3).Scan(&pause, new(string)))
	end := time.Now()
	ended := spans.Ended()[before:]
	require.Len(t, ended, 1)
	slow := ended[0]
	assert.False(t, slow.StartTime().Before(start) || slow.EndTime().After(end))
	assert.GreaterOrEqual(t, slow.EndTime().Sub(slow.StartTime()), 300*time.Millisecond)
	got := attributesOf(slow)
	assert.Equal(t, "SELECT pg_sleep($1), ?::text FROM generate_series(?, ?)", got["db.query.text"].AsString())
	assert.Equal(t, "postgresql", got["db.system.name"].AsString())
	assert.EqualValues(t, 1, got["db.response.returned_rows"].AsInt64())
	assert.NotEmpty(t, got["db.namespace"].AsString())
	assert.Equal(t, "github.com/go-lifeguard/lifeguard_test.TestServerSpans", got["code.function.name"].AsString())

	for range 2 {
		_, err = c.Exec("INSERT INTO unique_names VALUES ('secret')")
	}
	require.Error(t, err)
	ended = spans.Ended()[before:]
	require.Len(t, ended, 2)
	got = attributesOf(ended[1])
	assert.Equal(t, "23505", got["db.response.status_code"].AsString())
	assert.Equal(t, "INSERT unique_names", ended[1].Name())
	assert.Equal(t, sdktrace.Status{Code: codes.Error, Description: "23505"}, ended[1].Status())
}

func attributesOf(s sdktrace.ReadOnlySpan) map[string]attribute.Value {
	all := map[string]attribute.Value{}
	for _, a := range s.Attributes() {
		all[string(a.Key)] = a.Value
	}
	return all
}
