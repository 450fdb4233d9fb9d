package stmtcache

import (
	"context"
	"database/sql/driver"
	"errors"
	"hash/maphash"
	"time"

	"github.com/go-lifeguard/lifeguard/internal/libpq"
)

// Conn runs statements on the wrapped connection, with database/sql's fallbacks for what the driver lacks. The cache's own
// questions to the server go through it, too.
type Conn interface {
	Prepare(ctx context.Context, query string) (driver.Stmt, error)
	Query(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error)
	Exec(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error)
}

// validity bounds the use of a statement: changes by clients outside the pool go unnoticed for so long at the most.
const validity = 5 * time.Second

// renewedAfter is how often a statement must have been used within its validity to be prepared again when that has passed.
// To close and prepare one costs two round trips more than it saves at once.
const renewedAfter = 3

// Cache keeps the prepared statements of one session. It belongs to the session's owner and is not safe for concurrent use.
type Cache struct {
	changes
	kind libpq.Kind
	raw  driver.Conn
	conn Conn

	size    int  // 0: nothing is kept
	trusted bool // the server itself answers here, no pooler

	byText  map[string]*Statement
	lookups uint64 // dates the last use of a statement

	open     int           // results and COPY; while there are any, nothing is prepared or closed
	openKept int           // those of statements
	closing  []driver.Stmt // to be closed when none is open
	leaving  bool          // the session becomes another lease's
	failed   bool          // an operation failed, perhaps with its transaction: the next Prepare asks the server

	seen []uint64 // see worth
}

// errInProgress is lib/pq's answer to a query on a connection whose last result has not been read to its end. Its
// statements do not look after that, so the cache does where a statement stands in for a query.
var errInProgress = errors.New("pq: there is already a query being processed on this connection")

// Exec runs query. If handled is false, nothing has run, and the session runs it on the driver.
func (c *Cache) Exec(ctx context.Context, query string, args []driver.NamedValue) (res driver.Result, handled bool, err error) {
	k, does, err := c.direct(ctx, query, args)
	switch {
	case err != nil:
		return nil, true, err
	case k != nil:
		res, err = k.Exec(ctx, args)
		return res, true, err
	case does == 0:
		return nil, false, nil
	}
	c.begin(does)
	res, err = c.conn.Exec(ctx, query, args)
	c.end(does)
	return res, true, c.Explain(err)
}

// Query is Exec for a query. k is the statement that it ran on, nil if it ran on none.
func (c *Cache) Query(ctx context.Context, query string, args []driver.NamedValue) (rows driver.Rows, k *Statement, handled bool, err error) {
	k, does, err := c.direct(ctx, query, args)
	switch {
	case err != nil:
		return nil, nil, true, err
	case k != nil:
		rows, err = k.Query(ctx, args)
		return rows, k, true, err
	case does == 0:
		return nil, nil, false, nil
	}
	c.begin(does)
	rows, err = c.conn.Query(ctx, query, args)
	c.endQuery(does, err)
	return rows, nil, true, c.Explain(err)
}

// direct finds the statement on which a query runs; if it runs on none, what it does to others.
func (c *Cache) direct(ctx context.Context, query string, args []driver.NamedValue) (*Statement, effect, error) {
	switch {
	case !c.follows:
		return nil, 0, nil
	case c.openKept > 0 && c.kind == libpq.LibPQ:
		return nil, 0, errInProgress
	case len(args) == 0 || c.size == 0 || c.kind != libpq.LibPQ || c.open > 0:
		return nil, read(query, c.kind == libpq.GoMySQL) &^ keepable, nil
	}
	return c.find(ctx, query)
}

// Prepare prepares query for the program: it gives a statement that is kept from then on if that can be, or else one that ends
// with its Close. The driver's own errors are returned as they are.
//
// The one that is kept already is lent only if the lease before had it open to its end. database/sql prepares the statements of
// a [database/sql.DB] again on each lease, where lib/pq's connection has them already. go-sql-driver/mysql, too, prepares each
// query with arguments.
func (c *Cache) Prepare(ctx context.Context, query string) (*Statement, error) {
	if st := c.unprepared(query); st != nil {
		return &Statement{cache: c, text: query, parent: st, holder: program}, nil
	}
	var does effect
	if before := c.byText[query]; c.size > 0 && c.open == 0 && !c.failed {
		if before != nil && before.holder == nobody && c.kind == libpq.LibPQ {
			before.at = stale // asked to prepare, lib/pq asks the server
		}
		k, e, err := c.find(ctx, query)
		if k != nil {
			if k.holder = program; k == before {
				k.holder = lent
			}
		}
		if k != nil || err != nil {
			return k, err
		}
		does = e
	} else if c.follows {
		does = read(query, c.kind == libpq.GoMySQL) &^ keepable
	}
	parent, err := c.prepare(ctx, query)
	if err != nil {
		return nil, c.Explain(err)
	}
	c.failed = false
	k := &Statement{cache: c, text: query, parent: parent, holder: program, does: does}
	if c.kind == libpq.LibPQ && parent.NumInput() < 0 {
		k.copying = true
		c.open++
	}
	return k, nil
}

// TakeOver says that the session becomes another lease's. closeOpen closes what the lease before has left open.
func (c *Cache) TakeOver(closeOpen func()) {
	c.leaving = true
	closeOpen()
	c.leaving = false
}

// find gives the kept statement for query, preparing it if that is worth it; if there is none, what query does to
// others. No result is open.
func (c *Cache) find(ctx context.Context, query string) (*Statement, effect, error) {
	c.follow()
	c.lookups++
	k := c.byText[query]
	if c.shared.changing.Load() > 0 || c.behind() {
		return nil, read(query, c.kind == libpq.GoMySQL) &^ keepable, nil
	}
	if k != nil && !k.holder.open() {
		if k.fresh() {
			c.shared.hits.Add(1)
			k.used = c.lookups
			return k, 0, nil
		}
		if k.uses >= renewedAfter {
			k, err := c.keep(ctx, query)
			return k, 0, err
		}
	}
	does := read(query, c.kind == libpq.GoMySQL)
	if does != keepable {
		return nil, does, nil
	}
	if !c.worth(query, k) || !c.trust(ctx) {
		return nil, 0, nil
	}
	k, err := c.keep(ctx, query)
	return k, 0, err
}

// keep prepares query to be kept, in the place of the statement that was kept for it. It gives nil where that cannot be.
func (c *Cache) keep(ctx context.Context, query string) (*Statement, error) {
	old := c.byText[query]
	if old != nil {
		c.drop(old)
	}
	if c.kind == libpq.GoMySQL {
		c.shared.survey(ctx, c)
	}
	for len(c.byText) >= c.size || c.shared.full(0) {
		if !c.dropOldest() {
			return nil, nil
		}
	}
	generation, now := c.generation, c.shared.Now()
	c.shared.misses.Add(1)
	parent, err := c.prepare(ctx, query)
	if err != nil {
		if libpq.Code(err) == "42P05" {
			return nil, nil // the program has prepared something by such a name
		}
		return nil, c.Explain(err)
	}
	k := &Statement{cache: c, text: query, parent: parent, generation: generation, at: now, used: c.lookups}
	if old != nil {
		k.checked = old.checked // what is known about the text outlives its statement
	}
	if c.shared.full(0) {
		return k, nil // the server had no room
	}
	if c.byText == nil {
		c.byText = make(map[string]*Statement)
	}
	k.kept = true
	c.byText[query] = k
	c.shared.kept.Add(1)
	return k, nil
}

var textSeed = maphash.MakeSeed()

// worth says whether a text that is not kept, or whose statement k is stale, is to be kept now. As long as nothing has to be
// closed for it, it is: to prepare it is what the driver does anyway. Otherwise it must have been met before within this
// generation and period, so that a text that is made up for one query pushes out nothing.
func (c *Cache) worth(query string, k *Statement) bool {
	if k == nil && len(c.byText) < c.size && !c.shared.full(0) {
		return true
	}
	if c.seen == nil {
		c.seen = make([]uint64, c.size)
	}
	hash := maphash.String(textSeed, query)
	place := &c.seen[hash%uint64(len(c.seen))]
	hash += c.generation<<32 + uint64(c.shared.Now())/uint64(validity)
	if *place == hash {
		return true
	}
	*place = hash
	return false
}

// follow takes note of what other sessions have changed, and of how much room they leave.
func (c *Cache) follow() {
	c.notice()
	for c.shared.full(1) && c.dropOldest() {
	}
}

// Opened says that a result is open on the session: of k, or of a query that ran on no statement if k is nil. While
// any is open, the cache prepares and closes nothing.
func (c *Cache) Opened(k *Statement) {
	c.open++
	if k != nil {
		c.openKept++
	}
}

// Closed says that a result has been closed.
func (c *Cache) Closed(k *Statement) {
	c.open--
	if k != nil {
		c.openKept--
	}
	if c.open > 0 {
		return
	}
	c.end(c.late)
	c.late = 0
	for _, st := range c.closing {
		_ = st.Close() // the reader is done, and no error of the statement's concerns it
	}
	c.closing = nil
}

// Close says that the session has been closed, and its statements with it.
func (c *Cache) Close() {
	c.shared.kept.Add(-int64(len(c.byText)))
	c.byText, c.size = nil, 0
	c.unchanging() // by an operation that has panicked, or a result that was not closed
}

// dropOldest closes the least recently used statement that the program has not open. The round trip takes longer than the search.
func (c *Cache) dropOldest() bool {
	var oldest *Statement
	for _, k := range c.byText {
		if !k.holder.open() && (oldest == nil || k.used < oldest.used) {
			oldest = k
		}
	}
	if oldest == nil {
		return false
	}
	c.drop(oldest)
	return true
}

// drop stops keeping k. If the program has it open, the program closes it.
func (c *Cache) drop(k *Statement) {
	k.kept = false
	delete(c.byText, k.text)
	c.shared.kept.Add(-1)
	if !k.holder.open() {
		c.closeStmt(k.parent)
	}
}

// closeStmt closes st as soon as no result is open. If that breaks the connection, the next operation on it says so.
// Where nothing is kept, the driver sees its statements closed when the program closes them.
func (c *Cache) closeStmt(st driver.Stmt) error {
	if c.follows && c.open > 0 {
		c.closing = append(c.closing, st)
		return nil
	}
	return st.Close()
}
