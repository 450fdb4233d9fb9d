package candidate

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"net/url"
	"strconv"

	"github.com/go-lifeguard/lifeguard"
)

// lifeguardCandidate is lifeguard as sql.Open opens it.
type lifeguardCandidate struct {
	uncached bool // statement_cache_size=0
}

func (c lifeguardCandidate) Name() string {
	if c.uncached {
		return "lifeguard (no cache)"
	}
	return "lifeguard"
}

func (lifeguardCandidate) Module() string { return "github.com/go-lifeguard/lifeguard" }

func (c lifeguardCandidate) Note() string {
	if c.uncached {
		return "the same with `statement_cache_size=0`"
	}
	return "`sql.Open(\"lifeguard\", dsn)` over lib/pq with `connection_limit`, all else at its defaults"
}

func (c lifeguardCandidate) Open(_ context.Context, dsn string, s Settings) (Pool, error) {
	u, err := url.Parse(dsn)
	if err != nil {
		return nil, err
	}
	q := u.Query()
	q.Set("connection_limit", strconv.Itoa(s.Connections))
	if s.PoolTimeout > 0 {
		q.Set("pool_timeout", s.PoolTimeout.String())
	}
	switch {
	case c.uncached:
		q.Set("statement_cache_size", "0")
	case s.Statements > 0:
		q.Set("statement_cache_size", strconv.Itoa(s.Statements))
	}
	u.RawQuery = q.Encode()
	db, err := sql.Open("lifeguard", u.String())
	if err != nil {
		return nil, err
	}
	return sqlPool{db}, nil
}

func (c lifeguardCandidate) Over(connector driver.Connector, s Settings) (*sql.DB, error) {
	return c.over(connector, s, lifeguard.DefaultConfig())
}

func (c lifeguardCandidate) over(connector driver.Connector, s Settings, cfg lifeguard.Config) (*sql.DB, error) {
	cfg.ConnectionLimit, cfg.MaxIdleConnections = s.Connections, s.Connections
	if s.PoolTimeout > 0 {
		cfg.PoolTimeout = s.PoolTimeout
	}
	if c.uncached {
		cfg.StatementCacheSize = 0
	}
	return lifeguard.OpenDB(connector, lifeguard.WithConfig(cfg),
		lifeguard.WithTracerProvider(s.provider()), lifeguard.WithMeterProvider(s.meters()))
}

// lifeguardTraceAll makes a span for every operation, as the libraries for tracing do, instead of for the slow ones.
type lifeguardTraceAll struct{ lifeguardCandidate }

func (lifeguardTraceAll) Name() string { return "lifeguard (trace=all)" }
func (lifeguardTraceAll) Note() string { return "the same with `trace=all`" }

// Of names the candidate that this is a setting of.
func (c lifeguardTraceAll) Of() string { return c.lifeguardCandidate.Name() }

func (c lifeguardTraceAll) Over(connector driver.Connector, s Settings) (*sql.DB, error) {
	cfg := lifeguard.DefaultConfig()
	cfg.Trace = lifeguard.TraceAll
	return c.over(connector, s, cfg)
}
