package candidate

import (
	"context"
	"database/sql"
	"database/sql/driver"

	"go.nhat.io/otelsql"
	metricnoop "go.opentelemetry.io/otel/metric/noop"
)

// nhat is go.nhat.io/otelsql: OpenTelemetry spans and metrics, each kind of span asked for.
type nhat struct{}

func (nhat) Name() string   { return "go.nhat.io/otelsql" }
func (nhat) Module() string { return "go.nhat.io/otelsql" }
func (nhat) Note() string   { return "`Wrap` with `TraceQueryWithoutArgs`" }

func (c nhat) Open(_ context.Context, dsn string, s Settings) (Pool, error) { return overPQ(c, dsn, s) }

func (nhat) Over(c driver.Connector, s Settings) (*sql.DB, error) {
	return openDriver(otelsql.Wrap(wrappedDriver{c},
		otelsql.WithTracerProvider(s.provider()), otelsql.WithMeterProvider(metricnoop.NewMeterProvider()),
		otelsql.TraceQueryWithoutArgs()), s), nil
}
