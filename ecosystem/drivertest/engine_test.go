package drivertest

import (
	"database/sql"
	"database/sql/driver"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/go-lifeguard/lifeguard"
)

// An engine is a driver with a database behind it, and what its SQL looks like.
type engine struct {
	driverName string // as the driver registers itself
	driver     func() driver.Driver
	connector  func(dsn string) (driver.Connector, error)

	database func(t *testing.T) (fresh func(t *testing.T) (dsn string)) // each call of fresh empties it
	mark     func(n int) string                                         // a placeholder
	describe func(error) string                                         // what the driver's error type holds; "" for other errors
	identity string                                                     // a query for the number of the connection; "" where there is none
	level    string                                                     // a query for the isolation level; "" where there is none
	endless  string                                                     // a query that runs until it is cancelled
	stays    bool                                                       // a rollback at the end of a context leaves a sql.Conn its connection

	arguments []argument
	failing   []string // statements that fail
	scripts   []scenario
}

// An argument is a value and the expression to select it with, with the placeholder as %s.
type argument struct {
	expression string
	value      any
}

// A way is one of the ways to open a handle.
type way struct {
	name string
	open func(e *engine, dsn string, limit int) (*sql.DB, error)
}

var plain = way{"plain", func(e *engine, dsn string, limit int) (*sql.DB, error) {
	db, err := sql.Open(e.driverName, dsn)
	if err == nil {
		db.SetMaxOpenConns(limit)
		db.SetMaxIdleConns(limit)
	}
	return db, err
}}

// wrapped are the ways through lifeguard.
var wrapped = []way{
	{"Open", func(e *engine, dsn string, limit int) (*sql.DB, error) {
		return lifeguard.Open(e.driverName, withLimit(dsn, limit), quiet)
	}},
	{"Register", func(e *engine, dsn string, limit int) (*sql.DB, error) {
		return sql.Open(e.register(), withLimit(dsn, limit))
	}},
	{"OpenDB", func(e *engine, dsn string, limit int) (*sql.DB, error) {
		c, err := e.connector(dsn)
		if err != nil {
			return nil, err
		}
		cfg := lifeguard.DefaultConfig()
		cfg.ConnectionLimit, cfg.MaxIdleConnections = limit, limit
		return lifeguard.OpenDB(c, lifeguard.WithConfig(cfg), quiet)
	}},
}

func withLimit(dsn string, limit int) string {
	return withParam(dsn, fmt.Sprint("connection_limit=", limit))
}

func withParam(dsn, param string) string {
	if strings.Contains(dsn, "?") {
		return dsn + "&" + param
	}
	return dsn + "?" + param
}

// registrations numbers drivers, whose names can be taken only once in a process.
var registrations atomic.Int64

func (e *engine) register() (name string) {
	name = fmt.Sprintf("lifeguard-%s-%d", e.driverName, registrations.Add(1))
	lifeguard.Register(name, e.driver(), quiet)
	return name
}
