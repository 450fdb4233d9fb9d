package candidate

import (
	"context"
	"database/sql"
	"database/sql/driver"

	"github.com/XSAM/otelsql"
	metricnoop "go.opentelemetry.io/otel/metric/noop"
)

// xsam is XSAM's otelsql: OpenTelemetry spans and metrics for every operation.
type xsam struct{}

func (xsam) Name() string   { return "XSAM/otelsql" }
func (xsam) Module() string { return "github.com/XSAM/otelsql" }
func (xsam) Note() string   { return "`OpenDB` with its defaults" }

func (c xsam) Open(_ context.Context, dsn string, s Settings) (Pool, error) { return overPQ(c, dsn, s) }

func (xsam) Over(c driver.Connector, s Settings) (*sql.DB, error) {
	return limit(otelsql.OpenDB(c,
		otelsql.WithTracerProvider(s.provider()), otelsql.WithMeterProvider(metricnoop.NewMeterProvider())), s), nil
}
