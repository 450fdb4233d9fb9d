package candidate

import (
	"context"
	"database/sql"
	"database/sql/driver"
)

// plain is database/sql as it is.
type plain struct{}

func (plain) Name() string   { return "plain database/sql" }
func (plain) Module() string { return "github.com/lib/pq" }
func (plain) Note() string {
	return "lib/pq with `SetMaxOpenConns` and `SetMaxIdleConns`, nothing around it: the baseline"
}

func (c plain) Open(_ context.Context, dsn string, s Settings) (Pool, error) {
	return overPQ(c, dsn, s)
}

func (plain) Over(c driver.Connector, s Settings) (*sql.DB, error) {
	return limit(sql.OpenDB(c), s), nil
}
