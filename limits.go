package lifeguard

import (
	"fmt"
	"time"

	"github.com/go-lifeguard/lifeguard/internal/dsn"
	"github.com/go-lifeguard/lifeguard/internal/fleet"
)

// Config holds the settings of one pool. Each field is one parameter of the DSN, named in its comment.
//
// A Config is used as it stands: zero means none, not "the default", except where a field says otherwise. Start from
// [DefaultConfig] and change single fields. The zero Config is not valid, because a pool needs a ConnectionLimit. Durations
// lie between 0 and 876000 hours. A value out of its range is an error of [Open], [OpenDB] and [ParseDSN].
type Config struct {
	// ConnectionLimit is the most connections open at once, from 1 to 65535. Default: 10. DSN: connection_limit, where
	// auto stands for RecommendedLimit(runtime.GOMAXPROCS(0), 1).
	ConnectionLimit int

	// PoolTimeout is the longest wait for a connection, dialling included. 0 waits as long as the context allows.
	// Default: 20 s. DSN: pool_timeout.
	PoolTimeout time.Duration

	// MaxIdleConnections is how many idle connections are kept, from 0 to ConnectionLimit. Default: ConnectionLimit,
	// which it follows when a DSN changes only that. DSN: max_idle_connections.
	MaxIdleConnections int

	// MaxConnectionLifetime is the age at which a connection is replaced, less a random part of up to a tenth that is
	// drawn when it opens. 0 means never. Default: 30 min, 0 on SQLite. DSN: max_connection_lifetime.
	MaxConnectionLifetime time.Duration

	// MaxIdleConnectionLifetime is the idle time after which a connection is closed. 0 means never. Default: 5 min,
	// 0 on SQLite. DSN: max_idle_connection_lifetime.
	MaxIdleConnectionLifetime time.Duration

	// MinConnections is how many connections are opened at the start, in the background, and kept, from 0 to
	// MaxIdleConnections. Default: 0. DSN: min_connections.
	MinConnections int

	// SocketTimeout bounds a single operation whose context has no sooner deadline. 0 means no bound. Default: 0.
	// DSN: socket_timeout.
	SocketTimeout time.Duration

	// StatementCacheSize is how many prepared statements are kept on each connection, from 0 to 65535. 0 means no
	// cache: the driver prepares what the program prepares. Default: 100. DSN: statement_cache_size.
	StatementCacheSize int

	// PgBouncer says that a pooler in transaction mode stands before the server. Nothing that outlives a transaction
	// is used, the statement cache included. Default: false. DSN: pgbouncer.
	PgBouncer bool

	// SlowQueryThreshold is the duration from which an operation counts as slow. 0 means none does. Default: 200 ms.
	// DSN: slow_query_threshold.
	SlowQueryThreshold time.Duration

	// Trace says which operations become spans. "" means TraceOff. Default: TraceSlow. DSN: trace.
	Trace TraceMode

	// QueryLog says which operations are logged. "" means QueryLogOff. Default: QueryLogOff. DSN: query_log.
	QueryLog QueryLogMode

	// LeakThreshold is how long a connection may be held before it is reported as a leak. 0 turns detection off.
	// Default: 60 s. DSN: leak_threshold.
	LeakThreshold time.Duration

	// LeakReclaimAfter is how long a leaked connection may lie unused before it is taken back from its holder. It
	// cannot be shorter than LeakThreshold, and needs one. 0 means never. Default: 0. DSN: leak_reclaim_after.
	LeakReclaimAfter time.Duration

	// MaxWaiting is how many callers may wait for a connection at once, up to 1000000. More get [ErrTooManyWaiting] at
	// once. 0 means any number. Default: 0. DSN: max_waiting.
	MaxWaiting int

	// KeepaliveInterval is how often an idle connection is pinged. It is replaced if it does not answer. 0 means never.
	// Default: 0. DSN: keepalive_interval.
	KeepaliveInterval time.Duration

	// AtMostOnce forbids to send a statement again of which the server may have got a byte. database/sql does so after
	// driver.ErrBadConn. The caller gets [ErrOutcomeUnknown] instead. Default: false. DSN: at_most_once.
	AtMostOnce bool

	// FleetLimit is the most connections that all processes of a fleet have open together, from 1 to 65535, on PostgreSQL
	// alone. Each process has one more for the fleet itself. 0 is no fleet. Default: 0. DSN: fleet_limit.
	FleetLimit int

	// FleetName names the fleet among those of one database, in 1 to 255 bytes of printable characters. Processes with the
	// same name share one FleetLimit. "" is the name of the database. DSN: fleet_name.
	FleetName string

	// PoolName names the pool in logs, spans and metrics, in 1 to 255 bytes of printable characters. "" means
	// host:port/database, found in the DSN. Opens with the same explicit name and DSN share one pool in the process,
	// with the options of the first. Pools of OpenDB are not shared. DSN: pool_name.
	PoolName string
}

// TraceMode says which operations become spans.
type TraceMode string

// The values of [TraceMode].
const (
	TraceSlow TraceMode = "slow" // operations that were slow or failed
	TraceAll  TraceMode = "all"  // every operation
	TraceOff  TraceMode = "off"  // none
)

// QueryLogMode says which operations are logged.
type QueryLogMode string

// The values of [QueryLogMode].
const (
	QueryLogOff  QueryLogMode = "off"  // none
	QueryLogSlow QueryLogMode = "slow" // operations that were slow
	QueryLogAll  QueryLogMode = "all"  // every operation
)

const (
	// maxConnections bounds connection_limit. One client address has no more ports than this towards one server, and
	// a number beyond it is a slip.
	maxConnections = 65535

	// maxStatements bounds statement_cache_size. MySQL allows 16382 prepared statements in a whole server unless told
	// otherwise.
	maxStatements = 65535

	// maxWaiting bounds max_waiting. A number beyond it is a slip.
	maxWaiting = 1_000_000
)

// DefaultConfig returns the settings of a pool whose DSN says nothing.
func DefaultConfig() Config {
	return Config{
		ConnectionLimit:           10,
		PoolTimeout:               20 * time.Second,
		MaxIdleConnections:        10,
		MaxConnectionLifetime:     30 * time.Minute,
		MaxIdleConnectionLifetime: 5 * time.Minute,
		StatementCacheSize:        100,
		SlowQueryThreshold:        200 * time.Millisecond,
		Trace:                     TraceSlow,
		QueryLog:                  QueryLogOff,
		LeakThreshold:             time.Minute,
	}
}

// RecommendedLimit returns cores*2 + spindles, the pool size at which a database server with that many cores and
// disks is usually busiest. Count an SSD as one spindle. The cores are the server's, not this machine's, and the result is
// for all processes together. It lies between 1 and 65535, the range of connection_limit. Negative arguments count as 0.
func RecommendedLimit(cores, spindles int) int {
	// Clamping the parts first keeps the sum from overflowing.
	cores = min(max(cores, 0), maxConnections)
	spindles = min(max(spindles, 0), maxConnections)
	return min(max(cores*2+spindles, 1), maxConnections)
}

// ParseDSN takes lifeguard's own parameters out of dsn. It returns base with those parameters applied, and the DSN
// for the wrapped driver. That one is dsn without the parameters, and otherwise the same to the byte.
//
// These forms are read; any driver's DSN has one of them:
//
//	postgres://host/db?connection_limit=5             a URL
//	host=h connection_limit=5                         keywords and values, as libpq takes them
//	server=h;user id=u;connection_limit=5             settings between semicolons, as go-mssqldb takes them
//	user:password@tcp(host)/db?connection_limit=5     anything else that may end in a query part
//
// A changed connection_limit takes MaxIdleConnections with it if the two were equal in base. A smaller one lowers
// MaxIdleConnections and MinConnections to fit under it. Both hold only where dsn does not name them.
//
// It is an error if a parameter does not parse, is out of its range, is given twice, contradicts another, or is misspelt.
// So is a base that is not valid. An error shows no more of dsn than the name and value of the parameter.
func ParseDSN(dsn string, base Config) (cfg Config, driverDSN string, err error) {
	return base.parse(dsn)
}

// parse is ParseDSN, in whose body the package dsn has no name.
func (c Config) parse(text string) (cfg Config, driverDSN string, err error) {
	parts := dsn.Split(text)
	cfg = c
	own := make([]bool, len(parts.Settings))
	given := map[string]bool{}
	for i, s := range parts.Settings {
		p := parameterNamed(s.Name)
		if p == nil {
			if meant := dsn.Misspelt(s.Name, parameterNames()); meant != "" {
				return Config{}, "", fmt.Errorf("lifeguard: unknown parameter %q: write %s", s.Name, meant)
			}
			continue
		}
		switch {
		case s.Doubtful:
			return Config{}, "", fmt.Errorf("lifeguard: %s may be a part of the password: %s", p.name, parts.Remedy)
		case given[p.name]:
			return Config{}, "", fmt.Errorf("lifeguard: %s is given twice: write it once", p.name)
		case s.Malformed:
			return Config{}, "", p.refuse("its value", "has a broken percent escape")
		}
		given[p.name], own[i] = true, true
		if err := p.parse(&cfg, s.Value, parts.Ambiguous); err != nil {
			return Config{}, "", err
		}
	}

	if !given["max_idle_connections"] {
		if c.MaxIdleConnections == c.ConnectionLimit {
			cfg.MaxIdleConnections = cfg.ConnectionLimit
		}
		if given["connection_limit"] {
			cfg.MaxIdleConnections = min(cfg.MaxIdleConnections, cfg.ConnectionLimit)
		}
	}
	if !given["min_connections"] && (given["connection_limit"] || given["max_idle_connections"]) {
		cfg.MinConnections = min(cfg.MinConnections, cfg.MaxIdleConnections)
	}
	if err := cfg.validate(); err != nil {
		return Config{}, "", err
	}
	return cfg, parts.Without(own), nil
}

// unfilled says whether nobody filled the Config in: no timeout, no lifetime, nothing shown and nothing kept.
func (c Config) unfilled() bool {
	return c.PoolTimeout == 0 && c.MaxIdleConnections == 0 && c.MaxConnectionLifetime == 0 && c.MaxIdleConnectionLifetime == 0 &&
		c.StatementCacheSize == 0 && c.SlowQueryThreshold == 0 && c.Trace == "" && c.QueryLog == "" && c.LeakThreshold == 0
}

// fitted lowers what the defaults set and a smaller ConnectionLimit does not allow.
func (c Config) fitted() Config {
	if c.MaxIdleConnections == DefaultConfig().MaxIdleConnections {
		c.MaxIdleConnections = min(c.MaxIdleConnections, max(c.ConnectionLimit, 1))
	}
	return c
}

// validate reports the first setting that is out of its range or contradicts another one.
func (c Config) validate() error {
	for i := range parameters {
		if err := parameters[i].check(&c); err != nil {
			return err
		}
	}
	switch {
	case c.MaxIdleConnections > c.ConnectionLimit:
		return fmt.Errorf("lifeguard: max_idle_connections=%d is more than connection_limit=%d: "+
			"lower max_idle_connections or raise connection_limit", c.MaxIdleConnections, c.ConnectionLimit)
	case c.MinConnections > c.ConnectionLimit:
		return fmt.Errorf("lifeguard: min_connections=%d is more than connection_limit=%d: "+
			"lower min_connections or raise connection_limit", c.MinConnections, c.ConnectionLimit)
	case c.MinConnections > c.MaxIdleConnections:
		return fmt.Errorf("lifeguard: min_connections=%d is more than max_idle_connections=%d, "+
			"and a connection beyond that is closed: lower min_connections or raise max_idle_connections",
			c.MinConnections, c.MaxIdleConnections)
	case c.FleetLimit > 0 && c.MinConnections > c.FleetLimit:
		return fmt.Errorf("lifeguard: fleet_limit=%d is less than min_connections=%d, which could never be kept: "+
			"lower min_connections or raise fleet_limit", c.FleetLimit, c.MinConnections)
	case c.FleetLimit == 0 && c.FleetName != "":
		return fmt.Errorf("lifeguard: fleet_name does nothing without fleet_limit: add fleet_limit, or leave fleet_name out")
	case c.FleetLimit > 0 && c.PgBouncer:
		return fleet.ErrPooler
	case c.LeakReclaimAfter > 0 && c.LeakThreshold == 0:
		return fmt.Errorf("lifeguard: leak_reclaim_after=%v needs a leak_threshold, "+
			"because only a connection found to be leaked is taken back: "+
			"set leak_threshold to at most %v", c.LeakReclaimAfter, c.LeakReclaimAfter)
	case c.LeakReclaimAfter > 0 && c.LeakReclaimAfter < c.LeakThreshold:
		return fmt.Errorf("lifeguard: leak_reclaim_after=%v is shorter than leak_threshold=%v, "+
			"so a connection would be taken back before it is found to be leaked: "+
			"write at least %v", c.LeakReclaimAfter, c.LeakThreshold, c.LeakThreshold)
	}
	return nil
}
