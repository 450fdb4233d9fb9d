package candidate

import (
	"context"
	"database/sql"
	"database/sql/driver"

	"github.com/uptrace/opentelemetry-go-extra/otelsql"
	metricnoop "go.opentelemetry.io/otel/metric/noop"
)

// uptrace is uptrace's otelsql: OpenTelemetry spans and metrics.
type uptrace struct{}

func (uptrace) Name() string   { return "uptrace otelsql" }
func (uptrace) Module() string { return "github.com/uptrace/opentelemetry-go-extra/otelsql" }
func (uptrace) Note() string   { return "`OpenDB` with its defaults" }

func (c uptrace) Open(_ context.Context, dsn string, s Settings) (Pool, error) {
	return overPQ(c, dsn, s)
}

func (uptrace) Over(c driver.Connector, s Settings) (*sql.DB, error) {
	return limit(otelsql.OpenDB(c,
		otelsql.WithTracerProvider(s.provider()), otelsql.WithMeterProvider(metricnoop.NewMeterProvider())), s), nil
}
