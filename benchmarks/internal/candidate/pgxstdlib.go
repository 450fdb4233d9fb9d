package candidate

import (
	"context"
	"database/sql"
	"database/sql/driver"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
)

// pgxStdlib is pgx behind database/sql.
type pgxStdlib struct{}

func (pgxStdlib) Name() string   { return "pgx stdlib" }
func (pgxStdlib) Module() string { return "github.com/jackc/pgx/v5" }
func (pgxStdlib) Note() string {
	return "pgx as a `database/sql` driver, which keeps prepared statements by itself, as is its default"
}

func (pgxStdlib) Open(_ context.Context, dsn string, s Settings) (Pool, error) {
	cfg, err := pgx.ParseConfig(dsn)
	if err != nil {
		return nil, err
	}
	if s.Statements > 0 {
		cfg.StatementCacheCapacity = s.Statements
	}
	return sqlPool{limit(sql.OpenDB(stdlib.GetConnector(*cfg)), s)}, nil
}

func (pgxStdlib) Over(driver.Connector, Settings) (*sql.DB, error) {
	return nil, Unable("it is a driver for PostgreSQL and goes over no other")
}
