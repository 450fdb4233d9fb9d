package lifeguard

import (
	"fmt"
	"os"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lib/pq"

	"github.com/go-lifeguard/lifeguard/internal/dsn"
)

func TestDefaultConfigIsValid(t *testing.T) {
	if err := DefaultConfig().validate(); err != nil {
		t.Error(err)
	}
}

// Every field has a parameter, and no two parameters write the same field.
func TestParametersCoverConfig(t *testing.T) {
	var c Config
	fields := map[uintptr]string{}
	for _, p := range parameters {
		f := reflect.ValueOf(p.field(&c)).Pointer()
		if other, taken := fields[f]; taken {
			t.Errorf("%s and %s write the same field", p.name, other)
		}
		fields[f] = p.name
	}
	v := reflect.ValueOf(&c).Elem()
	for i := range v.NumField() {
		if _, ok := fields[v.Field(i).Addr().Pointer()]; !ok {
			t.Errorf("no parameter for %s", v.Type().Field(i).Name)
		}
	}
}

// What the table calls a default is what DefaultConfig has, in every field but
// those whose default is derived, and fleet_limit, which has none.
func TestParameterDefaults(t *testing.T) {
	want := DefaultConfig()
	got := Config{MaxIdleConnections: want.ConnectionLimit}
	for _, p := range parameters {
		if p.name == "max_idle_connections" || p.name == "pool_name" || p.name == "fleet_limit" || p.name == "fleet_name" {
			continue
		}
		if err := p.parse(&got, p.fallback, false); err != nil {
			t.Error(err)
		}
	}
	if got != want {
		t.Errorf("the table's defaults give\n%+v, want\n%+v", got, want)
	}
}

func TestParameterExamples(t *testing.T) {
	for _, p := range parameters {
		base := DefaultConfig()
		if p.name == "fleet_name" {
			base.FleetLimit = 40 // without which it is refused
		}
		cfg, rest, err := ParseDSN("host=h "+p.name+"="+p.example, base)
		if err != nil {
			t.Error(err)
			continue
		}
		if rest != "host=h" {
			t.Errorf("%s: driver DSN %q", p.name, rest)
		}
		if cfg == base {
			t.Errorf("%s=%s changes nothing", p.name, p.example)
		}
	}
}

func TestRecommendedLimit(t *testing.T) {
	for _, tt := range []struct{ cores, spindles, want int }{
		{4, 1, 9},
		{1, 0, 2},
		{16, 8, 40},
		{0, 0, 1},
		{-3, -1, 1},
		{-3, 5, 5},
		{1 << 62, 1 << 62, 65535},
	} {
		if got := RecommendedLimit(tt.cores, tt.spindles); got != tt.want {
			t.Errorf("RecommendedLimit(%d, %d) = %d, want %d", tt.cores, tt.spindles, got, tt.want)
		}
	}
}

// auto follows the processors of this process, which a container may limit.
func TestAutoFollowsProcessors(t *testing.T) {
	before := runtime.GOMAXPROCS(3)
	defer runtime.GOMAXPROCS(before)
	cfg, _, err := ParseDSN("connection_limit=auto", DefaultConfig())
	if err != nil || cfg.ConnectionLimit != 7 {
		t.Errorf("connection_limit=auto on 3 processors is %d, %v; want 7", cfg.ConnectionLimit, err)
	}
}

func TestParseValues(t *testing.T) {
	for _, tt := range []struct {
		text string // name=value
		want func(*Config)
	}{
		{"connection_limit=1", func(c *Config) { c.ConnectionLimit, c.MaxIdleConnections = 1, 1 }},
		{"connection_limit=65535", func(c *Config) { c.ConnectionLimit, c.MaxIdleConnections = 65535, 65535 }},
		{"connection_limit=007", func(c *Config) { c.ConnectionLimit, c.MaxIdleConnections = 7, 7 }},
		{"connection_limit=auto", func(c *Config) {
			c.ConnectionLimit = RecommendedLimit(runtime.GOMAXPROCS(0), 1)
			c.MaxIdleConnections = c.ConnectionLimit
		}},
		{"pool_timeout=0", func(c *Config) { c.PoolTimeout = 0 }},
		{"pool_timeout=7", func(c *Config) { c.PoolTimeout = 7 * time.Second }},
		{"pool_timeout=0.25", func(c *Config) { c.PoolTimeout = 250 * time.Millisecond }},
		{"pool_timeout=0.000000001", func(c *Config) { c.PoolTimeout = 1 }},
		{"pool_timeout=1.9999999999", func(c *Config) { c.PoolTimeout = 2*time.Second - 1 }},
		{"pool_timeout=500ms", func(c *Config) { c.PoolTimeout = 500 * time.Millisecond }},
		{"pool_timeout=1h30m", func(c *Config) { c.PoolTimeout = 90 * time.Minute }},
		{"pool_timeout=.5s", func(c *Config) { c.PoolTimeout = 500 * time.Millisecond }},
		{"pool_timeout=20µs", func(c *Config) { c.PoolTimeout = 20 * time.Microsecond }},
		{"pool_timeout=876000h", func(c *Config) { c.PoolTimeout = 876000 * time.Hour }},
		{"pool_timeout=3153600000", func(c *Config) { c.PoolTimeout = 876000 * time.Hour }},
		{"max_idle_connections=0", func(c *Config) { c.MaxIdleConnections = 0 }},
		{"max_connection_lifetime=0", func(c *Config) { c.MaxConnectionLifetime = 0 }},
		{"max_idle_connection_lifetime=1m", func(c *Config) { c.MaxIdleConnectionLifetime = time.Minute }},
		{"min_connections=10", func(c *Config) { c.MinConnections = 10 }},
		{"socket_timeout=3", func(c *Config) { c.SocketTimeout = 3 * time.Second }},
		{"statement_cache_size=0", func(c *Config) { c.StatementCacheSize = 0 }},
		{"pgbouncer=true", func(c *Config) { c.PgBouncer = true }},
		{"pgbouncer=false", func(c *Config) {}},
		{"slow_query_threshold=2", func(c *Config) { c.SlowQueryThreshold = 2 * time.Second }},
		{"trace=all", func(c *Config) { c.Trace = TraceAll }},
		{"trace=off", func(c *Config) { c.Trace = TraceOff }},
		{"query_log=slow", func(c *Config) { c.QueryLog = QueryLogSlow }},
		{"query_log=all", func(c *Config) { c.QueryLog = QueryLogAll }},
		{"leak_threshold=0", func(c *Config) { c.LeakThreshold = 0 }},
		{"leak_reclaim_after=60", func(c *Config) { c.LeakReclaimAfter = time.Minute }},
		{"pool_name='köln orders/eu-1'", func(c *Config) { c.PoolName = "köln orders/eu-1" }},
	} {
		want := DefaultConfig()
		tt.want(&want)
		got, rest, err := ParseDSN(tt.text, DefaultConfig())
		if err != nil || got != want || rest != "" {
			t.Errorf("ParseDSN(%q) = %+v, %q, %v\nwant %+v", tt.text, got, rest, err, want)
		}
	}
}

// A refused value is named with its parameter and what to write instead.
func TestRefusedValues(t *testing.T) {
	periods := []string{"pool_timeout", "max_connection_lifetime", "max_idle_connection_lifetime", "socket_timeout",
		"slow_query_threshold", "leak_threshold", "leak_reclaim_after"}
	type refusal struct{ name, value, problem string }
	refusals := []refusal{
		{"connection_limit", "0", "out of range"},
		{"connection_limit", "65536", "out of range"},
		{"connection_limit", "99999999999999999999", "out of range"},
		{"connection_limit", "-1", "not a whole number"},
		{"connection_limit", "+1", "not a whole number"},
		{"connection_limit", "1.0", "not a whole number"},
		{"connection_limit", "1e3", "not a whole number"},
		{"connection_limit", "1_000", "not a whole number"},
		{"connection_limit", "ten", "not a whole number"},
		{"connection_limit", "AUTO", "not a whole number"},
		{"connection_limit", "٣", "not a whole number"},
		{"max_idle_connections", "auto", "not a whole number"},
		{"min_connections", "-2", "not a whole number"},
		{"statement_cache_size", "65536", "out of range"},
		{"pgbouncer", "1", "neither"},
		{"pgbouncer", "True", "neither"},
		{"pgbouncer", "yes", "neither"},
		{"trace", "Slow", "none of them"},
		{"trace", "on", "none of them"},
		{"query_log", "true", "none of them"},
		{"pool_name", strings.Repeat("x", 256), "too long"},
		{"pool_name", "' x'", "space"},
		{"pool_name", "a\x00b", "cannot be printed"},
		{"pool_name", "a\u202eb", "cannot be printed"},
		{"pool_name", "a\xffb", "cannot be printed"},
	}
	for _, name := range periods {
		refusals = append(refusals,
			refusal{name, "-1", "negative"},
			refusal{name, "-1s", "negative"},
			refusal{name, "-0", "negative"},
			refusal{name, "soon", "not a duration"},
			refusal{name, "5.", "not a duration"},
			refusal{name, ".5", "not a duration"},
			refusal{name, "1e999", "not a duration"},
			refusal{name, "1e3", "not a duration"},
			refusal{name, "1_000", "not a duration"},
			refusal{name, "1_000s", "not a duration"},
			refusal{name, "0x1p3", "not a duration"},
			refusal{name, "NaN", "not a duration"},
			refusal{name, "Inf", "not a duration"},
			refusal{name, "1d", "not a duration"},
			refusal{name, "+5s", "sign"},
			refusal{name, "99999999999999999999", "too long"},
			refusal{name, "9223372037", "too long"},
			refusal{name, "3153600000.1", "too long"},
			refusal{name, "876001h", "too long"},
			refusal{name, "99999999999h", "not a duration"},
			refusal{name, "0.0000000001", "shorter than a nanosecond"},
			refusal{name, "0.1ns", "shorter than a nanosecond"},
		)
	}
	for _, p := range parameters {
		refusals = append(refusals, refusal{p.name, "", "has no value"}, refusal{p.name, "''", "has no value"})
	}
	for _, r := range refusals {
		_, rest, err := ParseDSN("password=geheim "+r.name+"="+r.value, DefaultConfig())
		if err == nil || rest != "" {
			t.Errorf("%s=%s is accepted", r.name, r.value)
			continue
		}
		text := err.Error()
		p := parameterNamed(r.name)
		for _, part := range []string{"lifeguard: ", r.name, r.problem, p.accepts, p.name + "=" + p.example} {
			if !strings.Contains(text, part) {
				t.Errorf("%s=%s: error %q lacks %q", r.name, r.value, text, part)
			}
		}
		if len(r.value) > 2 && dsn.Shown(r.value) != "its value" && !strings.Contains(text, fmt.Sprintf("%q", r.value)) {
			t.Errorf("%s=%s: error %q does not name the value", r.name, r.value, text)
		}
		if strings.Contains(text, "geheim") {
			t.Errorf("%s=%s: error %q shows the password", r.name, r.value, text)
		}
	}
}

func TestRefusedCombinations(t *testing.T) {
	leaky := DefaultConfig()
	leaky.LeakReclaimAfter = 90 * time.Second
	few := DefaultConfig()
	few.MaxIdleConnections = 2
	for _, tt := range []struct {
		dsn  string
		base Config
		want string // space-separated pieces of the error
	}{
		{"max_idle_connections=11", DefaultConfig(), "max_idle_connections=11 connection_limit=10"},
		{"connection_limit=5 max_idle_connections=6", DefaultConfig(), "max_idle_connections=6 connection_limit=5"},
		{"min_connections=11", DefaultConfig(), "min_connections=11 connection_limit=10"},
		{"min_connections=6 connection_limit=5", DefaultConfig(), "min_connections=6 connection_limit=5"},
		{"min_connections=6 max_idle_connections=5", DefaultConfig(), "min_connections=6 max_idle_connections=5"},
		{"min_connections=3", few, "min_connections=3 max_idle_connections=2"},
		{"leak_reclaim_after=59", DefaultConfig(), "leak_reclaim_after=59s leak_threshold=1m0s shorter"},
		{"leak_reclaim_after=90 leak_threshold=0", DefaultConfig(), "leak_reclaim_after=1m30s needs leak_threshold"},
		{"leak_threshold=0", leaky, "leak_reclaim_after=1m30s needs leak_threshold"},
		{"leak_threshold=2m", leaky, "leak_reclaim_after=1m30s leak_threshold=2m0s shorter"},
		{"connection_limit=5 connection_limit=5", DefaultConfig(), "connection_limit twice"},
		{"", Config{}, "connection_limit \"0\" out of range"},
	} {
		_, _, err := ParseDSN(tt.dsn, tt.base)
		if err == nil {
			t.Errorf("%q is accepted", tt.dsn)
			continue
		}
		for piece := range strings.FieldsSeq(tt.want) {
			if !strings.Contains(err.Error(), piece) {
				t.Errorf("%q: error %q lacks %q", tt.dsn, err, piece)
			}
		}
	}
}

func TestLimitsFollow(t *testing.T) {
	base := func(limit, idle, minimum int) Config {
		return Config{ConnectionLimit: limit, MaxIdleConnections: idle, MinConnections: minimum}
	}
	for _, tt := range []struct {
		dsn        string
		base, want Config
	}{
		{"", base(10, 4, 2), base(10, 4, 2)},
		{"connection_limit=20", base(10, 10, 2), base(20, 20, 2)},
		{"connection_limit=20", base(10, 4, 2), base(20, 4, 2)},
		{"connection_limit=3", base(10, 10, 5), base(3, 3, 3)},
		{"connection_limit=3", base(10, 8, 5), base(3, 3, 3)},
		{"connection_limit=6", base(10, 8, 5), base(6, 6, 5)},
		{"connection_limit=3", base(10, 0, 0), base(3, 0, 0)},
		{"connection_limit=8 max_idle_connections=2", base(10, 10, 5), base(8, 2, 2)},
		{"max_idle_connections=2", base(10, 10, 5), base(10, 2, 2)},
		{"max_idle_connections=7", base(10, 10, 5), base(10, 7, 5)},
		{"connection_limit=5", base(0, 0, 0), base(5, 5, 0)},
		{"min_connections=3 connection_limit=3", base(10, 10, 0), base(3, 3, 3)},
	} {
		got, _, err := ParseDSN(tt.dsn, tt.base)
		if err != nil || got != tt.want {
			t.Errorf("ParseDSN(%q, %+v)\n= %+v, %v\nwant %+v", tt.dsn, tt.base, got, err, tt.want)
		}
	}
}

// A Config made in code has the same ranges as one from a DSN.
func TestValidate(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*Config)
	}{
		{"connection_limit", func(c *Config) { c.ConnectionLimit = 0 }},
		{"connection_limit", func(c *Config) { c.ConnectionLimit = 65536 }},
		{"pool_timeout", func(c *Config) { c.PoolTimeout = -1 }},
		{"pool_timeout", func(c *Config) { c.PoolTimeout = 1<<63 - 1 }},
		{"max_idle_connections", func(c *Config) { c.MaxIdleConnections = -1 }},
		{"max_idle_connections", func(c *Config) { c.MaxIdleConnections = 11 }},
		{"max_connection_lifetime", func(c *Config) { c.MaxConnectionLifetime = -1 }},
		{"max_idle_connection_lifetime", func(c *Config) { c.MaxIdleConnectionLifetime = -1 }},
		{"min_connections", func(c *Config) { c.MinConnections = -1 }},
		{"min_connections", func(c *Config) { c.MinConnections = 11 }},
		{"socket_timeout", func(c *Config) { c.SocketTimeout = -1 }},
		{"statement_cache_size", func(c *Config) { c.StatementCacheSize = -1 }},
		{"slow_query_threshold", func(c *Config) { c.SlowQueryThreshold = -1 }},
		{"trace", func(c *Config) { c.Trace = "some" }},
		{"query_log", func(c *Config) { c.QueryLog = "ALL" }},
		{"leak_threshold", func(c *Config) { c.LeakThreshold = -1 }},
		{"leak_reclaim_after", func(c *Config) { c.LeakReclaimAfter = -1 }},
		{"leak_reclaim_after", func(c *Config) { c.LeakReclaimAfter = time.Second }},
		{"pool_name", func(c *Config) { c.PoolName = "a\nb" }},
	} {
		c := DefaultConfig()
		tt.change(&c)
		if err := c.validate(); err == nil || !strings.Contains(err.Error(), tt.name) {
			t.Errorf("%s: %v for %+v", tt.name, err, c)
		}
	}

	unset := Config{ConnectionLimit: 1}
	if err := unset.validate(); err != nil {
		t.Errorf("everything at none: %v", err)
	}
}

// The table in docs/parameters.md has the parameters of this package in their
// order, with the same defaults, ranges, examples and versions.
func TestParameterDocumentation(t *testing.T) {
	text, err := os.ReadFile("docs/parameters.md")
	if err != nil {
		t.Fatal(err)
	}
	var rows [][]string
	for line := range strings.Lines(string(text)) {
		line, isRow := strings.CutPrefix(strings.TrimSpace(line), "| ")
		if rows != nil && !strings.HasPrefix(line, "|") && !isRow {
			break // other tables follow
		}
		if !isRow {
			continue
		}
		row := strings.Split(strings.TrimSuffix(line, " |"), " | ")
		for i := range row {
			row[i] = strings.Trim(row[i], "`")
		}
		rows = append(rows, row)
	}
	if len(rows) != len(parameters)+1 {
		t.Fatalf("the table has %d rows and a heading, want %d", len(rows)-1, len(parameters))
	}
	if got, want := strings.Join(rows[0], " "), "parameter default accepts meaning example since"; got != want {
		t.Fatalf("the table's heading is %q, want %q", got, want)
	}
	for i, p := range parameters {
		row := rows[i+1]
		if len(row) != 6 {
			t.Errorf("%s: %d columns, want 6", p.name, len(row))
			continue
		}
		if row[3] == "" {
			t.Errorf("%s: no meaning", p.name)
		}
		row[3] = ""
		want := []string{p.name, p.fallback, p.accepts, "", p.name + "=" + p.example, p.since}
		for j := range want {
			if row[j] != want[j] {
				t.Errorf("%s: %s is %q, want %q", p.name, rows[0][j], row[j], want[j])
			}
		}
	}
}

// Each form gives its parameters away, and every other byte is the driver's.
func TestParseDSNForms(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{"postgres://u:p@h/db?&connection_limit=7&a=%20#f", "postgres://u:p@h/db?&a=%20#f"},
		{" host = h connection_limit='7'  password='a b' ", " host = h  password='a b' "},
		{"u:p?w@tcp(h)/db?connection_limit=7&loc=Local", "u:p?w@tcp(h)/db?loc=Local"},
		{"server=h;user id=u;password=p;connection_limit=7", "server=h;user id=u;password=p"},
		{"file:app.db?connection_limit=7", "file:app.db"},
	} {
		want := DefaultConfig()
		want.ConnectionLimit, want.MaxIdleConnections = 7, 7
		cfg, got, err := ParseDSN(tt.text, DefaultConfig())
		if err != nil || got != tt.want || cfg != want {
			t.Errorf("ParseDSN(%q) = %q, %v, limit %d; want %q", tt.text, got, err, cfg.ConnectionLimit, tt.want)
		}
	}
}

func TestMisspeltNames(t *testing.T) {
	for _, p := range parameters {
		name := strings.ToUpper(p.name)
		_, rest, err := ParseDSN("postgres://h/db?"+name+"=5", DefaultConfig())
		if err == nil || !strings.HasSuffix(err.Error(), "write "+p.name) || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %q, %v", name, rest, err)
		}
	}
}

// A derived name keeps the rules of pool_name, so that it can go into a Config.
func TestPoolNameIsValid(t *testing.T) {
	for _, target := range []dsn.Target{{Host: strings.Repeat("h", 250), Port: "5432", Database: "a b"}, {}, {Driver: " x"}} {
		c := DefaultConfig()
		if c.PoolName = target.PoolName(); c.PoolName == "" || c.validate() != nil {
			t.Errorf("%+v is named %q: %v", target, c.PoolName, c.validate())
		}
	}
}

// A parameter that may be a part of the password is refused, with the way out.
func TestDoubtfulParameters(t *testing.T) {
	for _, text := range []string{
		"postgres://u:p@geheim/x?connection_limit=9@h/db",
		"postgres://u:p@geheim/x?connection_limit=seventeen&y@h:5432/db?a=b",
		"postgres://u:12/geheim?connection_limit=9@h/db",
		"postgres://u:p@h/db?connection_limit=9&options=geheim@b/c",
		"password=geheim;server=h;connection_limit=seventeen",
	} {
		_, rest, err := ParseDSN(text, DefaultConfig())
		if err == nil {
			t.Errorf("%q is accepted, with %q for the driver", text, rest)
			continue
		}
		hints := []string{"connection_limit", "percent-encoded", "%3F", "%40"}
		if strings.Contains(text, ";") {
			hints = []string{"connection_limit", "server= before password="}
		}
		for _, hint := range hints {
			if !strings.Contains(err.Error(), hint) {
				t.Errorf("%q: error %q lacks %q", text, err, hint)
			}
		}
		for _, secret := range []string{"geheim", "seventeen"} {
			if strings.Contains(err.Error(), secret) {
				t.Errorf("%q: error %q shows %q", text, err, secret)
			}
		}
	}
}

// A refused value is quoted only where it cannot hold more than itself.
func TestErrorsHideSecrets(t *testing.T) {
	for _, text := range []string{
		"server=h; connection_limit=x;password=geheim",
		"host=h connection_limit=5;password=geheim",
		"server=h;password=geheim;connection_limit=1;connection_limit=1",
		"postgres://u:12?connection_limit=geheim@h",
		"postgres://u?connection_limit=x:geheim@h/db",
		"postgres://u:p@x?connection_limit=geheim&y@h",
		"postgres://h/db?password=geheim&connection_limit=x%",
		"user:p@x/y?connection_limit=geheim&z@tcp(h)",
		"host=h password=geheim pool_timeout=12x",
		"host=h password=geheim connection_limt=12",
		"host=h password=geheim pool_timeout=1 pool_timeout=2",
		"host=h password=geheim min_connections=20",
		"host=h pool_timeout=" + strings.Repeat("geheim", 7),
	} {
		_, rest, err := ParseDSN(text, DefaultConfig())
		switch {
		case err == nil:
			t.Errorf("%q is accepted, with %q for the driver", text, rest)
		case strings.Contains(err.Error(), "geheim"):
			t.Errorf("%q: error %q shows a secret", text, err)
		}
	}
}

// Names that drivers and servers know go to them. lib/pq tells its own; the
// rest are those of the other drivers and the servers' run-time parameters that
// come nearest to lifeguard's.
func TestDriverNamesPass(t *testing.T) {
	names := strings.Fields(`
		pool_max_conns pool_min_conns pool_min_idle_conns pool_max_conn_lifetime pool_max_conn_idle_time
		pool_health_check_period pool_max_conn_lifetime_jitter pool_ping_timeout statement_cache_capacity
		description_cache_capacity default_query_exec_mode servicefile channel_binding require_auth sslpassword
		keepalives keepalives_idle keepalives_interval keepalives_count tcp_user_timeout replication gssencmode
		requirepeer sslcrl sslcertmode database oauth_issuer scram_client_key

		statement_timeout lock_timeout transaction_timeout idle_in_transaction_session_timeout idle_session_timeout
		deadlock_timeout tcp_keepalives_idle geqo_threshold max_connections log_connections log_min_duration_statement
		search_path role session_authorization timezone work_mem plan_cache_mode track_activity_query_size
		wal_sender_timeout trace_notify trace_sort debug_print_parse jit

		allowAllFiles allowNativePasswords checkConnLiveness clientFoundRows charset collation columnsWithAlias
		compress connectionAttributes interpolateParams loc maxAllowedPacket multiStatements parseTime readTimeout
		rejectReadOnly serverPubKey timeTruncate timeout tls writeTimeout strict
		max_execution_time wait_timeout interactive_timeout net_read_timeout lock_wait_timeout innodb_lock_wait_timeout
		long_query_time slow_query_log general_log max_user_connections optimizer_trace query_cache_size sql_mode
		thread_pool_size max_statement_time

		_pragma _busy_timeout _timeout _cache_size _stmt_cache_size _query_only _txlock _time_format _timefmt
		_timezone _foreign_keys _fk _journal_mode _journal _synchronous _sync _loc _mutex _auth _auth_user
		_auth_pass _locking_mode _defensive _dqs cache mode vfs psow nolock immutable modeof

		server port encrypt TrustServerCertificate hostNameInCertificate keepAlive protocol pipe log timeout
		failoverpartner failoverport applicationintent packetsize connectiontimeout dialtimeout disableretry`)
	config := reflect.TypeFor[pq.Config]()
	for i := range config.NumField() {
		if name := config.Field(i).Tag.Get("postgres"); name != "" && name != "-" {
			names = append(names, name)
		}
	}
	if !slices.Contains(names, "sslmode") {
		t.Error("lib/pq no longer tells its parameters by field tags")
	}
	for _, name := range names {
		text := "postgres://h/db?" + name + "=1"
		if _, rest, err := ParseDSN(text, DefaultConfig()); err != nil || rest != text {
			t.Errorf("%s: %q, %v", name, rest, err)
		}
	}
}
