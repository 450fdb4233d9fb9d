package candidate

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"net/url"
	"strconv"

	_ "github.com/jackc/pgx/v5/stdlib" // registers "pgx"

	"github.com/go-lifeguard/lifeguard"
)

// lifeguardPGX is lifeguard over pgx's database/sql driver instead of lib/pq.
type lifeguardPGX struct{}

func (lifeguardPGX) Name() string   { return "lifeguard over pgx" }
func (lifeguardPGX) Module() string { return "github.com/go-lifeguard/lifeguard" }
func (lifeguardPGX) Note() string {
	return "`lifeguard.Open(\"pgx\", dsn)` with `connection_limit`, all else at its defaults: pgx keeps the statements, and the handle " +
		"as many idle leases as the pool has connections"
}

func (lifeguardPGX) Open(_ context.Context, dsn string, s Settings) (Pool, error) {
	u, err := url.Parse(dsn)
	if err != nil {
		return nil, err
	}
	q := u.Query()
	q.Set("connection_limit", strconv.Itoa(s.Connections))
	if s.PoolTimeout > 0 {
		q.Set("pool_timeout", s.PoolTimeout.String())
	}
	if s.Statements > 0 {
		q.Set("statement_cache_capacity", strconv.Itoa(s.Statements)) // pgx's own
	}
	u.RawQuery = q.Encode()
	db, err := lifeguard.Open("pgx", u.String())
	if err != nil {
		return nil, err
	}
	return sqlPool{db}, nil
}

func (lifeguardPGX) Over(driver.Connector, Settings) (*sql.DB, error) {
	return nil, Unable("over another driver it is lifeguard")
}
