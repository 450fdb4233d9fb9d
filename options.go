package lifeguard

import (
	"context"
	"database/sql"
	"errors"
	"log/slog"
	"slices"
	"time"

	"github.com/ngrok/sqlmw"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"
)

// An Option changes what [Register], [Open] and [OpenDB] set up.
type Option func(*options)

type options struct {
	configure []func(*Config) error // in the order in which they were given
	log       *slog.Logger

	beforeConnect func(ctx context.Context, dsn string) (string, error)
	afterConnect  func(ctx context.Context, conn *sql.Conn) error

	interceptors   []sqlmw.Interceptor
	tracerProvider trace.TracerProvider
	meterProvider  metric.MeterProvider
	attributes     []attribute.KeyValue
	skip           []string
	leakHandler    func(Leak)
}

// ignored names the options that a pool which is open already does not take from another open.
func (o *options) ignored() []string {
	var names []string
	for name, given := range map[string]bool{
		"WithLogger": o.log != nil, "WithInterceptors": len(o.interceptors) > 0, "WithTracerProvider": o.tracerProvider != nil,
		"WithMeterProvider": o.meterProvider != nil, "WithAttributes": len(o.attributes) > 0, "WithSkippedCallers": len(o.skip) > 0,
		"WithLeakHandler": o.leakHandler != nil, "WithBeforeConnect": o.beforeConnect != nil, "WithAfterConnect": o.afterConnect != nil,
	} {
		if given {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

func newOptions(opts []Option) *options {
	o := &options{}
	for _, opt := range opts {
		opt(o)
	}
	return o
}

// base is the configuration in code, which the DSN changes. On SQLite connections have no lifetime: what PRAGMA set, and a
// database in memory, live as long as their connection, and would be lost in a program that worked on the plain driver.
func (o *options) base(system string) (Config, error) {
	cfg := DefaultConfig()
	if system == "sqlite" {
		cfg.MaxConnectionLifetime, cfg.MaxIdleConnectionLifetime = 0, 0
	}
	for _, configure := range o.configure {
		if err := configure(&cfg); err != nil {
			return Config{}, err
		}
	}
	return cfg.fitted(), nil
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

// WithConfig replaces the defaults, and all settings of options before it. Start from [DefaultConfig] and change single
// fields: 0 means none. Parameters in the DSN win. A Config that was not filled in is an error at the open.
func WithConfig(c Config) Option {
	return set(func(to *Config) error {
		if c.unfilled() {
			return errors.New("lifeguard: WithConfig got a Config that was not filled in: start from DefaultConfig() and change single fields")
		}
		*to = c
		return nil
	})
}

func set(f func(*Config) error) Option {
	return func(o *options) { o.configure = append(o.configure[:len(o.configure):len(o.configure)], f) }
}

func setting(f func(*Config)) Option {
	return set(func(c *Config) error { f(c); return nil })
}

// WithConnectionLimit sets connection_limit, from 1 to 65535. See [Config].
func WithConnectionLimit(n int) Option {
	return setting(func(c *Config) {
		if c.MaxIdleConnections == c.ConnectionLimit {
			c.MaxIdleConnections = n
		}
		c.ConnectionLimit = n
	})
}

// WithFleetLimit sets fleet_limit, from 1 to 65535; 0 is no fleet. See [Config].
func WithFleetLimit(n int) Option { return setting(func(c *Config) { c.FleetLimit = n }) }

// WithPoolTimeout sets pool_timeout; 0 waits as long as the context allows. See [Config].
func WithPoolTimeout(d time.Duration) Option { return setting(func(c *Config) { c.PoolTimeout = d }) }

// WithMinConnections sets min_connections, from 0 to max_idle_connections. See [Config].
func WithMinConnections(n int) Option { return setting(func(c *Config) { c.MinConnections = n }) }

// WithMaxConnectionLifetime sets max_connection_lifetime; 0 is never. See [Config].
func WithMaxConnectionLifetime(d time.Duration) Option {
	return setting(func(c *Config) { c.MaxConnectionLifetime = d })
}

// WithMaxIdleConnectionLifetime sets max_idle_connection_lifetime; 0 is never. See [Config].
func WithMaxIdleConnectionLifetime(d time.Duration) Option {
	return setting(func(c *Config) { c.MaxIdleConnectionLifetime = d })
}

// WithSocketTimeout sets socket_timeout; 0 is no bound. See [Config].
func WithSocketTimeout(d time.Duration) Option {
	return setting(func(c *Config) { c.SocketTimeout = d })
}

// WithStatementCacheSize sets statement_cache_size, from 0 to 65535; 0 is no cache. See [Config].
func WithStatementCacheSize(n int) Option {
	return setting(func(c *Config) { c.StatementCacheSize = n })
}

// WithSlowQueryThreshold sets slow_query_threshold; 0 is none. See [Config].
func WithSlowQueryThreshold(d time.Duration) Option {
	return setting(func(c *Config) { c.SlowQueryThreshold = d })
}

// WithTrace sets trace. See [Config].
func WithTrace(mode TraceMode) Option { return setting(func(c *Config) { c.Trace = mode }) }

// WithQueryLog sets query_log. See [Config].
func WithQueryLog(mode QueryLogMode) Option { return setting(func(c *Config) { c.QueryLog = mode }) }

// WithLeakThreshold sets leak_threshold; 0 turns detection off. See [Config].
func WithLeakThreshold(d time.Duration) Option {
	return setting(func(c *Config) { c.LeakThreshold = d })
}

// WithMaxWaiting sets max_waiting, up to 1000000; 0 is any number. See [Config].
func WithMaxWaiting(n int) Option { return setting(func(c *Config) { c.MaxWaiting = n }) }

// WithPoolName sets pool_name, 1 to 255 bytes of printable characters. See [Config].
func WithPoolName(name string) Option { return setting(func(c *Config) { c.PoolName = name }) }

// WithBeforeConnect has f called before each connection is opened. f gets the wrapped driver's DSN and returns the one for
// this connection, such as with a fresh token or a rotated password. A parameter of lifeguard's in it is an error. Secrets
// in it never reach an error or a log.
//
// f is called on a goroutine of the pool, for several connections at once, and ctx has the time that the connection has.
// An error, a panic, or an f that does not return in time fails the attempt to connect. Where the server refuses the
// password, f is asked once more, and a different answer is tried. A nil f panics. With [OpenDB] the option is an error.
func WithBeforeConnect(f func(ctx context.Context, dsn string) (string, error)) Option {
	if f == nil {
		panic("lifeguard: WithBeforeConnect got a nil function")
	}
	return func(o *options) { o.beforeConnect = f }
}

// WithAfterConnect has f set up every new connection before any caller gets it. f may use conn until it returns. Rows or a
// transaction that it leaves open, an error, a panic, or an f that does not return in time fails the attempt to connect. A
// nil f panics.
func WithAfterConnect(f func(ctx context.Context, conn *sql.Conn) error) Option {
	if f == nil {
		panic("lifeguard: WithAfterConnect got a nil function")
	}
	return func(o *options) { o.afterConnect = f }
}

// WithLogger sets the logger of leaks, failed dials, the end of an outage, and query_log. The default is [slog.Default] at
// the time the handle is opened.
func WithLogger(l *slog.Logger) Option { return func(o *options) { o.log = l } }
