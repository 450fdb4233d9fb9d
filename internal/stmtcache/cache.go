package stmtcache

import (
	"context"
	"database/sql/driver"
	"errors"
	"hash/maphash"
	"log/slog"
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

// stale is a time at which no statement was prepared that is still fresh.
const stale = -int64(validity)

// renewedAfter is how often a statement must have been used within its validity to be prepared again when that has passed.
// To close and prepare one costs two round trips more than it saves at once.
const renewedAfter = 3

// Cache keeps the prepared statements of one session. It belongs to the session's owner and is not safe for concurrent use.
type Cache struct {
	changes
	kind libpq.Kind
	raw  driver.Conn
	conn Conn

	size     int  // 0: nothing is kept
	trusted  bool // the server itself answers here, no pooler
	onePiece bool // lib/pq's binary_parameters: a text and its arguments take one round trip, and need no statement

	byText map[string]*Statement
	eldest *Statement // what oldest gave last; nil if it has to be asked
	seen   []uint64   // see admit

	open     int           // results and COPY; while there are any, nothing is prepared or closed
	openKept int           // those of statements
	closing  []driver.Stmt // to be closed when none is open
	leaving  bool          // the session becomes another lease's
	failed   bool          // an operation failed, perhaps with its transaction: the next Prepare asks the server
}

// errInProgress is lib/pq's answer to a query on a connection whose last result has not been read to its end. Its
// statements do not look after that, so the cache does where a statement stands in for a query.
var errInProgress = errors.New("pq: there is already a query being processed on this connection")

// Exec runs query. If handled is false, nothing has run, and the session runs it on the driver.
func (c *Cache) Exec(ctx context.Context, query string, args []driver.NamedValue) (res driver.Result, handled bool, err error) {
	k, err := c.direct(ctx, query, args)
	if k == nil || err != nil {
		return nil, err != nil, err
	}
	res, err = k.Exec(ctx, args)
	return res, true, err
}

// Query is Exec for a query. k is the prepared statement that it ran on, nil if it ran on none.
func (c *Cache) Query(ctx context.Context, query string, args []driver.NamedValue) (rows driver.Rows, k *Statement, handled bool, err error) {
	k, err = c.direct(ctx, query, args)
	if k == nil || err != nil {
		return nil, nil, err != nil, err
	}
	rows, err = k.Query(ctx, args)
	if k.parent == nil {
		k = nil
	}
	return rows, k, true, err
}

// direct gives what query runs on: a kept statement, or its text if that changes something; nil if it is the driver's alone.
func (c *Cache) direct(ctx context.Context, query string, args []driver.NamedValue) (*Statement, error) {
	switch {
	case !c.follows:
		return nil, nil
	case c.openKept > 0 && c.kind == libpq.LibPQ:
		return nil, errInProgress
	case len(args) == 0 || c.size == 0 || c.kind != libpq.LibPQ || c.onePiece || c.open > 0:
		if does := c.read(query) &^ keepable; does != 0 {
			return &Statement{cache: c, text: query, does: does}, nil
		}
		return nil, nil
	}
	k, err := c.statementFor(ctx, query)
	if k.parent == nil && k.does == 0 {
		return nil, err
	}
	return k, err
}

// read says what query does.
func (c *Cache) read(query string) effect { return read(query, c.kind == libpq.GoMySQL) }

// Prepare prepares query for the program: it gives a statement that is kept from then on if that can be, or else one that ends
// with its Close. The driver's own errors are returned as they are.
//
// The one that is kept already is lent only if the lease before had it open to its end. database/sql prepares the statements of
// a [database/sql.DB] again on each lease, where lib/pq's connection has them already. go-sql-driver/mysql, too, prepares each
// query with arguments.
func (c *Cache) Prepare(ctx context.Context, query string) (*Statement, error) {
	k := &Statement{cache: c, text: query, holder: program}
	switch {
	case c.shared.PgBouncer && (c.kind == libpq.PgxStdlib || c.kind == libpq.LibPQ && verb(query) != "copy"):
		return k, nil // nothing is prepared by a name; lib/pq's COPY has none
	case c.size > 0 && c.open == 0 && !c.failed:
		before := c.byText[query]
		if before != nil && before.holder == nobody && c.kind == libpq.LibPQ {
			before.at, before.uses = stale, renewedAfter // lib/pq asks the server, so this prepares it again
		}
		var err error
		if k, err = c.statementFor(ctx, query); err != nil {
			return nil, err
		}
		if k == before {
			k.holder = lent
			return k, nil
		}
	case c.follows:
		k.does = c.read(query) &^ keepable
	}
	k.holder = program
	if k.parent != nil {
		return k, nil
	}
	parent, err := c.prepare(ctx, query)
	if err != nil {
		return nil, c.Explain(err)
	}
	c.failed = false
	k.parent = parent
	if c.kind == libpq.LibPQ && parent.NumInput() < 0 {
		k.copying, k.does = true, 0
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

// statementFor gives the kept statement for query, one that is kept from now on, or one without a parent, which says what the text
// does. No result is open.
func (c *Cache) statementFor(ctx context.Context, query string) (*Statement, error) {
	quiet := c.shared.changing.Load() == 0 // before follow, which sees what has ended by then
	c.follow()
	k, calm := c.byText[query], quiet && !c.behind()
	if calm && k != nil && !k.holder.open() && k.fresh() {
		c.shared.hits.Add(1)
		return k, nil
	}
	n := &Statement{cache: c, text: query, does: c.read(query)}
	if calm && n.does == keepable && c.admit(ctx, query, k) && c.confirmServer(ctx) {
		return n, c.keep(ctx, n)
	}
	n.does &^= keepable
	return n, nil
}

// keep prepares k and keeps it, in the place of the statement that was kept for its text. Where that cannot be, k is not
// prepared.
func (c *Cache) keep(ctx context.Context, k *Statement) error {
	k.does = 0
	if old := c.byText[k.text]; old != nil {
		k.checked = old.checked // what is known about the text outlives its statement
		c.drop(old)
	}
	if c.shared.over(0) {
		return nil
	}
	k.generation, k.at = c.generation, c.shared.Now()
	c.shared.misses.Add(1)
	parent, err := c.prepare(ctx, k.text)
	if err != nil {
		if libpq.Code(err) == "42P05" {
			return nil // the program has prepared something by such a name
		}
		return c.Explain(err)
	}
	if k.parent = parent; c.shared.over(0) {
		return nil // the server had no room: it ends with the program's use
	}
	k.kept = true
	c.byText[k.text] = k
	c.shared.kept.Add(1)
	return nil
}

var textSeed = maphash.MakeSeed()

// admit says whether query is to be kept now; k is what was kept for it, nil for nothing. If k is stale and not used often, or if
// another has to be closed for it, only if it comes for the second time in this generation and period: texts that are made up
// for one query cost what they cost on the driver. None that is fresh is closed for another.
func (c *Cache) admit(ctx context.Context, query string, k *Statement) bool {
	c.shared.survey(ctx, c)
	old := k != nil && !k.holder.open()
	if old && k.uses >= renewedAfter || !old && len(c.byText) < c.size && !c.shared.over(0) {
		return true
	}
	hash := maphash.String(textSeed, query)
	place := &c.seen[hash%uint64(len(c.seen))]
	hash += c.generation<<32 + uint64(c.shared.Now())/uint64(validity)
	again := *place == hash
	if *place = hash; old || !again {
		return again
	}
	if c.eldest == nil || !c.eldest.fresh() {
		c.eldest = c.oldest()
	}
	return (c.eldest == nil || !c.eldest.fresh()) && c.drop(c.eldest)
}

// confirmServer says whether statements may be kept. It asks before the first one is.
//
// A pooler in transaction mode gives each transaction another server connection. There a name stands for nothing, or for a
// statement of another client: lib/pq numbers them from 1 on every connection. The wrong statement would run. A pooler
// that translates names, such as PgBouncer from 1.21 on, gives all clients the same statement for the same text, however
// old it is: what is prepared again there is not prepared anew. So nothing is kept behind a pooler.
//
// PostgreSQL tells each client the number of its process, for cancelling queries, and a pooler has to tell another.
func (c *Cache) confirmServer(ctx context.Context) bool {
	if c.trusted || c.kind == libpq.GoMySQL {
		return true
	}
	told, ok := libpq.BackendPID(c.raw)
	if !ok {
		c.size = 0
		return false
	}
	pid, err := c.ask(ctx, "SELECT pg_backend_pid()")
	if err != nil {
		return false // the caller's own statement meets the cause
	}
	if pid != told {
		c.size = 0
		if !c.shared.warned.Swap(true) {
			c.shared.Log.Warn("lifeguard: a connection pooler stands before PostgreSQL: the statement cache is off;"+
				" if the pooler is in transaction mode, add pgbouncer=true to the DSN", slog.String("pool", c.shared.Name))
		}
		return false
	}
	c.trusted = true
	return true
}

// prepare prepares query on the driver.
func (c *Cache) prepare(ctx context.Context, query string) (driver.Stmt, error) {
	st, err := c.conn.Prepare(ctx, query)
	if err != nil && c.kind == libpq.GoMySQL && c.open == 0 && libpq.Code(err) == "1461" {
		return c.shared.giveUpAll(ctx, c, query, err)
	}
	return st, err
}

// Explain notes an error of an operation, and says what may have caused it.
func (c *Cache) Explain(err error) error {
	c.failed = c.failed || err != nil && err != driver.ErrSkip // by which MySQL's driver asks for a statement
	if c.forgot {
		return err
	}
	return libpq.ExplainStatement(c.kind, err)
}

// follow takes note of what other sessions have changed, and of how much room they leave.
func (c *Cache) follow() {
	c.notice()
	for c.shared.over(1) && c.drop(c.oldest()) {
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

// oldest gives the statement that was prepared longest ago, nil if the program has all open. One that is used is prepared again
// every few seconds, so this is the one that was not used for longest.
func (c *Cache) oldest() (oldest *Statement) {
	for _, k := range c.byText {
		if !k.holder.open() && (oldest == nil || k.at < oldest.at) {
			oldest = k
		}
	}
	return oldest
}

// drop stops keeping k, and says whether there is one. If the program has it open, the program closes it.
func (c *Cache) drop(k *Statement) bool {
	if k == nil {
		return false
	}
	k.kept, c.eldest = false, nil
	delete(c.byText, k.text)
	c.shared.kept.Add(-1)
	if !k.holder.open() {
		c.closeStmt(k.parent)
	}
	return true
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
