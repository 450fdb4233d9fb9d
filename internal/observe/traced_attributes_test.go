package observe_test

import (
	"database/sql"
	"database/sql/driver"
	"io"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/lib/pq"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/go-lifeguard/lifeguard"
	"github.com/go-lifeguard/lifeguard/internal/fakedriver"
	"github.com/go-lifeguard/lifeguard/internal/pooltest"
)

// The number of rows is that of each query, though the last one is remembered.
func TestRowsInSpans(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := openTraced(t, func(c *lifeguard.Config) { c.Trace = lifeguard.TraceAll })
		d.warm()
		for _, n := range []int{3, 3, 1, 0, 3} {
			d.srv.OnNext(func(_ *fakedriver.Conn, row int) error {
				if row > n {
					return io.EOF
				}
				return nil
			})
			got := d.one(func() {
				rows, err := d.QueryContext(d.ctx, "rows 3")
				require.NoError(t, err)
				for rows.Next() {
				}
				require.NoError(t, rows.Close())
			})
			assert.EqualValues(t, n, got.attributes["db.response.returned_rows"])
		}
	})
}

// What the DSN says about the server is in every span.
func TestTargetAttributes(t *testing.T) {
	for _, c := range []struct {
		driver, dsn string
		name        string
		want        map[string]any
	}{
		{"pgx-target", "postgres://u:secret@db.example:5433/shop", "BEGIN shop", map[string]any{
			"db.system.name": "postgresql", "db.namespace": "shop", "server.address": "db.example", "server.port": int64(5433),
		}},
		{"mysql-target", "u:secret@tcp(db.example)/shop", "BEGIN shop", map[string]any{
			"db.system.name": "mysql", "db.namespace": "shop", "server.address": "db.example", "server.port": int64(3306),
		}},
		{"sqlite-target", "file:/data/shop.db", "BEGIN shop.db", map[string]any{
			"db.system.name": "sqlite", "db.namespace": "shop.db",
		}},
	} {
		t.Run(c.driver, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := fakedriver.New()
				spans := tracetest.NewSpanRecorder()
				sql.Register(c.driver, srv.Driver())
				db, err := lifeguard.Open(c.driver, c.dsn+map[bool]string{true: "?trace=all", false: ""}[!strings.Contains(c.dsn, "?")], pooltest.Quiet,
					lifeguard.WithTracerProvider(sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans))))
				require.NoError(t, err)
				tx, err := db.Begin()
				require.NoError(t, err)
				require.NoError(t, tx.Rollback())
				require.NoError(t, db.Close())
				begin := spans.Ended()[1]
				assert.Equal(t, c.name, begin.Name())
				got := map[string]any{}
				for _, a := range begin.Attributes() {
					if k := string(a.Key); !strings.HasPrefix(k, "code.") && k != "db.operation.name" {
						got[k] = a.Value.AsInterface()
					}
				}
				assert.Equal(t, c.want, got)
			})
		})
	}
}

// A connector says nothing about the server, but the driver is known by its package.
func TestSystemOfConnector(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		spans := tracetest.NewSpanRecorder()
		db, err := lifeguard.OpenDB(pqConnector{fakedriver.New().Connector()}, pooltest.Quiet,
			lifeguard.WithTracerProvider(sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans))))
		require.NoError(t, err)
		c, err := db.Conn(t.Context())
		require.NoError(t, err)
		var closed driver.Conn
		require.NoError(t, c.Raw(func(dc any) error { closed = lifeguard.Unwrap(dc).(driver.Conn); return nil }))
		closed.(*fakedriver.Conn).Kill()
		_, err = c.ExecContext(t.Context(), "UPDATE t SET a = $1 WHERE b = 'x'", 7)
		require.Error(t, err)
		_ = c.Close()
		require.NoError(t, db.Close())
		require.Len(t, spans.Ended(), 1)
		assert.Contains(t, spans.Ended()[0].Attributes(), attribute.String("db.system.name", "postgresql"))
		assert.Contains(t, spans.Ended()[0].Attributes(), attribute.String("db.query.text", "UPDATE t SET a = $1 WHERE b = ?"))
	})
}

// pqConnector leads to a driver in memory and says that it is lib/pq's.
type pqConnector struct{ driver.Connector }

func (pqConnector) Driver() driver.Driver { return &pq.Driver{} }
