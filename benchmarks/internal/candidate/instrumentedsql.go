package candidate

import (
	"context"
	"database/sql"
	"database/sql/driver"

	"github.com/luna-duclos/instrumentedsql"
)

// instrumentedsqlCandidate is luna-duclos' instrumentedsql: a tracer and a logger of one's own around a driver.
type instrumentedsqlCandidate struct{}

func (instrumentedsqlCandidate) Name() string   { return "instrumentedsql" }
func (instrumentedsqlCandidate) Module() string { return "github.com/luna-duclos/instrumentedsql" }
func (instrumentedsqlCandidate) Note() string {
	return "`WrapDriver` with its defaults: no tracer and no logger"
}

func (c instrumentedsqlCandidate) Open(_ context.Context, dsn string, s Settings) (Pool, error) {
	return overPQ(c, dsn, s)
}

func (instrumentedsqlCandidate) Over(c driver.Connector, s Settings) (*sql.DB, error) {
	return openDriver(instrumentedsql.WrapDriver(wrappedDriver{c}), s), nil
}
