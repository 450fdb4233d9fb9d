package libpq

import (
	"fmt"
	"strings"

	"github.com/lib/pq"
)

// pgxOnly are parameters that pgx takes out of a DSN. lib/pq passes them on to the server, which refuses them.
var pgxOnly = []string{"default_query_exec_mode", "statement_cache_capacity", "description_cache_capacity"}

// Understands says why lib/pq cannot connect by a DSN that another driver reads. The error may show dsn.
func Understands(dsn string) error {
	if strings.HasPrefix(dsn, "registeredConnConfig") {
		return fmt.Errorf("it is a name of pgx's RegisterConnConfig")
	}
	cfg, err := pq.NewConfig(dsn)
	if err != nil {
		return err
	}
	for _, name := range pgxOnly {
		if _, ok := cfg.Runtime[name]; ok {
			return fmt.Errorf("only pgx knows %s", name)
		}
	}
	for name := range cfg.Runtime {
		if strings.HasPrefix(name, "pool_") {
			return fmt.Errorf("only pgxpool knows %s", name)
		}
	}
	return nil
}
