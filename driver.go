package lifeguard

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync"

	"github.com/lib/pq"

	"github.com/go-lifeguard/lifeguard/internal/assembly"
	"github.com/go-lifeguard/lifeguard/internal/dsn"
	"github.com/go-lifeguard/lifeguard/internal/handle"
	"github.com/go-lifeguard/lifeguard/internal/libpq"
	"github.com/go-lifeguard/lifeguard/internal/session"
)

func init() {
	Register("lifeguard", pqDriver{})
}

// pqDriver is lib/pq with a connector, which the driver that it registers itself does not offer: without one,
// connecting could not be cancelled.
type pqDriver struct{ pq.Driver }

// Register makes d, wrapped, available to [database/sql.Open] under name. Like [database/sql.Register] it panics if d is
// nil or the name is taken.
func Register(name string, d driver.Driver, opts ...Option) {
	if d == nil {
		panic("lifeguard: Register driver is nil")
	}
	w := &wrappedDriver{name: name, parent: d, options: newOptions(opts)}
	sql.Register(name, w)
	registered.Store(name, w)
}

// registered are the drivers that Register made, for Open: name to *wrappedDriver.
var registered sync.Map

// Open opens a handle on a driver that is registered with database/sql, such as "pgx" or "mysql", and wraps it. The handle
// keeps up to connection_limit idle leases. With [database/sql.Open] it keeps two, and the others go back to the pool.
//
// Settings are the defaults, then the options in their order, then the DSN; the later wins. An error names the parameter
// that is wrong, and never shows the DSN. No connection is opened, except for min_connections in the background.
func Open(driverName, dsn string, opts ...Option) (*sql.DB, error) {
	if driverName == "" {
		return nil, errors.New(`lifeguard: Open needs the name of a registered driver, such as "postgres" or "pgx"`)
	}
	w, err := wrappedFor(driverName, dsn, opts)
	if err != nil {
		return nil, err
	}
	c, err := w.open(dsn)
	if err != nil {
		return nil, err
	}
	return c.Handle(), nil
}

// wrappedFor gives the driver registered as name, wrapped. One that was wrapped by Register already is not wrapped
// twice: it only gets the further options.
func wrappedFor(name, text string, opts []Option) (*wrappedDriver, error) {
	if d, ok := registered.Load(name); ok {
		w := d.(*wrappedDriver)
		o := *w.options
		for _, opt := range opts {
			opt(&o)
		}
		return &wrappedDriver{name: w.name, parent: w.parent, options: &o}, nil
	}
	o := newOptions(opts)
	base, err := o.base(dsn.System(name, text))
	if err != nil {
		return nil, err
	}
	_, driverDSN, err := ParseDSN(text, base)
	if err != nil {
		return nil, err
	}
	// database/sql gives a driver away only behind a handle.
	db, err := sql.Open(name, driverDSN)
	if err != nil {
		return nil, dsn.NewRedactor(driverDSN).Error(err)
	}
	parent := db.Driver()
	if err := db.Close(); err != nil {
		return nil, fmt.Errorf("lifeguard: closing the handle that was opened to find driver %q: %w", name, err)
	}
	return &wrappedDriver{name: name, parent: known(parent), options: o}, nil
}

// known is a driver as lifeguard has it: in the place of lib/pq's stands its own way to it.
func known(d driver.Driver) driver.Driver {
	switch d.(type) {
	case pq.Driver, *pq.Driver:
		return pqDriver{}
	}
	return d
}

// OpenDB opens a handle on a connector, for drivers that are configured in code. c's Close, if it has one, is called
// when the handle is closed. Settings are the defaults, then the options in their order. [WithBeforeConnect] and
// fleet_limit are errors here, because they need a DSN.
func OpenDB(c driver.Connector, opts ...Option) (*sql.DB, error) {
	if c == nil {
		return nil, errors.New("lifeguard: OpenDB needs a connector, got nil")
	}
	o := newOptions(opts)
	if o.beforeConnect != nil {
		return nil, errors.New("lifeguard: WithBeforeConnect has no DSN to work on with OpenDB: open by driver name and DSN")
	}
	t := dsn.Target{System: dsn.System(driverPackage(c.Driver()), "")}
	cfg, err := o.base(t.System)
	if err != nil {
		return nil, err
	}
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	if cfg.FleetLimit > 0 {
		return nil, errors.New("lifeguard: fleet_limit needs a DSN to open its own session with, which OpenDB does not have: open by driver name and DSN")
	}
	if cfg.PoolName == "" {
		cfg.PoolName = fmt.Sprintf("%T", c.Driver())
	}
	p := newPool(c, cfg.PoolName, t, "", cfg, o, assembly.Fleet{})
	further := &wrappedDriver{name: driverPackage(c.Driver()), parent: known(c.Driver()), options: o}
	return p.join(further, c.Driver()).Handle(), nil
}

// driverPackage is the import path of a driver's package, from which the kind of database can be known; lib/pq's is
// shortened to its name.
func driverPackage(d driver.Driver) string {
	t := reflect.TypeOf(d)
	if t == nil {
		return ""
	}
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	return strings.TrimPrefix(t.PkgPath(), "github.com/lib/")
}

// Unwrap gives the wrapped driver's own connection, from what [database/sql.Conn.Raw] passes to its function:
//
//	conn.Raw(func(dc any) error {
//		pgxConn := lifeguard.Unwrap(dc).(*stdlib.Conn).Conn()
//		…
//	})
//
// Anything else is returned as it is. From then on leak_reclaim_after leaves the connection alone until it is returned. If
// it was taken back already, the answer is [ErrReclaimed], so that the type assertion fails.
func Unwrap(driverConn any) any {
	if c, ok := driverConn.(interface{ Unwrapped() any }); ok {
		return c.Unwrapped()
	}
	return driverConn
}

// PoolOf gives the pool behind a handle. It is false for a handle that was not opened through lifeguard.
func PoolOf(db *sql.DB) (*Pool, bool) {
	if c := connectorOf(db); c != nil {
		return poolOf(c), true
	}
	return nil, false
}

// wrappedDriver is what Register gives to database/sql.
type wrappedDriver struct {
	name    string
	parent  driver.Driver
	options *options
	singles assembly.Singles
}

var _ driver.DriverContext = (*wrappedDriver)(nil)

// Open opens one connection. database/sql prefers OpenConnector; libraries that wrap a driver may know only this. The
// connections that are opened with the same DSN share a pool, which lives until the last of them is closed. A wait ends
// with pool_timeout: no context reaches it.
func (d *wrappedDriver) Open(dsn string) (driver.Conn, error) {
	return d.singles.Open(dsn, func() (*handle.Connector, error) { return d.open(dsn) })
}

// OpenConnector is called by sql.Open.
func (d *wrappedDriver) OpenConnector(dsn string) (driver.Connector, error) { return d.open(dsn) }

func (d *wrappedDriver) open(text string) (*handle.Connector, error) {
	base, err := d.options.base(dsn.System(d.systemName(), text))
	if err != nil {
		return nil, err
	}
	cfg, driverDSN, err := ParseDSN(text, base)
	if err != nil {
		return nil, err
	}
	if err := d.refuses(driverDSN); err != nil {
		return nil, err
	}
	if cfg.PoolName != "" {
		return shared.open(d, cfg, text, driverDSN)
	}
	p, err := d.newPool(cfg, driverDSN)
	if err != nil {
		return nil, err
	}
	return p.join(d, d.parent), nil
}

// refuses says what to write instead of a DSN that is not PostgreSQL's: lib/pq would take it for a name, and dial the
// default server.
func (d *wrappedDriver) refuses(driverDSN string) error {
	if _, ok := d.parent.(pqDriver); !ok {
		return nil
	}
	name := ""
	switch system := dsn.System("", driverDSN); system {
	case "mysql":
		name = "mysql"
	case "sqlite":
		name = "sqlite"
	default:
		return nil
	}
	return fmt.Errorf("lifeguard: the DSN is not PostgreSQL's but looks like %s's: import its driver and write "+
		"lifeguard.Open(%q, dsn)", name, name)
}

func (d *wrappedDriver) newPool(cfg Config, driverDSN string) (*Pool, error) {
	parent, err := d.connector(driverDSN, cfg)
	if err != nil {
		return nil, err
	}
	of, err := d.fleet(driverDSN, cfg)
	if err != nil {
		return nil, err
	}
	t := dsn.Find(d.systemName(), driverDSN)
	name := cfg.PoolName
	if name == "" {
		name = t.PoolName()
	}
	return newPool(parent, name, t, driverDSN, cfg, d.options, of), nil
}

// systemName is the driver name from which the kind of database is known; "lifeguard" itself is lib/pq.
func (d *wrappedDriver) systemName() string {
	if _, ok := d.parent.(pqDriver); ok {
		return "postgres"
	}
	return d.name
}

// connector makes the connector of the wrapped driver.
func (d *wrappedDriver) connector(driverDSN string, cfg Config) (driver.Connector, error) {
	open := func(driverDSN string) (c driver.Connector, err error) {
		switch parent := d.parent.(type) {
		case pqDriver:
			options := libpq.SocketOptions{SocketTimeout: cfg.SocketTimeout, CountSent: cfg.AtMostOnce}
			c, err = libpq.NewConnector(driverDSN, options, cfg.PgBouncer)
		case driver.DriverContext:
			c, err = parent.OpenConnector(driverDSN)
		default:
			return dsnConnector{dsn: driverDSN, driver: d.parent}, nil
		}
		if err != nil {
			return nil, dsn.NewRedactor(driverDSN).Error(err)
		}
		return c, nil
	}
	c, err := open(driverDSN) // also with a hook: a DSN that is wrong is told at sql.Open
	if err == nil && d.options.beforeConnect != nil {
		return d.hooked(driverDSN, cfg, open)
	}
	return c, err
}

// fleet is the part of a pool in a fleet, none without fleet_limit. Its session is lib/pq's, whatever the driver.
func (d *wrappedDriver) fleet(driverDSN string, cfg Config) (of assembly.Fleet, err error) {
	if cfg.FleetLimit == 0 {
		return of, nil
	}
	switch system := dsn.System(d.systemName(), driverDSN); {
	case system == "mysql":
		return of, errors.New("lifeguard: fleet_limit works on PostgreSQL only: on MySQL and MariaDB the server keeps such a limit itself, " +
			"ALTER USER app WITH MAX_USER_CONNECTIONS 40, with errors in the place of waits")
	case system != "postgresql":
		return of, errors.New("lifeguard: fleet_limit works on PostgreSQL only, whose advisory locks it uses")
	case libpq.WantsStandby(driverDSN):
		return of, errors.New("lifeguard: fleet_limit needs a server that takes writes, and target_session_attrs asks for a standby: " +
			"write target_session_attrs=primary, or leave fleet_limit out")
	}
	_, own := d.parent.(pqDriver)
	open := func(driverDSN string) (driver.Connector, error) {
		connector, err := libpq.NewConnectorBeside(driverDSN, own)
		if err != nil {
			return nil, fmt.Errorf("lifeguard: fleet_limit opens a session of its own with lib/pq, which does not understand this DSN: %w",
				dsn.NewRedactor(driverDSN).Error(err))
		}
		return connector, nil
	}
	c, err := open(driverDSN)
	if err == nil && d.options.beforeConnect != nil {
		c, err = d.hooked(driverDSN, cfg, open)
	}
	return assembly.Fleet{Connector: c, Limit: cfg.FleetLimit, Name: cfg.FleetName}, err
}

// hooked is a connector that asks WithBeforeConnect for the DSN of each connection.
func (d *wrappedDriver) hooked(driverDSN string, cfg Config, open func(string) (driver.Connector, error)) (driver.Connector, error) {
	if strings.HasPrefix(driverDSN, "registeredConnConfig") {
		return nil, errors.New("lifeguard: WithBeforeConnect needs a DSN, and this is a name of pgx's RegisterConnConfig: " +
			"use pgx's own BeforeConnect")
	}
	return session.BeforeConnect{
		Parent: d.parent,
		DSN: func(ctx context.Context) (string, error) {
			answer, err := d.options.beforeConnect(ctx, driverDSN)
			if err != nil {
				return "", dsn.NewRedactor(answer).Error(err)
			}
			if _, stripped, err := ParseDSN(answer, DefaultConfig()); err != nil || stripped != answer {
				return "", errors.New("lifeguard: WithBeforeConnect returned a DSN with a parameter of lifeguard's: " +
					"set it in the DSN of sql.Open")
			}
			return answer, nil
		},
		Open:     open,
		Patience: cfg.PoolTimeout,
		Redact:   func(answer string, err error) error { return dsn.NewRedactor(answer).Error(err) },
	}, nil
}

// dsnConnector is the connector of a driver that has none.
type dsnConnector struct {
	dsn    string
	driver driver.Driver
}

func (c dsnConnector) Connect(context.Context) (driver.Conn, error) { return c.driver.Open(c.dsn) }
func (c dsnConnector) Driver() driver.Driver                        { return c.driver }

// poolDriver is what sql.DB.Driver gives: the wrapped driver, and the way back to the connector. Libraries that take a
// driver from a handle to wrap it get the pool, too.
type poolDriver struct {
	driver.Driver
	handle *handle.Connector
	pool   *Pool
	of     *wrappedDriver

	forcing sync.Mutex
	late    error // guarded by forcing; of the shutdown that had to end before all was back
}

var _ driver.DriverContext = (*poolDriver)(nil)

// Open opens one connection with the same options.
func (d *poolDriver) Open(dsn string) (driver.Conn, error) { return d.of.Open(dsn) }

// OpenConnector opens another handle with the same options.
func (d *poolDriver) OpenConnector(dsn string) (driver.Connector, error) {
	return d.of.OpenConnector(dsn)
}

// connectorOf gives the connector behind a handle, nil for a handle of somebody else's.
func connectorOf(db *sql.DB) *handle.Connector {
	if db == nil {
		return nil
	}
	if d, ok := db.Driver().(*poolDriver); ok {
		return d.handle
	}
	return nil
}

func poolOf(c *handle.Connector) *Pool { return c.Driver().(*poolDriver).pool }
