package libpq

import (
	"database/sql/driver"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"

	"github.com/lib/pq"
)

// pgxOnly are parameters that pgx takes out of a DSN. lib/pq passes them on to the server, which refuses them.
var pgxOnly = []string{"default_query_exec_mode", "statement_cache_capacity", "description_cache_capacity", "channel_binding",
	"require_auth", "sslcertmode", "sslpassword", "servicefile"}

// NewConnectorBeside is NewConnector for a session beside a pool's connections, which are lib/pq's own or another driver's.
// Without an sslmode the other prefers encryption, where lib/pq demands it, so the session does as the connections do. The
// error says why lib/pq cannot connect by a DSN that the other reads, and may show it.
func NewConnectorBeside(dsn string, own bool) (driver.Connector, error) {
	if err := understands(dsn); err != nil {
		return nil, err
	}
	return newConnector(dsn, SocketOptions{}, func(cfg *pq.Config) {
		if !own && cfg.SSLMode == "" {
			cfg.SSLMode = pq.SSLModePrefer
		}
	})
}

func understands(dsn string) error {
	if strings.HasPrefix(dsn, "registeredConnConfig") {
		return errors.New("it is a name of pgx's RegisterConnConfig: write a DSN, or leave fleet_limit out")
	}
	cfg, err := pq.NewConfig(dsn)
	if err != nil {
		return err
	}
	if portOfEachHost(dsn) {
		return errors.New("in a URL it reads one port for all hosts: write postgres://user@/database?host=a,b&port=5432,5433")
	}
	for _, name := range pgxOnly {
		if _, ok := cfg.Runtime[name]; ok {
			return fmt.Errorf("only pgx knows %s: leave it out, or leave fleet_limit out", name)
		}
	}
	for name := range cfg.Runtime {
		if strings.HasPrefix(name, "pool_") {
			return fmt.Errorf("only pgxpool knows %s: leave it out", name)
		}
	}
	return nil
}

// portOfEachHost says whether a URL has several hosts with a port each, of which lib/pq makes names of hosts.
func portOfEachHost(dsn string) bool {
	u, err := url.Parse(dsn)
	if err != nil || u.Scheme == "" || !strings.Contains(u.Host, ",") {
		return false
	}
	_, _, err = net.SplitHostPort(u.Host)
	return err != nil && strings.Contains(u.Host, ":")
}
