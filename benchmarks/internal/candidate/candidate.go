// Package candidate has what the comparison compares, each in a file of its own behind one interface.
package candidate

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"time"

	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"
)

// A Candidate is a way of working with a database.
type Candidate interface {
	// Name is how tables and pictures call it.
	Name() string
	// Module is the path of the module whose version belongs to the results.
	Module() string
	// Note says in a sentence how it is set up.
	Note() string
	// Open opens a pool on the PostgreSQL server at dsn, a URL. It may not connect yet.
	Open(ctx context.Context, dsn string, s Settings) (Pool, error)
	// Over lays the candidate over a driver that is not PostgreSQL's, with a pool of s.Connections, all of which are
	// kept when they are idle. The error is an [Unable] if the candidate does not work that way.
	Over(c driver.Connector, s Settings) (*sql.DB, error)
}

// All lists the candidates. The first is the baseline.
func All() []Candidate {
	return []Candidate{
		plain{},
		lifeguardCandidate{},
		lifeguardCandidate{uncached: true},
		xsam{},
		nhat{},
		uptrace{},
		sqlmwCandidate{},
		sqlhooksCandidate{},
		instrumentedsqlCandidate{},
		sqldblogger{},
		pgxStdlib{},
		lifeguardPGX{},
		pgxPool{},
	}
}

// An Absentee is a library that belongs in the comparison and is not in it.
type Absentee struct{ Name, Reason string }

// Settings are what a workload asks of every candidate.
type Settings struct {
	// Connections is the most that may be open.
	Connections int
	// IdleDefault leaves the number of idle connections kept to the candidate; otherwise all of them are kept.
	IdleDefault bool
	// PoolTimeout bounds the wait for a connection where the candidate can do that; 0 is the candidate's default.
	PoolTimeout time.Duration
	// Statements is how many prepared statements a connection may keep where the candidate keeps any; 0 is the
	// candidate's default.
	Statements int
	// Tracing is what spans are made with; nil makes none.
	Tracing trace.TracerProvider
	// Metrics is what measurements are recorded with; nil records none.
	Metrics metric.MeterProvider
}

// A Pool is an opened candidate. All methods but Close are safe for concurrent use.
type Pool interface {
	// Exec runs a statement that returns no rows.
	Exec(ctx context.Context, query string, args ...any) error
	// Int reads a result of one row with one integer.
	Int(ctx context.Context, query string, args ...any) (int64, error)
	// Pairs reads a result of rows with an integer and a text, and returns how many rows there were.
	Pairs(ctx context.Context, query string, args ...any) (int, error)
	// Tx runs f in a transaction and commits it, or rolls it back if f fails.
	Tx(ctx context.Context, f func(Tx) error) error
	// Prepare prepares a query that Int would run.
	Prepare(ctx context.Context, query string) (Statement, error)
	// Acquire takes a connection for the caller alone.
	Acquire(ctx context.Context) (release func() error, err error)
	Close() error
}

// A Tx is a transaction under way.
type Tx interface {
	Exec(ctx context.Context, query string, args ...any) error
	Int(ctx context.Context, query string, args ...any) (int64, error)
}

// A Statement is prepared and safe for concurrent use.
type Statement interface {
	Int(ctx context.Context, args ...any) (int64, error)
	Close() error
}

// Unable is why a candidate cannot do a workload. It is shown under the table in which the candidate has a dash.
type Unable string

func (u Unable) Error() string { return string(u) }
