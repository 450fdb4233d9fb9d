package wrappers

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"os"
	"sync/atomic"
	"testing"

	xsam "github.com/XSAM/otelsql"
	"github.com/luna-duclos/instrumentedsql"
	"github.com/ngrok/sqlmw"
	"github.com/qustavo/sqlhooks/v2"
	uptrace "github.com/uptrace/opentelemetry-go-extra/otelsql"
	nhat "go.nhat.io/otelsql"

	"github.com/go-lifeguard/lifeguard/ecosystem/wrappers/suite"
	"github.com/go-lifeguard/lifeguard/internal/pgtest"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Run(m)) }

func TestLibraries(t *testing.T) { suite.Run(t, libraries) }

// wrapped registers the driver that wrap makes.
func wrapped(wrap func(driver.Driver) driver.Driver) func(string, func() driver.Driver, string) (*sql.DB, error) {
	return func(_ string, d func() driver.Driver, dsn string) (*sql.DB, error) {
		name := suite.Unique("wrapped")
		sql.Register(name, wrap(d()))
		return sql.Open(name, dsn)
	}
}

// registered opens by the name that a library has registered.
func registered(register func(string) (string, error)) func(string, func() driver.Driver, string) (*sql.DB, error) {
	return func(name string, _ func() driver.Driver, dsn string) (*sql.DB, error) {
		own, err := register(name)
		if err != nil {
			return nil, err
		}
		return sql.Open(own, dsn)
	}
}

var libraries = []suite.Library{
	{Name: "XSAM otelsql.Open", OnlyOver: true, Open: func(name string, _ func() driver.Driver, dsn string) (*sql.DB, error) {
		return xsam.Open(name, dsn)
	}},
	{Name: "XSAM otelsql.Register", Open: registered(func(name string) (string, error) { return xsam.Register(name) })},
	{Name: "XSAM otelsql.WrapDriver", Open: wrapped(func(d driver.Driver) driver.Driver { return xsam.WrapDriver(d) })},
	{Name: "nhat otelsql.Register", Hides: true, Open: registered(func(name string) (string, error) { return nhat.Register(name) })},
	{Name: "nhat otelsql.Wrap", Hides: true, Open: wrapped(func(d driver.Driver) driver.Driver { return nhat.Wrap(d) })},
	{Name: "uptrace otelsql.Open", Hides: true, HidesClose: true, OnlyOver: true, Open: func(name string, _ func() driver.Driver, dsn string) (*sql.DB, error) {
		return uptrace.Open(name, dsn)
	}},
	{Name: "sqlmw.Driver", HidesClose: true, Open: wrapped(func(d driver.Driver) driver.Driver { return sqlmw.Driver(d, sqlmw.NullInterceptor{}) })},
	{Name: "sqlhooks.Wrap", Hides: true, NoContext: true, Open: wrapped(func(d driver.Driver) driver.Driver { return sqlhooks.Wrap(d, &counting{}) })},
	{Name: "instrumentedsql.WrapDriver", Hides: true, HidesClose: true, Open: wrapped(func(d driver.Driver) driver.Driver {
		return instrumentedsql.WrapDriver(d)
	})},
}

// counting are hooks that count.
type counting struct{ before, after atomic.Int64 }

func (h *counting) Before(ctx context.Context, _ string, _ ...any) (context.Context, error) {
	h.before.Add(1)
	return ctx, nil
}

func (h *counting) After(ctx context.Context, _ string, _ ...any) (context.Context, error) {
	h.after.Add(1)
	return ctx, nil
}
