package observe_test

import (
	"database/sql"
	"testing"
	"time"

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
	assert.Equal(t, "github.com/go-lifeguard/lifeguard/internal/observe_test.TestServerSpans", got["code.function.name"].AsString())

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
