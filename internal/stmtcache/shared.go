package stmtcache

import (
	"context"
	"database/sql/driver"
	"log/slog"
	"sync/atomic"
	"time"

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
// what runs statements on it. With lib/pq's binary_parameters only the program's statements are kept.
func (s *Shared) New(kind libpq.Kind, raw driver.Conn, conn Conn, binaryParameters bool) *Cache {
	c := &Cache{changes: changes{shared: s}, kind: kind, raw: raw, conn: conn, onePiece: binaryParameters}
	if (kind == libpq.LibPQ || kind == libpq.GoMySQL) && !s.PgBouncer && s.Size > 0 {
		c.follows, c.size, c.byText, c.seen = true, s.Size, map[string]*Statement{}, make([]uint64, s.Size)
		c.seenGeneration = s.generation.Load()
	}
	return c
}

// room bounds what a pool keeps on a MySQL server, which bounds the prepared statements of all its clients together
// (max_prepared_stmt_count). It is safe for concurrent use.
//
// All pools leave half of the server's places alone: a program that keeps nothing needs one for each query. Below that, a pool
// takes a quarter of what is left; above, it gives back as much as its part of the excess.
type room struct {
	now    func() int64
	kept   atomic.Int64 // statements that the pool's sessions keep
	budget atomic.Int64 // how many they may keep
	asked  atomic.Int64 // when the server was asked last; 0: never
}

// asking is how often a pool that prepares asks the server how full it is.
const asking = time.Second

// over says whether the pool keeps as many statements as it may, and as many more.
func (r *room) over(more int64) bool {
	return r.asked.Load() != 0 && r.kept.Load() >= r.budget.Load()+more
}

// survey has c ask a MySQL server how full it is, if that is due. If it does not say, nothing more is kept.
func (r *room) survey(ctx context.Context, c *Cache) {
	now, asked := r.now(), r.asked.Load()
	if c.kind != libpq.GoMySQL || asked != 0 && now-asked < int64(asking) || !r.asked.CompareAndSwap(asked, now) {
		return
	}
	most, err := c.ask(ctx, "SELECT @@max_prepared_stmt_count")
	has, err2 := c.ask(ctx, "SHOW GLOBAL STATUS LIKE 'Prepared_stmt_count'")
	switch kept, half := r.kept.Load(), most/2; {
	case err != nil || err2 != nil:
		r.budget.Store(0)
	case has > half:
		r.budget.Store(kept * half / has)
	default:
		r.budget.Store(kept + (half-has)/4)
	}
}

// giveUpAll prepares query on c, after MySQL had no room for it. The pool gives up what it keeps: this session at once, the others at
// their next operations, for which it waits as long as that frees a place, for a second at most.
func (r *room) giveUpAll(ctx context.Context, c *Cache, query string, full error) (driver.Stmt, error) {
	r.asked.Store(r.now())
	r.budget.Store(0)
	for c.drop(c.oldest()) {
	}
	for range 100 {
		st, err := c.conn.Prepare(ctx, query)
		if err == nil || libpq.Code(err) != libpq.Code(full) || r.kept.Load() == 0 {
			return st, err
		}
		select {
		case <-ctx.Done():
			return nil, full
		case <-time.After(10 * time.Millisecond):
		}
	}
	return nil, full
}
