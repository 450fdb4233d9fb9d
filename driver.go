package lifeguard

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lib/pq"
	"github.com/ngrok/sqlmw"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"

	"github.com/go-lifeguard/lifeguard/internal/dsn"
)

func init() {
	Register("lifeguard", pqDriver{})
}

// pqDriver is lib/pq with a connector, which the driver that it registers itself does not offer: without one,
// connecting could not be cancelled.
type pqDriver struct{ pq.Driver }

// connector makes lib/pq's connector for a pool.
func (pqDriver) connector(dsn string, cfg Config) (driver.Connector, error) {
	c, err := pq.NewConfig(dsn)
	if err != nil {
		return nil, err
	}
	if cfg.PgBouncer && !strings.Contains(dsn, "binary_parameters") {
		// A query with arguments takes lib/pq two round trips, between which a pooler in transaction mode may change
		// the server connection. With binary_parameters it takes one.
		c.BinaryParameters = true
	}
	connector, err := pq.NewConnectorConfig(c)
	if err != nil {
		return nil, err
	}
	connector.Dialer(newSocketDialer(cfg))
	return connector, nil
}

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
	if o.log != nil {
		return o.log
	}
	return slog.Default()
}

func (o *options) tracers() trace.TracerProvider {
	if o.tracerProvider != nil {
		return o.tracerProvider
	}
	return otel.GetTracerProvider()
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
	h, err := w.open(dsn)
	if err != nil {
		return nil, err
	}
	return h.handle(), nil
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
	return newConnector(p, c.Driver()).handle(), nil
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
	if c, ok := driverConn.(interface{ unwrap() any }); ok {
		return c.unwrap()
	}
	return driverConn
}

// PoolOf gives the pool behind a handle; false if the handle was not opened through lifeguard.
func PoolOf(db *sql.DB) (*Pool, bool) {
	h := handleOf(db)
	if h == nil {
		return nil, false
	}
	return h.pool, true
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

func (d *wrappedDriver) open(dsn string) (*connector, error) {
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
	return newConnector(p, d.parent), nil
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
		c, err = parent.connector(driverDSN, cfg)
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

// connector stands between one handle and its pool.
type connector struct {
	pool   *Pool
	driver *poolDriver

	// Pool clock; when the last two attempts of database/sql to check out an idle lease came to nothing.
	wasted, wastedBefore atomic.Int64

	// Guarded by pool.mu.
	closed     bool          // the pool was left
	out        int           // callers who are acquiring, and leases
	drained    chan struct{} // set when a shutdown begins; closed when out is 0
	unfinished []unfinished  // brief waits whose callers are about to come again
	late       error         // of the shutdown that had to end before that

	forcing sync.Mutex  // before pool.mu
	shut    atomic.Bool // no lease may be given any more; set before the leases there are are looked at

	mu sync.Mutex
	db *sql.DB // guarded by mu; nil for handles that sql.Open made, which never shows them
}

var (
	_ driver.Connector = (*connector)(nil)
	_ io.Closer        = (*connector)(nil)
)

func newConnector(p *Pool, parent driver.Driver) *connector {
	h := &connector{pool: p}
	h.driver = &poolDriver{Driver: parent, handle: h}
	p.join(h)
	return h
}

// handle makes the *sql.DB of a connector that lifeguard opens itself.
func (h *connector) handle() *sql.DB {
	db := sql.OpenDB(h)
	h.mu.Lock()
	h.db = db
	h.mu.Unlock()
	h.keepIdle(h.pool.Config().ConnectionLimit)
	return db
}

// keepIdle lets the handle keep n idle leases, if it is one that can be told.
func (h *connector) keepIdle(n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.db != nil {
		h.db.SetMaxIdleConns(n)
	}
}

// Connect gives the handle a lease.
func (h *connector) Connect(ctx context.Context) (driver.Conn, error) {
	c := checkout{start: h.pool.now()}
	s, err := h.pool.acquire(ctx, h, &c)
	if err != nil {
		h.pool.connectEnded(ctx, c.start, h.pool.now(), err)
		var crash *driverPanic
		if errors.As(err, &crash) {
			// The driver panicked while it dialled for this caller: as on the plain driver, it is the caller who sees it.
			panic(crash.value)
		}
		return nil, err
	}
	l, conn := newLease(h, s)
	l.attach(s, ctx, &c)
	if h.shut.Load() {
		// The handle was closed, or a shutdown ended, too late to stop acquire and too soon to see the lease.
		_ = l.Close()
		return nil, ErrPoolClosed
	}
	h.pool.connectEnded(ctx, c.start, l.hold.since, nil)
	return conn, nil
}

// waste notes that a lease which the handle kept turned out to be of no use. database/sql makes three attempts, of which
// the third is a Connect whose connection has to work.
func (h *connector) waste() {
	h.wastedBefore.Store(h.wasted.Swap(h.pool.now()))
}

// lastAttempt says whether a Connect may be the third attempt. Two husks in a row are found within microseconds.
func (h *connector) lastAttempt(now int64) bool {
	before := h.wastedBefore.Load()
	return before != 0 && now-before < int64(100*time.Millisecond)
}

// Driver leads back to this connector: see handleOf.
func (h *connector) Driver() driver.Driver { return h.driver }

// Close is called by sql.DB.Close.
func (h *connector) Close() error { return h.pool.leave(h) }

// poolDriver is what sql.DB.Driver gives: the wrapped driver, and the way back to the connector.
type poolDriver struct {
	driver.Driver
	handle *connector
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

// forgetLocked takes the pool, which is closing, out of the shared ones: the next open under its name makes a new one.
func (sp *sharedPools) forgetLocked(p *Pool) {
	if sp.pools[p.name] == p {
		delete(sp.pools, p.name)
	}
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
func (sp *sharedPools) open(d *wrappedDriver, cfg Config, dsn, driverDSN string) (*connector, error) {
	key := &sharedKey{dsn: sha256.Sum256([]byte(dsn)), parent: d.parent, config: cfg}
	sp.mu.Lock()
	defer sp.mu.Unlock()
	if p := sp.pools[cfg.PoolName]; p != nil {
		if diff := key.differs(p.sharedAs); diff != "" {
			return nil, fmt.Errorf("lifeguard: pool_name=%s is in use in this process with %s; "+
				"opens that share a pool must be the same in all, so give this one another pool_name", cfg.PoolName, diff)
		}
		return newConnector(p, d.parent), nil
	}
	p, err := d.newPool(cfg, driverDSN)
	if err != nil {
		return nil, err
	}
	p.sharedAs = key
	sp.pools[cfg.PoolName] = p
	return newConnector(p, d.parent), nil
}
