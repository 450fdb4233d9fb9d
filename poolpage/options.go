package poolpage

import "database/sql"

// An Option changes what [Handler] shows.
type Option func(*settings)

type settings struct {
	handles []*sql.DB
	actions bool
	server  *serverView // nil without WithServerView
}

// WithHandles shows the pools of more handles. Handles that share a pool are shown once.
func WithHandles(more ...*sql.DB) Option {
	return func(s *settings) { s.handles = append(s.handles, more...) }
}

// WithActions lets the page change connection_limit and reset the pool. Everybody who reaches the page may do so then; requests
// from other sites are refused, see [net/http.CrossOriginProtection].
func WithActions() Option { return func(s *settings) { s.actions = true } }

// WithServerView shows beside each connection what PostgreSQL says of it in pg_stat_activity: its state, what it waits for,
// and who blocks it. dsn has to lead to the server of the pool, not through a pooler; parameters of lifeguard's in it are
// left out. The page has one connection of its own for that, asks in a read-only transaction, at most once a second and
// only while somebody looks, and waits for a second at most.
//
// The user of dsn sees other users' connections only as a member of pg_monitor. A dsn that is wrong is told on the page.
func WithServerView(dsn string) Option { return func(s *settings) { s.server = newServerView(dsn) } }
