package lifeguard

import (
	"fmt"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/go-lifeguard/lifeguard/internal/dsn"
)

// parameter describes one of lifeguard's own parameters. Parsing, validation, the search for misspelt names and the
// check of docs/parameters.md all work from the same table.
type parameter struct {
	name     string
	fallback string // the default as a DSN would say it, or where it comes from
	accepts  string // the range, for errors and documentation
	example  string // a value
	since    string // version from which it has its effect; "" while it has none

	field  func(*Config) any // a pointer to the field; its type decides how text is read
	lo, hi int               // bounds, for whole numbers
	absent bool              // 0 in a Config stands for a parameter that is not given
	words  []string          // the words there are, for modes
	auto   func() int        // the number that "auto" stands for, if it may be written
}

const anyPeriod = "0 to 876000h, in seconds or as a Go duration"

var parameters = []parameter{
	{name: "connection_limit", fallback: "10", accepts: "1 to 65535, or auto", example: "25", since: "0.1",
		field: func(c *Config) any { return &c.ConnectionLimit }, lo: 1, hi: maxConnections,
		auto: func() int { return RecommendedLimit(runtime.GOMAXPROCS(0), 1) }},
	{name: "pool_timeout", fallback: "20", accepts: anyPeriod, example: "5s", since: "0.1",
		field: func(c *Config) any { return &c.PoolTimeout }},
	{name: "max_idle_connections", fallback: "connection_limit", accepts: "0 to connection_limit", example: "5", since: "0.1",
		field: func(c *Config) any { return &c.MaxIdleConnections }, hi: maxConnections},
	{name: "max_connection_lifetime", fallback: "30m", accepts: anyPeriod, example: "1h", since: "0.1",
		field: func(c *Config) any { return &c.MaxConnectionLifetime }},
	{name: "max_idle_connection_lifetime", fallback: "300", accepts: anyPeriod, example: "90s", since: "0.1",
		field: func(c *Config) any { return &c.MaxIdleConnectionLifetime }},
	{name: "min_connections", fallback: "0", accepts: "0 to max_idle_connections", example: "2", since: "0.1",
		field: func(c *Config) any { return &c.MinConnections }, hi: maxConnections},
	{name: "socket_timeout", fallback: "0", accepts: anyPeriod, example: "30", since: "0.1",
		field: func(c *Config) any { return &c.SocketTimeout }},
	{name: "statement_cache_size", fallback: "100", accepts: "0 to 65535", example: "500", since: "0.1",
		field: func(c *Config) any { return &c.StatementCacheSize }, hi: maxStatements},
	{name: "pgbouncer", fallback: "false", accepts: "true or false", example: "true", since: "0.1",
		field: func(c *Config) any { return &c.PgBouncer }},
	{name: "slow_query_threshold", fallback: "200ms", accepts: anyPeriod, example: "1.5", since: "0.1",
		field: func(c *Config) any { return &c.SlowQueryThreshold }},
	{name: "trace", fallback: "slow", accepts: "slow, all or off", example: "all", since: "0.1",
		field: func(c *Config) any { return (*string)(&c.Trace) },
		words: []string{string(TraceSlow), string(TraceAll), string(TraceOff)}},
	{name: "query_log", fallback: "off", accepts: "off, slow or all", example: "slow", since: "0.1",
		field: func(c *Config) any { return (*string)(&c.QueryLog) },
		words: []string{string(QueryLogOff), string(QueryLogSlow), string(QueryLogAll)}},
	{name: "leak_threshold", fallback: "60", accepts: anyPeriod, example: "2m", since: "0.1",
		field: func(c *Config) any { return &c.LeakThreshold }},
	{name: "leak_reclaim_after", fallback: "0", accepts: "0, or leak_threshold to 876000h, in seconds or as a Go duration", example: "10m",
		since: "0.1", field: func(c *Config) any { return &c.LeakReclaimAfter }},
	{name: "max_waiting", fallback: "0", accepts: "0 to 1000000, 0 for any number", example: "200", since: "0.2",
		field: func(c *Config) any { return &c.MaxWaiting }, hi: maxWaiting},
	{name: "keepalive_interval", fallback: "0", accepts: anyPeriod, example: "60", since: "0.2",
		field: func(c *Config) any { return &c.KeepaliveInterval }},
	{name: "at_most_once", fallback: "false", accepts: "true or false", example: "true", since: "0.2",
		field: func(c *Config) any { return &c.AtMostOnce }},
	{name: "fleet_limit", fallback: "none", accepts: "1 to 65535", example: "40", since: "0.3",
		field: func(c *Config) any { return &c.FleetLimit }, lo: 1, hi: maxConnections, absent: true},
	{name: "fleet_name", fallback: "the database's", accepts: "1 to 255 bytes of printable characters", example: "shop", since: "0.3",
		field: func(c *Config) any { return &c.FleetName }},
	{name: "pool_name", fallback: "host:port/database", accepts: "1 to 255 bytes of printable characters", example: "shop",
		since: "0.1", field: func(c *Config) any { return &c.PoolName }},
}

// parameterNamed returns the parameter of exactly that name, or nil.
func parameterNamed(name string) *parameter {
	for i := range parameters {
		if parameters[i].name == name {
			return &parameters[i]
		}
	}
	return nil
}

func parameterNames() []string {
	names := make([]string, len(parameters))
	for i := range parameters {
		names[i] = parameters[i].name
	}
	return names
}

// parse reads text into the parameter's field of c. An error shows text unless secret is set.
func (p *parameter) parse(c *Config, text string, secret bool) error {
	field, problem := p.field(c), ""
	switch f := field.(type) {
	case *int:
		if p.auto != nil && text == "auto" {
			*f = p.auto()
			return nil
		}
		*f, problem = dsn.Count(text)
	case *time.Duration:
		*f, problem = dsn.Period(text)
	case *bool:
		// Each has one spelling, so that a DSN reads the same everywhere: 1, yes and on are refused.
		*f = text == "true"
		if text != "true" && text != "false" {
			problem = "is neither"
		}
	case *string:
		*f = text
	}
	if problem == "" {
		problem = p.problem(field)
	}
	switch {
	case text == "":
		return p.refuse("it", "has no value")
	case problem == "":
		return nil
	case secret:
		return p.refuse("its value", problem)
	}
	return p.refuse(dsn.Shown(text), problem)
}

// check reports a field of c that is out of its range. Empty modes and an empty pool name are in range: they have a
// meaning in a Config, though not in a DSN.
func (p *parameter) check(c *Config) error {
	field := p.field(c)
	if text, ok := field.(*string); ok && *text == "" {
		return nil
	}
	if n, ok := field.(*int); ok && *n == 0 && p.absent {
		return nil
	}
	if problem := p.problem(field); problem != "" {
		return p.refuse(dsn.Shown(fmt.Sprint(reflect.ValueOf(field).Elem())), problem)
	}
	return nil
}

// problem says what is wrong with the value that field points to, or "".
func (p *parameter) problem(field any) string {
	switch f := field.(type) {
	case *int:
		if *f < p.lo || *f > p.hi {
			return "is out of range"
		}
	case *time.Duration:
		if *f < 0 {
			return "is negative"
		}
		if *f > dsn.MaxPeriod {
			return "is too long"
		}
	case *string:
		switch {
		case p.words != nil && !slices.Contains(p.words, *f):
			return "is none of them"
		case len(*f) > dsn.MaxName:
			return "is too long"
		case !utf8.ValidString(*f), strings.ContainsFunc(*f, func(r rune) bool { return !unicode.IsPrint(r) }):
			return "has a character that cannot be printed"
		case strings.TrimSpace(*f) != *f:
			return "starts or ends with a space"
		}
	}
	return ""
}

func (p *parameter) refuse(value, problem string) error {
	return fmt.Errorf("lifeguard: %s: %s %s; write %s, for example %s=%s",
		p.name, value, problem, p.accepts, p.name, p.example)
}
