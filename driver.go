package lifeguard

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"reflect"
	"strings"
	"sync"

	"github.com/lib/pq"
	"github.com/ngrok/sqlmw"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"

	"github.com/go-lifeguard/lifeguard/internal/dsn"
	"github.com/go-lifeguard/lifeguard/internal/handle"
	"github.com/go-lifeguard/lifeguard/internal/libpq"
)

func init() {
	Register("lifeguard", pqDriver{})
}

// pqDriver is lib/pq with a connector, which the driver that it registers itself does not offer: without one,
// connecting could not be cancelled.
type pqDriver struct{ pq.Driver }

// An Option changes what [Register], [Open] and [OpenDB] set up.
type Option func(*options)

type options struct {
	config *Config
	log    *slog.Logger

	interceptors   []sqlmw.Interceptor
	tracerProvider trace.TracerProvider
	meterProvider  metric.MeterProvider
	attributes     []attribute.KeyValue
	skip           []string
	leakHandler    func(Leak)
}

func newOptions(opts []Option) *options {
	o := &options{}
	for _, opt := range opts {
		opt(o)
	}
	return o
}

func (o *options) base() Config {
	if o.config != nil {
		return *o.config
	}
	return DefaultConfig()
}

func (o *options) logger() *slog.Logger {
	log := o.log
	if log == nil {
		log = slog.Default()
	}
	return slog.New(containedHandler{log.Handler()})
}

// containedHandler contains the panics of a log handler: most lines are written on goroutines of the pool, where a panic
// would end the process.
type containedHandler struct{ slog.Handler }

func (h containedHandler) Handle(ctx context.Context, r slog.Record) error {
	defer func() { _ = recover() }() // there is no log to tell
	return h.Handler.Handle(ctx, r)
}

func (h containedHandler) Enabled(ctx context.Context, level slog.Level) (enabled bool) {
	defer func() { _ = recover() }()
	return h.Handler.Enabled(ctx, level)
}

func (h containedHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return containedHandler{h.Handler.WithAttrs(attrs)}
}

func (h containedHandler) WithGroup(name string) slog.Handler {
	return containedHandler{h.Handler.WithGroup(name)}
}

// WithConfig replaces the defaults. The settings are used exactly as they stand, 0 meaning none; start from
// [DefaultConfig] to change a few. Parameters in the DSN win over them.
func WithConfig(c Config) Option { return func(o *options) { o.config = &c } }

// WithLogger sets where the pool reports leaks and its own trouble, dials that fail and connecting that works again, and
// where query_log goes.
// The default is [slog.Default] at the time the handle is opened.
func WithLogger(l *slog.Logger) Option { return func(o *options) { o.log = l } }

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

// Open opens a handle on the driver registered as driverName, any driver, wrapped. Unlike [database/sql.Open] with a
// driver wrapped by [Register] it can also let the handle keep connection_limit idle leases (database/sql keeps two by
// default), which spares a busy service the handing back and forth.
//
// Settings are the defaults, then [WithConfig], then the DSN, the later winning. An error names the parameter that is
// wrong and never shows the DSN. No connection is opened, except for min_connections in the background.
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
	_, driverDSN, err := ParseDSN(text, o.base())
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
	switch parent.(type) {
	case pq.Driver, *pq.Driver:
		parent = pqDriver{}
	}
	return &wrappedDriver{name: name, parent: parent, options: o}, nil
}

// OpenDB opens a handle on a connector, for drivers that are configured in code. c's Close, if it has one, is called
// when the handle is closed. Settings are the defaults, then [WithConfig].
func OpenDB(c driver.Connector, opts ...Option) (*sql.DB, error) {
	if c == nil {
		return nil, errors.New("lifeguard: OpenDB needs a connector, got nil")
	}
	o := newOptions(opts)
	cfg := o.base()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	if cfg.PoolName == "" {
		cfg.PoolName = fmt.Sprintf("%T", c.Driver())
	}
	t := dsn.Target{System: dsn.System(driverPackage(c.Driver()), "")}
	p := newPool(c, cfg.PoolName, t, "", cfg, o)
	return p.join(c.Driver()).Handle(), nil
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
// Anything that is not a connection of lifeguard's is returned as it is. A connection that was unwrapped is never taken
// back by leak_reclaim_after until it was returned; of one that was taken back before, [ErrReclaimed] is all there is.
func Unwrap(driverConn any) any {
	if c, ok := driverConn.(interface{ Unwrapped() any }); ok {
		return c.Unwrapped()
	}
	return driverConn
}

// PoolOf gives the pool behind a handle; false if the handle was not opened through lifeguard.
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
}

var _ driver.DriverContext = (*wrappedDriver)(nil)

// Open is not called by database/sql, which prefers OpenConnector. A pool for one connection would serve nobody.
func (d *wrappedDriver) Open(string) (driver.Conn, error) {
	return nil, errors.New("lifeguard: use sql.Open, or the driver's OpenConnector")
}

// OpenConnector is called by sql.Open.
func (d *wrappedDriver) OpenConnector(dsn string) (driver.Connector, error) { return d.open(dsn) }

func (d *wrappedDriver) open(dsn string) (*handle.Connector, error) {
	base := d.options.base()
	cfg, driverDSN, err := ParseDSN(dsn, base)
	if err != nil {
		return nil, err
	}
	if cfg.PoolName != "" {
		return shared.open(d, cfg, dsn, driverDSN)
	}
	p, err := d.newPool(cfg, driverDSN)
	if err != nil {
		return nil, err
	}
	return p.join(d.parent), nil
}

func (d *wrappedDriver) newPool(cfg Config, driverDSN string) (*Pool, error) {
	parent, err := d.connector(driverDSN, cfg)
	if err != nil {
		return nil, err
	}
	t := dsn.Find(d.systemName(), driverDSN)
	name := cfg.PoolName
	if name == "" {
		name = t.PoolName()
	}
	return newPool(parent, name, t, driverDSN, cfg, d.options), nil
}

// systemName is the driver name from which the kind of database is known; "lifeguard" itself is lib/pq.
func (d *wrappedDriver) systemName() string {
	if _, ok := d.parent.(pqDriver); ok {
		return "postgres"
	}
	return d.name
}

func (d *wrappedDriver) connector(driverDSN string, cfg Config) (c driver.Connector, err error) {
	switch parent := d.parent.(type) {
	case pqDriver:
		c, err = libpq.NewConnector(driverDSN, libpq.SocketOptions{SocketTimeout: cfg.SocketTimeout, CountSent: cfg.AtMostOnce}, cfg.PgBouncer)
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

// join makes the connector of another handle of the pool.
func (p *Pool) join(parent driver.Driver) *handle.Connector {
	d := &poolDriver{Driver: parent, pool: p}
	d.handle = p.pool.Join(d)
	return d.handle
}

// shared are the pools that were opened under an explicit pool_name.
var shared = sharedPools{pools: map[string]*Pool{}}

type sharedPools struct {
	mu    sync.Mutex       // before Pool.mu
	pools map[string]*Pool // guarded by mu
}

// sharedKey is what must be the same in two opens for them to share a pool. The DSN is kept as a hash, so that no
// password stays in memory for longer than the driver itself keeps it.
type sharedKey struct {
	dsn    [sha256.Size]byte
	parent driver.Driver
	config Config
}

func (k *sharedKey) differs(other *sharedKey) string {
	switch {
	case k.dsn != other.dsn:
		return "a different DSN"
	case !sameDriver(k.parent, other.parent):
		return "a different driver"
	case k.config != other.config:
		return "a different configuration"
	}
	return ""
}

// sameDriver compares drivers that may be of a type that cannot be compared.
func sameDriver(a, b driver.Driver) bool {
	ta := reflect.TypeOf(a)
	return ta == reflect.TypeOf(b) && (!ta.Comparable() || a == b)
}

// open joins the pool of that name, or makes it.
func (sp *sharedPools) open(d *wrappedDriver, cfg Config, dsn, driverDSN string) (*handle.Connector, error) {
	key := &sharedKey{dsn: sha256.Sum256([]byte(dsn)), parent: d.parent, config: cfg}
	sp.mu.Lock()
	defer sp.mu.Unlock()
	maps.DeleteFunc(sp.pools, func(_ string, p *Pool) bool { return p.pool.Closed() })
	if p := sp.pools[cfg.PoolName]; p != nil {
		if diff := key.differs(p.sharedAs); diff != "" {
			return nil, fmt.Errorf("lifeguard: pool_name=%s is in use in this process with %s; "+
				"opens that share a pool must be the same in all, so give this one another pool_name", cfg.PoolName, diff)
		}
		if c := p.join(d.parent); c != nil {
			return c, nil
		} // it has closed in this moment
	}
	p, err := d.newPool(cfg, driverDSN)
	if err != nil {
		return nil, err
	}
	p.sharedAs = key
	sp.pools[cfg.PoolName] = p
	return p.join(d.parent), nil
}
