package lifeguard

import (
	"net/url"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lib/pq"
)

// Each DSN carries connection_limit=7 once, or nothing of lifeguard's.
func TestParseDSNForms(t *testing.T) {
	for _, tt := range []struct{ dsn, want string }{
		// nothing to take out
		{"", ""},
		{"?", "?"},
		{"postgres://u:p@h/db", "postgres://u:p@h/db"},
		{"postgres://u:p@h/db?", "postgres://u:p@h/db?"},
		{"postgres://u:p@h/db?&&sslmode=disable&#f", "postgres://u:p@h/db?&&sslmode=disable&#f"},
		{" host = h  password = 'a b' ", " host = h  password = 'a b' "},
		{"user:p@tcp(h)/db?a=b&&", "user:p@tcp(h)/db?a=b&&"},
		{"some name without a form", "some name without a form"},
		{"\x00\xff?\x00", "\x00\xff?\x00"},

		// URLs
		{"postgres://u:p@h/db?connection_limit=7", "postgres://u:p@h/db"},
		{"postgresql://u:p@h:5432/db?connection_limit=7&sslmode=disable", "postgresql://u:p@h:5432/db?sslmode=disable"},
		{"postgres://u:p@h/db?sslmode=disable&connection_limit=7", "postgres://u:p@h/db?sslmode=disable"},
		{"postgres://h/db?b=2&connection_limit=7&a=1", "postgres://h/db?b=2&a=1"},
		{"postgres://h/db?&connection_limit=7", "postgres://h/db?"},
		{"postgres://h/db?a=%20&&connection_limit=7&&b=+;c", "postgres://h/db?a=%20&&&b=+;c"},
		{"postgres://h/db?connection%5Flimit=%37", "postgres://h/db"},
		{"postgres://h/db?connection_limit=7#?fragment&a=b", "postgres://h/db#?fragment&a=b"},
		{"postgres://h/db?a=b#connection_limit=x", "postgres://h/db?a=b#connection_limit=x"},
		{"postgres://?connection_limit=7", "postgres://"},
		{"postgres:///db?host=/tmp&connection_limit=7", "postgres:///db?host=/tmp"},
		{"postgres://u:p@[::1]:5432,[fe80::1%25eth0]/db?connection_limit=7", "postgres://u:p@[::1]:5432,[fe80::1%25eth0]/db"},
		{"postgres://h1:1,h2:2/db?connection_limit=7", "postgres://h1:1,h2:2/db"},
		{"postgres://%2Ftmp/db?connection_limit=7", "postgres://%2Ftmp/db"},
		{"postgres://h/db?options=-c%20x%3D1&connection_limit=7&options=a?b", "postgres://h/db?options=-c%20x%3D1&options=a?b"},
		{"postgres://h/db?application_name=a@b&connection_limit=7", "postgres://h/db?application_name=a@b"},
		{"postgres://h/db?connection_limit=7&application_name=a@b", "postgres://h/db?application_name=a@b"},
		{"postgres://u:p@h?connection_limit=7&application_name=a@b", "postgres://u:p@h?application_name=a@b"},
		{"postgres://h:5432?connection_limit=7&application_name=a@b", "postgres://h:5432?application_name=a@b"},
		{"postgres://u:p@h/db?application_name=a@b/c&connection_limit=7", "postgres://u:p@h/db?application_name=a@b/c"},
		{"postgres://h/db?connection_limit=7&password=x@tcp(h)", "postgres://h/db?password=x@tcp(h)"},
		{"postgres://h/db?password=x@tcp(h)/y&connection_limit=7", "postgres://h/db?password=x@tcp(h)/y"},
		{"mysql://u:p@tcp(h:3306)/db?connection_limit=7&parseTime=true", "mysql://u:p@tcp(h:3306)/db?parseTime=true"},
		{"sqlserver://sa:p@h:1433?database=x&connection_limit=7", "sqlserver://sa:p@h:1433?database=x"},
		{"clickhouse://h:9000/default?connection_limit=7", "clickhouse://h:9000/default"},

		// keywords and values
		{"connection_limit=7", ""},
		{" connection_limit = 7 ", " "},
		{"host=h connection_limit=7", "host=h"},
		{"connection_limit=7 host=h", "host=h"},
		{"host=h connection_limit=7 dbname=x", "host=h dbname=x"},
		{"host=h  connection_limit\t=\n'7'  dbname=x ", "host=h  dbname=x "},
		{`host=h connection_limit=\7`, "host=h"},
		{"host='h'connection_limit='7'dbname=x", "host='h'dbname=x"},
		{"host=h connection_limit='7'dbname=x", "host=h dbname=x"},
		{"host='h'connection_limit=7 dbname=x", "host='h' dbname=x"},
		{"password='a connection_limit=9' connection_limit=7", "password='a connection_limit=9'"},
		{`password='it\'s connection_limit=9' connection_limit=7`, `password='it\'s connection_limit=9'`},
		{`password='\\' connection_limit=7`, `password='\\'`},
		{`password=a\ connection_limit=9 connection_limit=7`, `password=a\ connection_limit=9`},
		{"password='x@tcp(h)/y?connection_limit=9' connection_limit=7", "password='x@tcp(h)/y?connection_limit=9'"},
		{"password= connection_limit=9 connection_limit=7", "password= connection_limit=9"},
		{"password=a?connection_limit=9&b connection_limit=7", "password=a?connection_limit=9&b"},
		{"password=a\u00a0connection_limit=9 connection_limit=7", "password=a\u00a0connection_limit=9"},
		{"password=a'b connection_limit=7 host=h'", "password=a'b host=h'"},
		{"password='' connection_limit=7", "password=''"},
		{"host=h connection_limit=7 options='-c geqo=off' user=", "host=h options='-c geqo=off' user="},
		{"host=h connection_limit=7 password='open", "host=h password='open"},
		{"connection_limit=7 host=h garbage", "host=h garbage"},
		{"password='open connection_limit=9", "password='open connection_limit=9"},
		{"host=h garbage connection_limit=9", "host=h garbage connection_limit=9"},

		// MySQL
		{"user:pass@tcp(h:3306)/db?connection_limit=7", "user:pass@tcp(h:3306)/db"},
		{"user:pass@tcp(h:3306)/db?parseTime=true&connection_limit=7&loc=Local", "user:pass@tcp(h:3306)/db?parseTime=true&loc=Local"},
		{"user:pa?ss@tcp(h:3306)/db?connection_limit=7", "user:pa?ss@tcp(h:3306)/db"},
		{"user:pa?connection_limit=9&x@tcp(h:3306)/db?connection_limit=7", "user:pa?connection_limit=9&x@tcp(h:3306)/db"},
		{"user://p?w#@tcp(h)/db?connection_limit=7", "user://p?w#@tcp(h)/db"},
		{"user:p@s/s?w@unix(/tmp/my.sock)/db?connection_limit=7", "user:p@s/s?w@unix(/tmp/my.sock)/db"},
		{"user:p?w@unix(@abstract)/db?connection_limit=7", "user:p?w@unix(@abstract)/db"},
		{"user:p@((?connection_limit=9&)/db?connection_limit=7", "user:p@((?connection_limit=9&)/db"},
		{"user:p?w@/db?connection_limit=7", "user:p?w@/db"},
		{"user:p?w@tcp/db?connection_limit=7", "user:p?w@tcp/db"},
		{":p?w@tcp(h)/?connection_limit=7", ":p?w@tcp(h)/"},
		{"user@/db?connection_limit=7", "user@/db"},
		{"/db?connection_limit=7", "/db"},
		{"/?connection_limit=7", "/"},
		{"unix(/tmp/a?b.sock)/db?connection_limit=7", "unix(/tmp/a?b.sock)/db"},
		{"tcp([::1]:3306)/db?connection_limit=7", "tcp([::1]:3306)/db"},
		{"user:p@tcp(h)/db?connectionAttributes=a:b@c&connection_limit=7", "user:p@tcp(h)/db?connectionAttributes=a:b@c"},
		{"user:p@tcp(h)/db?connection_limit=7&connectionAttributes=a:b@c", "user:p@tcp(h)/db?connectionAttributes=a:b@c"},
		{"user:p?w@tcp(h)/db?loc=Europe/Berlin&connection_limit=7", "user:p?w@tcp(h)/db?loc=Europe/Berlin"},

		// other drivers' own forms
		{"user:p?w@h:3050/data/shop.fdb?connection_limit=7", "user:p?w@h:3050/data/shop.fdb"},
		{"user:p?connection_limit=9@h:1521", "user:p?connection_limit=9@h:1521"},
		{"x://user:p?connection_limit=9@h=1", "x://user:p?connection_limit=9@h=1"},
		{"x://user:p?connection_limit=9@h=1/db?connection_limit=7", "x://user:p?connection_limit=9@h=1/db"},
		{"a(b?connection_limit=7", "a(b"},
		{"h:5432/db?connection_limit=7&email=a@b", "h:5432/db?email=a@b"},
		{"sqlmock_db_0?connection_limit=7", "sqlmock_db_0"},
		{"?connection_limit=7", ""},

		// SQLite
		{"app.db?connection_limit=7", "app.db"},
		{"/var/lib/app.db?_pragma=busy_timeout(5000)&connection_limit=7", "/var/lib/app.db?_pragma=busy_timeout(5000)"},
		{"app.db?_pragma=x('a?b')&connection_limit=7", "app.db?_pragma=x('a?b')"},
		{"app.db?_loc=Europe/Berlin&connection_limit=7", "app.db?_loc=Europe/Berlin"},
		{"app.db?connection_limit=7&_auth&_auth_user=a@b", "app.db?_auth&_auth_user=a@b"},
		{"app#1.db?connection_limit=7&_auth_pass=x#y", "app#1.db?_auth_pass=x#y"},
		{":memory:?connection_limit=7&_auth_user=a@b/c", ":memory:?_auth_user=a@b/c"},
		{"file::memory:?cache=shared&connection_limit=7", "file::memory:?cache=shared"},
		{"file:app.db?connection_limit=7&_auth_user=a@b/c", "file:app.db?_auth_user=a@b/c"},
		{"file:///data/a@b/app.db?mode=ro&connection_limit=7", "file:///data/a@b/app.db?mode=ro"},
		{"FILE:///data/app.db?connection_limit=7&vfs=a@b/c", "FILE:///data/app.db?vfs=a@b/c"},
		{`C:\data\app.db?connection_limit=7&_auth_user=a@b/c`, `C:\data\app.db?_auth_user=a@b/c`},
	} {
		want := DefaultConfig()
		if tt.dsn != tt.want {
			want.ConnectionLimit, want.MaxIdleConnections = 7, 7
		}
		cfg, got, err := ParseDSN(tt.dsn, DefaultConfig())
		if err != nil || got != tt.want || cfg != want {
			t.Errorf("ParseDSN(%q) = %q, %v, limit %d; want %q", tt.dsn, got, err, cfg.ConnectionLimit, tt.want)
		}
	}
}

// rawPasswords are what people write without encoding it.
var rawPasswords = []string{
	"p?w", "?", "p&w", "p=w", "p?a=b", "p?a=b&c=d", "p'w", `p"w`, `p\w`, "p;w", "p w", "p:w", "p%w", "p+w", "p#w",
	"connection_limit=9", "?connection_limit=9", "p?connection_limit=9", "p?x=1&connection_limit=9",
	"p?connection_limit=9&x", "p&connection_limit=9&", "12?connection_limit=9", "p?connection_limt=9",
	"p?connection_limit=seventeen", "p?pool_timeout=1&connection_limit=9",
	"p@w", "p@w?x", "p@w?connection_limit=9", "p@w?connection_limit=9&x", "p?w@x", "p?connection_limit=9@x",
	"p/w", "//p", "p(w)", "p@tcp(x)", "p]w", "[p",
}

func TestPasswordsSurvive(t *testing.T) {
	quote := strings.NewReplacer(`\`, `\\`, `'`, `\'`)
	for _, pw := range rawPasswords {
		for _, front := range []string{
			"postgres://user:" + pw + "@h:5432/db",
			"postgres://user:" + pw + "@h/db",
			"postgres://user:" + pw + "@[::1]:5432/db",
			"sqlserver://user:" + pw + "@h:1433",
			"postgres://user:" + url.QueryEscape(pw) + "@h:5432/db",
			"user:" + pw + "@tcp(h:3306)/db",
			"user:" + pw + "@unix(/tmp/mysql.sock)/db",
			"user:" + pw + "@/db",
			"file:app.db?_auth_pass=" + url.QueryEscape(pw),
			"host=h password='" + quote.Replace(pw) + "' dbname=db",
		} {
			dsn := front + "?connection_limit=7"
			switch {
			case strings.HasPrefix(front, "host="):
				dsn = front + " connection_limit=7"
			case strings.HasPrefix(front, "file:"):
				dsn = front + "&connection_limit=7"
			}
			cfg, rest, err := ParseDSN(dsn, DefaultConfig())
			if err != nil || rest != front || cfg.ConnectionLimit != 7 {
				t.Errorf("ParseDSN(%q) = %q, %v, limit %d", dsn, rest, err, cfg.ConnectionLimit)
			}
		}
	}
}

// Where a URL can be read in two ways and one of our parameters would be a part
// of the password in one of them, it is refused, with the way out.
func TestDoubtfulURLs(t *testing.T) {
	for _, dsn := range []string{
		"postgres://u:p@geheim/x?connection_limit=9@h/db",
		"postgres://u:p@geheim/x?connection_limit=seventeen&y@h:5432/db?a=b",
		"postgres://u:12/geheim?connection_limit=9@h/db",
		"postgres://u:p@h/db?connection_limit=9&options=geheim@b/c",
	} {
		_, rest, err := ParseDSN(dsn, DefaultConfig())
		if err == nil {
			t.Errorf("%q is accepted, with %q for the driver", dsn, rest)
			continue
		}
		for _, hint := range []string{"connection_limit", "percent-encoded", "%3F", "%40"} {
			if !strings.Contains(err.Error(), hint) {
				t.Errorf("%q: error %q lacks %q", dsn, err, hint)
			}
		}
		for _, secret := range []string{"geheim", "seventeen"} {
			if strings.Contains(err.Error(), secret) {
				t.Errorf("%q: error %q shows %q", dsn, err, secret)
			}
		}
	}
}

// A refused value is quoted only where it cannot hold more than itself.
func TestErrorsHideSecrets(t *testing.T) {
	for _, dsn := range []string{
		"server=h; connection_limit=5;password=geheim",
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
		_, rest, err := ParseDSN(dsn, DefaultConfig())
		switch {
		case err == nil:
			t.Errorf("%q is accepted, with %q for the driver", dsn, rest)
		case strings.Contains(err.Error(), "geheim"):
			t.Errorf("%q: error %q shows a secret", dsn, err)
		}
	}
}

func TestMisspeltNames(t *testing.T) {
	for _, tt := range []struct{ name, meant string }{
		{"connection_limt", "connection_limit"},
		{"conection_limit", "connection_limit"},
		{"connetcion_limit", "connection_limit"},
		{"connections_limits", "connection_limit"},
		{"Connection_Limit", "connection_limit"},
		{"CONNECTION_LIMIT", "connection_limit"},
		{"connectionLimit", "connection_limit"},
		{"connection-limit", "connection_limit"},
		{"connection limit", "connection_limit"},
		{"pooltimeout", "pool_timeout"},
		{"pool_timout", "pool_timeout"},
		{"socketTimeout", "socket_timeout"},
		{"max_idle_connection", "max_idle_connections"},
		{"max_connections_lifetime", "max_connection_lifetime"},
		{"min_connection", "min_connections"},
		{"pg_bouncer", "pgbouncer"},
		{"tracing", ""},
		{"tarce", "trace"},
		{"querylog", "query_log"},
		{"leak_treshold", "leak_threshold"},
		{"poolname", "pool_name"},
		{"connect_limit", ""},
		{"limit", ""},
		{"pool", ""},
		{"max_connections", ""},
		{"MAX_CONNECTIONS", ""},
		{"", ""},
	} {
		_, rest, err := ParseDSN("postgres://h/db?"+url.QueryEscape(tt.name)+"=5", DefaultConfig())
		switch {
		case tt.meant == "":
			if err != nil {
				t.Errorf("%q: %v", tt.name, err)
			}
		case err == nil:
			t.Errorf("%q is passed on: %q", tt.name, rest)
		case !strings.HasSuffix(err.Error(), "write "+tt.meant) || !strings.Contains(err.Error(), tt.name):
			t.Errorf("%q: %v, want %s", tt.name, err, tt.meant)
		}
	}
}

func TestEdits(t *testing.T) {
	for _, tt := range []struct {
		a, b string
		want int
	}{
		{"", "", 0}, {"", "ab", 2}, {"", "abc", 3}, {"trace", "trace", 0}, {"tarce", "trace", 1}, {"rtaec", "trace", 2},
		{"ca", "abc", 3}, {"trac", "trace", 1}, {"xtracey", "trace", 2}, {"tree", "trace", 2}, {"abcdef", "uvwxyz", 3},
	} {
		if got := edits(tt.a, tt.b); got != tt.want {
			t.Errorf("edits(%q, %q) = %d, want %d", tt.a, tt.b, got, tt.want)
		}
		if got := edits(tt.b, tt.a); got != tt.want {
			t.Errorf("edits(%q, %q) = %d, want %d", tt.b, tt.a, got, tt.want)
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
		_auth_pass _locking_mode _defensive _dqs cache mode vfs psow nolock immutable modeof`)
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
		dsn := "postgres://h/db?" + name + "=1"
		if _, rest, err := ParseDSN(dsn, DefaultConfig()); err != nil || rest != dsn {
			t.Errorf("%s: %q, %v", name, rest, err)
		}
	}
}

func TestTarget(t *testing.T) {
	for _, env := range []string{"PGHOST", "PGHOSTADDR", "PGPORT", "PGDATABASE", "PGUSER", "PGSERVICE"} {
		t.Setenv(env, "")
	}
	t.Setenv("USER", "osuser")
	for _, tt := range []struct {
		driver, dsn string
		want        target
		pool        string
	}{
		{"postgres", "postgres://u:p@db.example:6432/shop?sslmode=disable", target{system: "postgresql", host: "db.example", port: "6432", database: "shop"}, "db.example:6432/shop"},
		{"postgres", "postgresql://u:p@db/shop", target{system: "postgresql", host: "db", port: "5432", database: "shop"}, "db:5432/shop"},
		{"pgx", "postgres://u%40x:p@[2001:db8::1]:6432/my%20shop", target{system: "postgresql", host: "2001:db8::1", port: "6432", database: "my shop"}, "[2001:db8::1]:6432/my shop"},
		{"pgx", "postgres://u:p@[::1]/shop", target{system: "postgresql", host: "::1", port: "5432", database: "shop"}, "[::1]:5432/shop"},
		{"pgx", "postgres://u:p@h1:1,h2:2/shop", target{system: "postgresql", host: "h1", port: "1", database: "shop"}, "h1:1/shop"},
		{"pgx", "postgres://u:p@h1,h2:2/shop", target{system: "postgresql", host: "h1", port: "5432", database: "shop"}, "h1:5432/shop"},
		{"postgres", "postgres://u:p@h1,h2:2/shop", target{system: "postgresql", host: "h1", port: "2", database: "shop"}, "h1:2/shop"},
		{"postgres", "postgres://u:p@h1,h2/shop?port=1,2", target{system: "postgresql", host: "h1", port: "1", database: "shop"}, "h1:1/shop"},
		{"postgres", "postgres://u:p@/shop?host=/run/pg&port=6432", target{system: "postgresql", host: "/run/pg", port: "6432", database: "shop"}, "/run/pg:6432/shop"},
		{"postgres", "postgres://%2Frun%2Fpg/shop", target{system: "postgresql", host: "/run/pg", port: "5432", database: "shop"}, "/run/pg:5432/shop"},
		{"postgres", "postgres://", target{system: "postgresql", host: "localhost", port: "5432", database: "osuser"}, "localhost:5432/osuser"},
		{"postgres", "postgres://app:p@/", target{system: "postgresql", host: "localhost", port: "5432", database: "app"}, "localhost:5432/app"},
		{"postgres", "postgres://h/a?dbname=b&user=c", target{system: "postgresql", host: "h", port: "5432", database: "b"}, "h:5432/b"},
		{"postgres", "", target{system: "postgresql", host: "localhost", port: "5432", database: "osuser"}, "localhost:5432/osuser"},
		{"postgres", "user=app password='a b'", target{system: "postgresql", host: "localhost", port: "5432", database: "app"}, "localhost:5432/app"},
		{"postgres", "host=h1,h2 port=1,2 dbname = 'sh op'", target{system: "postgresql", host: "h1", port: "1", database: "sh op"}, "h1:1/sh op"},
		{"postgres", "hostaddr=10.0.0.1 database=shop", target{system: "postgresql", host: "10.0.0.1", port: "5432", database: "shop"}, "10.0.0.1:5432/shop"},
		{"postgres", "host=/run/pg dbname=shop", target{system: "postgresql", host: "/run/pg", port: "5432", database: "shop"}, "/run/pg:5432/shop"},
		{"postgres", "host=@/run/pg dbname=shop", target{system: "postgresql", host: "@/run/pg", port: "5432", database: "shop"}, "@/run/pg:5432/shop"},
		{"postgres", "service=x dbname=shop", target{system: "postgresql", database: "shop"}, "shop"},
		{"postgres", "postgres://u:p@h/db?service=x", target{system: "postgresql", host: "h", database: "db"}, "h/db"},
		{"postgres", "host=h broken", target{system: "postgresql"}, "postgres"},
		{"postgres", "host='open", target{system: "postgresql"}, "postgres"},
		{"postgres", "postgres://u:p@h/%zz", target{system: "postgresql"}, "postgres"},
		{"postgres", "postgres://user:secret", target{system: "postgresql"}, "postgres"},
		{"postgres", "postgres://u:p@x?y@h/db", target{system: "postgresql"}, "postgres"},
		{"postgres", "postgres://u:p?y@h/db", target{system: "postgresql", host: "h", port: "5432", database: "db"}, "h:5432/db"},
		{"postgres", "postgres://u:p@h:5432/db?application_name=a@b&x=y", target{system: "postgresql", host: "h", port: "5432", database: "db"}, "h:5432/db"},
		{"postgres", "host=h;password=x dbname=d", target{system: "postgresql"}, "postgres"},
		{"other", "postgres://u:p@h/db", target{system: "postgresql", host: "h", port: "5432", database: "db"}, "h:5432/db"},
		{"other", "user=u host=h dbname=db", target{system: "postgresql", host: "h", port: "5432", database: "db"}, "h:5432/db"},
		{"nrpgx", "host=h dbname=db", target{system: "postgresql", host: "h", port: "5432", database: "db"}, "h:5432/db"},

		{"mysql", "u:p@tcp(db:3307)/shop?parseTime=true", target{system: "mysql", host: "db", port: "3307", database: "shop"}, "db:3307/shop"},
		{"mysql", "u:p@/s%68op@tcp(db)/shop", target{system: "mysql", host: "db", port: "3306", database: "shop"}, "db:3306/shop"},
		{"mysql", "u:p@tcp(db)/s%68op", target{system: "mysql", host: "db", port: "3306", database: "shop"}, "db:3306/shop"},
		{"mysql", "u:p@tcp([::1]:3307)/shop", target{system: "mysql", host: "::1", port: "3307", database: "shop"}, "[::1]:3307/shop"},
		{"mysql", "u:p@tcp([::1])/shop", target{system: "mysql", host: "::1", port: "3306", database: "shop"}, "[::1]:3306/shop"},
		{"mysql", "u:p@/shop", target{system: "mysql", host: "127.0.0.1", port: "3306", database: "shop"}, "127.0.0.1:3306/shop"},
		{"mysql", "/", target{system: "mysql", host: "127.0.0.1", port: "3306"}, "127.0.0.1:3306"},
		{"mysql", "u:p@unix(/run/my.sock)/shop", target{system: "mysql", host: "/run/my.sock", database: "shop"}, "/run/my.sock/shop"},
		{"mysql", "u:p@unix/shop", target{system: "mysql", host: "/tmp/mysql.sock", database: "shop"}, "/tmp/mysql.sock/shop"},
		{"mysql", "u:p@cloud(project:region:name)/shop", target{system: "mysql", host: "project:region:name", database: "shop"}, "project:region:name/shop"},
		{"mysql", "u:p@proxy(h:3306)/shop", target{system: "mysql", host: "h", port: "3306", database: "shop"}, "h:3306/shop"},
		{"mysql", "mysql://u:p@db/shop", target{system: "mysql", host: "db", port: "3306", database: "shop"}, "db:3306/shop"},
		{"other", "mysql://u:p@[::1]:3307/shop?x=y", target{system: "mysql", host: "::1", port: "3307", database: "shop"}, "[::1]:3307/shop"},
		{"mysql", "mysql://u:p@[::1/shop", target{system: "mysql"}, "mysql"},
		{"mysql", "u:p@tcp([::1)/shop", target{system: "mysql"}, "mysql"},
		{"mysql", "u:p@tcp(::1)/shop", target{system: "mysql"}, "mysql"},
		{"mysql", "u:p@tcp(h/shop", target{system: "mysql"}, "mysql"},
		{"mysql", "u:p@tcp(h)/%zz", target{system: "mysql"}, "mysql"},
		{"mysql", "password=@tcp(secret)/x", target{system: "mysql"}, "mysql"},
		{"other", "password=@tcp(secret)/x", target{system: "other_sql"}, "other"},
		{"mysql", "host=h password='tcp(secret)/x'", target{system: "mysql"}, "mysql"},
		{"mysql", "u://p/w@tcp(db)/shop", target{system: "mysql", host: "db", port: "3306", database: "shop"}, "db:3306/shop"},
		{"other", "u://p/w@tcp(db)/shop", target{system: "mysql", host: "db", port: "3306", database: "shop"}, "db:3306/shop"},
		{"mysql", "u:p@secret/shop", target{system: "mysql"}, "mysql"},
		{"mysql", "u:secret/shop", target{system: "mysql"}, "mysql"},
		{"mysql", "u:p@x/secret@tcp(h)", target{system: "mysql"}, "mysql"},
		{"mysql", "", target{system: "mysql"}, "mysql"},
		{"other", "u:p@tcp(db)/shop", target{system: "mysql", host: "db", port: "3306", database: "shop"}, "db:3306/shop"},

		{"sqlite", "/var/lib/app.db?_pragma=busy_timeout(1)", target{system: "sqlite", database: "app.db"}, "app.db"},
		{"sqlite3", "file:data/my%20app.db?cache=shared&_auth_pass=x@y", target{system: "sqlite", database: "my app.db"}, "my app.db"},
		{"sqlite", "file:///var/app.db#x", target{system: "sqlite", database: "app.db"}, "app.db"},
		{"sqlite", ":memory:", target{system: "sqlite", database: ":memory:"}, ":memory:"},
		{"sqlite", "file::memory:?cache=shared", target{system: "sqlite", database: ":memory:"}, ":memory:"},
		{"sqlite", `C:\data\app.db`, target{system: "sqlite", database: "app.db"}, "app.db"},
		{"sqlite", "", target{system: "sqlite"}, "sqlite"},
		{"sqlite", "host=h password='/secret?'", target{system: "sqlite"}, "sqlite"},
		{"sqlite", "file:%zz", target{system: "sqlite"}, "sqlite"},
		{"sqlite", "u:x/secret?y@tcp(h)/db", target{system: "sqlite"}, "sqlite"},
		{"other", "app.sqlite3?x=y", target{system: "sqlite", database: "app.sqlite3"}, "app.sqlite3"},
		{"other", "file:app", target{system: "sqlite", database: "app"}, "app"},

		{"other", "sqlserver://sa:p@h?database=x", target{system: "other_sql"}, "other"},
		{"other", "server=h;user id=sa;password=secret", target{system: "other_sql"}, "other"},
		{"other", "sqlmock_db_0", target{system: "other_sql"}, "other"},
		{"other", "", target{system: "other_sql"}, "other"},
		{"", "", target{system: "other_sql"}, "other_sql"},
		{"bad\x00name", "", target{system: "other_sql"}, "other_sql"},
	} {
		tt.want.driver = tt.driver
		got := dsnTarget(tt.driver, tt.dsn)
		if got != tt.want {
			t.Errorf("dsnTarget(%q, %q)\n = %+v\nwant %+v", tt.driver, tt.dsn, got, tt.want)
		}
		if name := got.poolName(); name != tt.pool {
			t.Errorf("pool name of %q, %q = %q, want %q", tt.driver, tt.dsn, name, tt.pool)
		}
	}
}

func TestTargetEnvironment(t *testing.T) {
	t.Setenv("PGHOST", "envhost,other")
	t.Setenv("PGHOSTADDR", "")
	t.Setenv("PGPORT", "6000,6001")
	t.Setenv("PGDATABASE", "envdb")
	t.Setenv("PGUSER", "envuser")
	t.Setenv("PGSERVICE", "")
	for _, tt := range []struct{ dsn, pool string }{
		{"", "envhost:6000/envdb"},
		{"postgres:///", "envhost:6000/envdb"},
		{"hostaddr=10.0.0.1 user=u", "10.0.0.1:6000/envdb"},
		{"postgres://u:p@h:1/db", "h:1/db"},
	} {
		if got := dsnTarget("postgres", tt.dsn).poolName(); got != tt.pool {
			t.Errorf("%q: %q, want %q", tt.dsn, got, tt.pool)
		}
	}
	t.Setenv("PGDATABASE", "")
	if got, want := dsnTarget("postgres", "").poolName(), "envhost:6000/envuser"; got != want {
		t.Errorf("without PGDATABASE: %q, want %q", got, want)
	}
	t.Setenv("PGSERVICE", "x")
	if got, want := dsnTarget("postgres", "dbname=d").poolName(), "d"; got != want {
		t.Errorf("with PGSERVICE: %q, want %q", got, want)
	}
}

// A derived name keeps the rules of pool_name, so that it can go into a Config.
func TestPoolNameIsValid(t *testing.T) {
	long := target{host: strings.Repeat("h", 250), port: "5432", database: "a " + strings.Repeat("ö", 60)}
	for _, tt := range []target{long, {}, {driver: " x"}, {database: "db"}} {
		c := DefaultConfig()
		if c.PoolName = tt.poolName(); c.PoolName == "" {
			t.Errorf("%+v has no name", tt)
		}
		if err := c.validate(); err != nil {
			t.Errorf("%+v: %v", tt, err)
		}
	}
}

func FuzzParseDSN(f *testing.F) {
	for _, dsn := range []string{
		"", "?", "postgres://u:p@h/db?sslmode=disable", "postgres://u:p@h/db?connection_limit=7&x#f",
		"postgres://u:p?w@h/db?&&", "host=h password='a b' connection_limit = '7' x=1", "a='1'pool_timeout='2'b=2",
		"u:p?w@tcp(h)/db?a=b", "file:a.db?cache=shared", ":memory:", "postgres://u:p@x?y@h/db", "connection_limt=1",
		"connection%5Flimit=2", "A://:0?@/@", "A=", "A='0'0", "A=''=", "A=0  =", `A0=\`, "?connection_limit=%zz", "pool_timeout=2 pool_timeout=3", "postgres://[::1]/?pool_name=a%0A",
	} {
		f.Add(dsn, "p?w", uint8(1))
	}
	for _, pw := range rawPasswords {
		f.Add("postgres://h/db?a=b&c", pw, uint8(2))
	}
	f.Fuzz(func(t *testing.T, dsn, pw string, at uint8) {
		cfg, rest, err := ParseDSN(dsn, DefaultConfig())
		parts := splitDSN(dsn)
		ours := slices.ContainsFunc(parts.settings, func(s setting) bool { return parameterNamed(s.name) != nil })
		misspelt := slices.ContainsFunc(parts.settings, func(s setting) bool {
			return parameterNamed(s.name) == nil && misspelt(s.name) != ""
		})
		switch {
		case err != nil && !ours && !misspelt:
			t.Fatalf("%q: %v", dsn, err)
		case err == nil && misspelt:
			t.Fatalf("%q: a misspelt name is passed on", dsn)
		case err == nil && !ours && rest != dsn:
			t.Fatalf("%q became %q", dsn, rest)
		case err == nil && !ours && cfg != DefaultConfig():
			t.Fatalf("%q changed the configuration to %+v", dsn, cfg)
		case err == nil && len(rest) > len(dsn):
			t.Fatalf("%q grew to %q", dsn, rest)
		}
		if err == nil && cfg.validate() != nil {
			t.Fatalf("%q gives an invalid configuration %+v", dsn, cfg)
		}

		if !ours && !misspelt {
			with := putIn(dsn, "pool_timeout=7", int(at))
			again := splitDSN(with)
			cfg, rest, err := ParseDSN(with, DefaultConfig())
			switch {
			case again.ambiguous && (err != nil || rest == with):
				// It stands in what may be a password.
			case err != nil:
				t.Fatalf("%q: %v", with, err)
			case rest != dsn || cfg.PoolTimeout != 7*time.Second:
				t.Fatalf("%q: %q, pool_timeout %v; want %q", with, rest, cfg.PoolTimeout, dsn)
			}
		}
		checkPassword(t, pw)
	})
}

// lib/pq reads the driver's DSN as it reads the whole one, less our parameters.
func FuzzDriverAgrees(f *testing.F) {
	for _, pw := range rawPasswords {
		f.Add("postgres://user:" + url.QueryEscape(pw) + "@h:5432/db?connection_limit=7&a=b")
		f.Add("password='" + strings.ReplaceAll(pw, "'", `\'`) + "' connection_limit=7 x=1")
	}
	f.Add("connection_limit=7 host='h'a=1 pool_timeout='2'b=3")
	f.Add("postgres://h/?connection_limit=7&&a=b&pool_name=x#f")
	f.Fuzz(func(t *testing.T, dsn string) {
		isURL := strings.HasPrefix(dsn, "postgres://") || strings.HasPrefix(dsn, "postgresql://")
		_, query, _ := strings.Cut(dsn, "?")
		if !isURL && !keywordStart.MatchString(dsn) || isURL && strings.Contains(query, "@") ||
			strings.IndexFunc(dsn, func(r rune) bool { return r > 0x7f }) >= 0 {
			return // read in another way on purpose: see splitURL and space
		}
		_, rest, err := ParseDSN(dsn, DefaultConfig())
		if err != nil {
			return
		}
		want, err := pq.NewConfig(dsn)
		if err != nil {
			return
		}
		got, err := pq.NewConfig(rest)
		if err != nil {
			t.Fatalf("%q became %q: %v", dsn, rest, err)
		}
		for _, p := range parameters {
			if _, left := got.Runtime[p.name]; left {
				t.Fatalf("%q: %s is left in %q", dsn, p.name, rest)
			}
			delete(want.Runtime, p.name)
		}
		if len(want.Runtime)+len(got.Runtime) == 0 {
			want.Runtime, got.Runtime = nil, nil
		}
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("%q became %q, which lib/pq reads as\n%+v, not\n%+v", dsn, rest, got, want)
		}
	})
}

// putIn adds a parameter to the nth of the places where the DSN can have one.
func putIn(dsn, text string, n int) string {
	parts := splitDSN(dsn)
	if parts.keywords {
		n %= len(parts.settings) + 1
		if n > 0 {
			before := parts.settings[n-1]
			after := dsn[before.to:]
			if before.value != "" && dsn[before.to-1] != '\\' && (after == "" || strings.TrimLeft(after, space) != after) {
				return dsn[:before.to] + " " + text + after
			}
			// Behind "name=" it would be the value, a backslash would take its space,
			// and something else may follow a quote without space.
		}
		first := strings.TrimLeft(dsn, space)
		return dsn[:len(dsn)-len(first)] + text + " " + first
	}
	if parts.query < 0 {
		return dsn[:parts.end] + "?" + text + dsn[parts.end:]
	}
	n %= len(parts.settings) + 1
	if n == len(parts.settings) {
		return dsn[:parts.end] + "&" + text + dsn[parts.end:]
	}
	from := parts.settings[n].from
	return dsn[:from] + text + "&" + dsn[from:]
}

// checkPassword puts a password into all forms. Where the form has a way to
// write any password, or the driver reads it unencoded, it survives. A URL with
// a password that is not encoded is refused or passed on whole. No error and no
// name shows it.
func checkPassword(t *testing.T, pw string) {
	const mark = "Zy5ecretq"
	pw = pw + mark + pw
	quoted := "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(pw) + "'"
	for _, form := range []struct {
		front, joint string
		raw          bool
	}{
		{"postgres://user:" + url.QueryEscape(pw) + "@h:5432/db", "?", false},
		{"postgres://h/db?password=" + url.QueryEscape(pw) + "&user=u", "&", false},
		{"host=h password=" + quoted + " user=u", " ", false},
		{"password = " + quoted, " ", false},
		{"user:" + pw + "@tcp(h:3306)/db", "?", false},
		{"user:" + pw + "@unix(/tmp/mysql.sock)/", "?", false},
		{"app.db?_auth_pass=" + url.QueryEscape(pw), "&", false},
		{"postgres://user:" + pw + "@h:5432/db", "?", true},
		{"postgres://user:" + pw + "@h", "?", true},
		{"sqlserver://user:" + pw + "@[::1]:5432,h2/db?x=y", "&", true},
	} {
		dsn := form.front + form.joint + "connection_limit=7"
		cfg, rest, err := ParseDSN(dsn, DefaultConfig())
		switch {
		case err != nil && (!form.raw || strings.Contains(err.Error(), mark)):
			t.Fatalf("%q: %v", dsn, err)
		case err == nil && !form.raw && (rest != form.front || cfg.ConnectionLimit != 7):
			t.Fatalf("%q: %q, connection_limit %d", dsn, rest, cfg.ConnectionLimit)
		case err == nil && !strings.Contains(rest, mark):
			t.Fatalf("%q: %q has lost the password", dsn, rest)
		}
		for _, wrong := range []string{"connection_limit=seven", "connection_limt=7", "pool_timeout=1" + form.joint + "pool_timeout=1"} {
			dsn := form.front + form.joint + wrong
			if _, _, err := ParseDSN(dsn, DefaultConfig()); err != nil && strings.Contains(err.Error(), mark) {
				t.Fatalf("%q: %v", dsn, err)
			}
		}
	}
}

func FuzzTarget(f *testing.F) {
	for _, pw := range rawPasswords {
		f.Add(pw, "", uint8(0))
		f.Add("", pw, uint8(1))
	}
	f.Add("12/", "@x", uint8(0))
	f.Add("p@", "/x", uint8(0))
	f.Add("12,", "/", uint8(0))
	f.Add("x(", ")/y", uint8(3))
	f.Fuzz(func(t *testing.T, before, after string, pick uint8) {
		const mark = "Zy5ecretq"
		pw := before + mark + after
		quoted := "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(pw) + "'"
		drivers := []string{"postgres", "pgx", "mysql", "sqlite", "other", ""}
		driver := drivers[int(pick)%len(drivers)]
		for _, dsn := range []string{
			"postgres://user:" + url.QueryEscape(pw) + "@h:5432/db",
			"postgres://user:" + pw + "@h:5432/db",
			"postgres://user:" + pw + "@h/db?sslmode=disable",
			"postgres://user:" + pw + "@h1:1,h2:2/db",
			"postgres://user:" + pw + "@[::1]:5432",
			"postgres://user:" + pw + "@",
			"postgres://h/db?password=" + url.QueryEscape(pw),
			"mysql://user:" + pw + "@h:3306/db",
			"host=h user=u password=" + quoted + " dbname=db",
			"password=" + quoted,
			"user:" + pw + "@tcp(h:3306)/db?parseTime=true",
			"user:" + pw + "@unix(/tmp/mysql.sock)/db",
			"user:" + pw + "@/db",
			"app.db?_auth_user=u&_auth_pass=" + url.QueryEscape(pw),
		} {
			got := dsnTarget(driver, dsn)
			for _, s := range []string{got.system, got.host, got.port, got.database, got.poolName()} {
				if strings.Contains(s, mark) {
					t.Fatalf("dsnTarget(%q, %q) = %+v shows the password", driver, dsn, got)
				}
			}
			c := Config{ConnectionLimit: 1, PoolName: got.poolName()}
			if err := c.validate(); err != nil {
				t.Fatalf("dsnTarget(%q, %q): %v", driver, dsn, err)
			}
		}
		dsnTarget(driver, pw)
	})
}
