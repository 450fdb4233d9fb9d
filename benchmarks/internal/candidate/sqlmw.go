package candidate

import (
	"context"
	"database/sql"
	"database/sql/driver"

	"github.com/ngrok/sqlmw"
)

// sqlmwCandidate is ngrok's sqlmw: interceptors around a driver.
type sqlmwCandidate struct{}

func (sqlmwCandidate) Name() string   { return "ngrok/sqlmw" }
func (sqlmwCandidate) Module() string { return "github.com/ngrok/sqlmw" }
func (sqlmwCandidate) Note() string   { return "`Driver` with its `NullInterceptor`, which does nothing" }

func (c sqlmwCandidate) Open(_ context.Context, dsn string, s Settings) (Pool, error) {
	return overPQ(c, dsn, s)
}

func (sqlmwCandidate) Over(c driver.Connector, s Settings) (*sql.DB, error) {
	return openDriver(sqlmw.Driver(wrappedDriver{c}, sqlmw.NullInterceptor{}), s), nil
}
