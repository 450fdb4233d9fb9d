package dsn

import "testing"

func TestMisspelt(t *testing.T) {
	known := []string{
		"connection_limit", "pool_timeout", "max_idle_connections", "max_connection_lifetime", "min_connections",
		"socket_timeout", "pgbouncer", "trace", "query_log", "leak_threshold", "pool_name",
	}
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
		if meant := Misspelt(tt.name, known); meant != tt.meant {
			t.Errorf("%q: %q, want %q", tt.name, meant, tt.meant)
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
