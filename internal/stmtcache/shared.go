package stmtcache

import (
	"database/sql/driver"
	"log/slog"
	"sync/atomic"

	"github.com/go-lifeguard/lifeguard/internal/libpq"
)

// Config says how the caches of a pool work.
type Config struct {
	Size      int          // statements that a session keeps at most; 0 or less: none
	PgBouncer bool         // nothing is prepared by name, not even for the program
	Name      string       // the pool's, for the log
	Log       *slog.Logger // gets one warning at most
	Now       func() int64 // the pool's clock, in nanoseconds
}

// Shared is what the caches of one pool share. It is safe for concurrent use.
type Shared struct {
	Config

	// generation moves after a change that every session sees. A statement is of the generation that was current before
	// it was prepared: so none that was prepared before a change is used after the change was announced.
	generation atomic.Uint64

	// changing counts the changes under way. A statement that was prepared before one and runs into its locks would go on
	// when it has ended, and mean what it meant before: so while there is any, queries run as the driver runs them.
	changing atomic.Int64

	hits, misses, retries atomic.Uint64
	warned                atomic.Bool

	room
}

// NewShared returns what the caches of a pool are made from.
func NewShared(c Config) *Shared { return &Shared{Config: c, room: room{now: c.Now}} }

// Counts returns how many operations found their statement kept, how many had it prepared to be kept, and how many ran once
// more because their statement was stale. None of the three ever goes down.
func (s *Shared) Counts() (hits, misses, retries uint64) {
	return s.hits.Load(), s.misses.Load(), s.retries.Load()
}

// New returns the cache of one session, for the session's owner alone. raw is the wrapped driver's connection, conn
// what runs statements on it. With lib/pq's binary_parameters nothing is kept: a query is one round trip anyway.
func (s *Shared) New(kind libpq.Kind, raw driver.Conn, conn Conn, binaryParameters bool) *Cache {
	c := &Cache{changes: changes{shared: s}, kind: kind, raw: raw, conn: conn}
	if (kind == libpq.LibPQ && !binaryParameters || kind == libpq.GoMySQL) && !s.PgBouncer && s.Size > 0 {
		c.follows, c.size = true, s.Size
		c.seenGeneration = s.generation.Load()
	}
	return c
}
