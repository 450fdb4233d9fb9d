package candidate

import (
	"context"
	"database/sql"
	"database/sql/driver"

	sqldblog "github.com/simukti/sqldb-logger"
)

// sqldblogger is simukti's sqldb-logger: a log line for every operation.
type sqldblogger struct{}

func (sqldblogger) Name() string   { return "sqldb-logger" }
func (sqldblogger) Module() string { return "github.com/simukti/sqldb-logger" }
func (sqldblogger) Note() string {
	return "`OpenDriver` with its defaults, which log every operation, and a logger that drops the lines"
}

func (c sqldblogger) Open(_ context.Context, dsn string, s Settings) (Pool, error) {
	return overPQ(c, dsn, s)
}

func (sqldblogger) Over(c driver.Connector, s Settings) (*sql.DB, error) {
	return limit(sqldblog.OpenDriver("", wrappedDriver{c}, discard{}), s), nil
}

type discard struct{}

func (discard) Log(context.Context, sqldblog.Level, string, map[string]any) {}
