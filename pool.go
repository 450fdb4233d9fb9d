package lifeguard

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"log/slog"
	"sync"
	"time"

	"github.com/go-lifeguard/lifeguard/internal/assembly"
	"github.com/go-lifeguard/lifeguard/internal/dsn"
	"github.com/go-lifeguard/lifeguard/internal/handle"
	"github.com/go-lifeguard/lifeguard/internal/leak"
	"github.com/go-lifeguard/lifeguard/internal/libpq"
	"github.com/go-lifeguard/lifeguard/internal/pool"
)

// Pool is the pool behind one handle, or behind several that were opened with the same pool_name and DSN. [PoolOf] gives
// it. Stats, DBStats and Holders tell its state, Ready is for probes, and SetConnectionLimit and Reset change it at run
// time. All its methods are safe for concurrent use.
type Pool struct {
	name     string
	target   dsn.Target
	log      *slog.Logger
	skip     []string
	options  *options
	epoch    time.Time // the pool clock counts nanoseconds from here
	pool     *assembly.Pool
	sharedAs *sharedKey // nil if the pool is not shared under a pool_name

	mu  sync.Mutex // held by SetConnectionLimit, so that the limits are those of the last call
	cfg Config     // guarded by mu; the limits are those of today
}

// newPool makes a pool and begins to open min_connections.
func newPool(parent driver.Connector, name string, t dsn.Target, driverDSN string, cfg Config, o *options, of assembly.Fleet) *Pool {
	p := &Pool{name: name, target: t, log: o.logger(), skip: o.skip, options: o, epoch: time.Now().Add(-time.Second), cfg: cfg}
	p.cfg.PoolName = name
	warnOfDriver(p.log)
	redactor := dsn.NewRedactor(driverDSN)
	p.pool = assembly.NewPool(assembly.Config{
		Name: name, Target: t.PoolName(),
		Limit: cfg.ConnectionLimit, MaxIdle: cfg.MaxIdleConnections, MinOpen: cfg.MinConnections,
		PoolTimeout: cfg.PoolTimeout, MaxLifetime: cfg.MaxConnectionLifetime, MaxIdleTime: cfg.MaxIdleConnectionLifetime,
		SocketTimeout: cfg.SocketTimeout, StatementCacheSize: cfg.StatementCacheSize, PgBouncer: cfg.PgBouncer, AtMostOnce: cfg.AtMostOnce,
		LeakThreshold: cfg.LeakThreshold, ReclaimAfter: cfg.LeakReclaimAfter,
		MaxWaiting: cfg.MaxWaiting, Keepalive: cfg.KeepaliveInterval,
		Parent: parent, DSN: driverDSN, Interceptors: o.interceptors, AfterConnect: o.afterConnect, Log: p.log, Observe: observerConfig(name, t, cfg, o),
		Fleet: of, Now: p.now,
		Redact: redactor.Error,
		Timeout: func(e *pool.TimeoutError, holds []leak.Hold) error {
			late := &timeoutError{pool: p, why: e, holds: holds, at: p.now()}
			if e.Short {
				late.fleet = p.pool.Fleet()
			}
			return late
		},
		Leaked: func(r leak.Report) { p.tellLeak(r, o.leakHandler) },
	})
	return p
}

// join makes the connector of another handle of the pool.
func (p *Pool) join(of *wrappedDriver, parent driver.Driver) *handle.Connector {
	d := &poolDriver{Driver: parent, pool: p, of: of}
	d.handle = p.pool.Join(d)
	return d.handle
}

// now is the pool clock. It starts at a second, so that no reading is 0, which stands for "never".
func (p *Pool) now() int64 { return int64(time.Since(p.epoch)) }

func (p *Pool) timeOf(clock int64) time.Time { return p.epoch.Add(time.Duration(clock)) }

// Config returns the settings of the pool. ConnectionLimit is the present one. PoolName is the name in use, also where it
// was derived from the DSN.
func (p *Pool) Config() Config {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cfg
}

// SetConnectionLimit changes connection_limit at run time. It is an error if n is not between 1 and 65535, or is less than
// min_connections. MaxIdleConnections follows if it was equal to the limit, and is cut to n otherwise. When n is smaller
// than before, idle connections above it close at once, and those in use as they come back. Nothing under way is cut, and
// no waiter is dropped.
func (p *Pool) SetConnectionLimit(n int) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	cfg := p.cfg
	if cfg.MaxIdleConnections == cfg.ConnectionLimit {
		cfg.MaxIdleConnections = n
	}
	cfg.MaxIdleConnections = min(cfg.MaxIdleConnections, n)
	cfg.ConnectionLimit = n
	if err := cfg.validate(); err != nil {
		return err
	}
	p.cfg = cfg
	p.pool.SetLimit(n, cfg.MaxIdleConnections)
	return nil
}

// Reset closes every connection that was opened before now: idle ones at once, those in use when they come back. Use it
// after a change on the server that open connections do not see, such as ALTER ROLE … SET.
func (p *Pool) Reset() { p.pool.Reset() }

// Ready returns nil when min_connections, at least one, are open, and those that are idle have answered a ping. Use it in
// a readiness probe. It waits until ctx ends, and for each connection no longer than pool_timeout. An error says how many
// were missing, and why. It matches ctx's error if ctx ended first.
func (p *Pool) Ready(ctx context.Context) error { return p.pool.Ready(ctx) }

// Stats reads the pool's counters, which never count down. It is cheap: a scrape every second does no harm.
func (p *Pool) Stats() Stats {
	st := p.pool.Stats()
	return Stats{
		Limit: st.Limit, Open: st.Open, InUse: st.InUse, Idle: st.Idle, Waiting: st.Waiting,
		Acquired: st.Acquired, Waits: st.Waits, Timeouts: st.Timeouts, Canceled: st.Canceled,
		Opened: st.Opened, Closed: st.Closed, DialErrors: st.DialErrors,
		Leaks: st.Leaks, LostRows: st.LostRows, Reclaimed: st.Reclaimed, SlowQueries: st.SlowQueries,
		StatementHits: st.Hits, StatementMisses: st.Misses, StatementRetries: st.Retries, WaitDuration: st.WaitTime,
		FleetLimit: st.Fleet.Limit, FleetProcesses: len(st.Fleet.Peers), FleetHeld: st.Fleet.Held, FleetWanted: st.Fleet.Wanted,
	}
}

// DBStats is the pool as [database/sql.DB.Stats] would show it, for collectors made for that. The handle's own Stats
// show leases, and no limit.
func (p *Pool) DBStats() sql.DBStats {
	st := p.pool.Stats()
	return sql.DBStats{
		MaxOpenConnections: st.Limit, OpenConnections: st.Open, InUse: st.InUse, Idle: st.Idle,
		WaitCount: int64(st.Waits), WaitDuration: st.WaitTime,
		MaxIdleClosed: int64(st.SurplusClosed), MaxIdleTimeClosed: int64(st.IdleClosed), MaxLifetimeClosed: int64(st.ExpiredClosed),
	}
}

var driverChecked sync.Once

// warnOfDriver says once in a process what of lib/pq is not where it is looked for, and which features are off for it.
func warnOfDriver(log *slog.Logger) {
	driverChecked.Do(func() {
		if err := libpq.Check(); err != nil {
			log.Warn("lifeguard: this version of lib/pq is not known, and some features are off", slog.Any("error", err))
		}
	})
}
