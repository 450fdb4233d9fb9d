package lifeguard

import (
	"context"
	"database/sql/driver"
	"errors"
	"hash/maphash"
	"reflect"
	"strings"

	"github.com/lib/pq"
)

// statementCache keeps prepared statements on one session, by their text, the least recently used out first. It belongs
// to whoever owns the session.
//
// A driver that is given a query with arguments has to prepare it first: lib/pq needs two round trips, MySQL's three. On
// a kept statement it is one. And a statement of db.Prepare, which database/sql prepares again on each connection it
// meets, is prepared once on each.
//
// A statement means what it meant when it was prepared, also after the connection has been told that names, time zones
// or tables are others now. So the cache follows what is said on the connection: see observe.
type statementCache struct {
	max    int  // 0: nothing is kept
	direct bool // queries with arguments run on kept statements too, not only what was prepared by the handle
	kind   driverKind
	pooler poolerState

	onePiece bool // lib/pq sends queries with their arguments: see binaryParameters

	byText     map[string]*prepared
	head, tail *prepared // most and least recently used
	rows       int       // open results of the session, of whatever origin
	directRows int       // those of direct queries that ran on kept statements
	copies     int       // COPY statements that are open

	schema    int   // counts changes after which a statement may mean something else; those prepared before are stale
	moved     int64 // Pool.schema as far as it is in schema
	inHand    bool  // a transaction was begun by hand
	forgot    bool  // the server was told to forget all statements, which explains why it does not know one
	unsettled bool  // such a change was made in this transaction, whose end may undo it: until then nothing is kept

	wasted int      // statements in a row that were closed for others without having been used again
	seen   []uint64 // hashes of texts that were not kept: see worth
}

// prepared is a statement on a session: one of the cache, or one that is not kept and closes when nobody uses it.
type prepared struct {
	text    string
	cache   *statementCache
	parent  driver.Stmt
	execer  driver.StmtExecContext
	queryer driver.StmtQueryContext
	checker driver.NamedValueChecker

	kept       bool // it is in the cache
	copying    bool // it is lib/pq's COPY: while it is open, the connection can do nothing else
	lost       bool // the server does not know it any more, or its result type has changed
	used       bool // more than once
	refs       int  // open stmts and rows; while there are any it is not closed
	schema     int  // statementCache.schema when it was prepared
	stale      int  // statementCache.schema when it was first met as stale
	prev, next *prepared
}

// driverKind is a driver whose ways with statements are known. Statements are kept for these alone: another driver may
// prepare nothing on the server (SQLite), keep statements itself, or count on each Prepare being seen (go-sqlmock).
type driverKind uint8

const (
	otherDriver driverKind = iota
	libPQ
	goMySQL   // answers queries with arguments with ErrSkip, so that database/sql prepares them
	pgxStdlib // keeps statements of direct queries itself
)

// kindOf tells a driver by the package that its connection's type is from.
func kindOf(conn driver.Conn) driverKind {
	t := reflect.TypeOf(conn)
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch path := t.PkgPath(); {
	case path == "github.com/lib/pq":
		return libPQ
	case path == "github.com/go-sql-driver/mysql":
		return goMySQL
	case strings.HasPrefix(path, "github.com/jackc/pgx/") && strings.HasSuffix(path, "/stdlib"):
		return pgxStdlib
	default:
		return otherDriver
	}
}

func newStatementCache(p *Pool, conn driver.Conn) statementCache {
	c := statementCache{kind: kindOf(conn)}
	// pgx keeps statements by itself, and looks them up by their text: one that is left open after its Close would be
	// used by queries that were to run in another of its modes.
	if (c.kind == libPQ || c.kind == goMySQL) && !p.cfg.PgBouncer {
		c.max = p.cfg.StatementCacheSize
	}
	// With binary_parameters lib/pq needs one round trip by itself, and who sets it may well do so because named
	// statements do not work behind his pooler.
	c.onePiece = c.kind == libPQ && binaryParameters(conn, p)
	c.direct = c.max > 0 && c.kind == libPQ && !c.onePiece
	return c
}

// errQueryInProgress is lib/pq's answer to a query on a connection whose last result has not been read. Its statements
// do not look after that, so it is done here for those that stand in for its queries.
var errQueryInProgress = errors.New("pq: there is already a query being processed on this connection")

// forQuery gives the kept statement on which a query with arguments runs; nil if it is to be left to the driver. It
// is called only if statements are kept at all.
func (s *session) forQuery(ctx context.Context, query string, args []driver.NamedValue) (*prepared, error) {
	c := &s.kept
	switch {
	case c.directRows > 0:
		return nil, errQueryInProgress
	case len(args) == 0 || !c.direct:
		s.observe(query)
		return nil, nil
	case c.busy():
		return nil, nil // the driver says so, in its words
	}
	return s.keep(ctx, query)
}

// busy says whether the connection is in the middle of something, so that nothing can be prepared or closed on it.
func (c *statementCache) busy() bool { return c.rows > 0 || c.copies > 0 }

// inTransaction says whether the session is in a transaction, as far as one can know. It is asked rarely.
func (s *session) inTransaction() bool {
	if inTx, known := serverTransaction(s.conn); known {
		return inTx
	}
	l := s.lease.Load()
	return s.kept.inHand || l == nil || l.state.inTx()
}

// settle takes note of what has changed since the session was last used.
func (s *session) settle() {
	c := &s.kept
	if moved := s.pool.schema.Load(); moved != c.moved {
		c.moved = moved
		c.schema++
	}
	if c.unsettled && !s.inTransaction() {
		c.unsettled = false
	}
}

// atHand finds the statement for query, if it is kept and means what it would mean now.
func (s *session) atHand(query string) *prepared {
	c := &s.kept
	if c.max == 0 {
		return nil
	}
	s.settle()
	k := c.byText[query]
	if k == nil || k.schema != c.schema || c.unsettled || k.lost {
		return nil
	}
	s.hits.Store(s.hits.Load() + 1)
	k.used = true
	c.use(k)
	return k
}

// keep finds the statement for query, or prepares it; nil if it is not to run on a kept one.
func (s *session) keep(ctx context.Context, query string) (*prepared, error) {
	if k := s.atHand(query); k != nil {
		return k, nil
	}
	c := &s.kept
	k := c.byText[query]
	switch {
	case c.busy():
		return nil, nil
	case k == nil && !keepable(query):
		s.observe(query)
		return nil, nil
	case c.unsettled:
		return nil, nil
	case k != nil && k.stale != c.schema:
		// To prepare it again takes a round trip more than to leave it to the driver, so it has to prove that it is
		// worth it: services that change a setting before each transaction would pay each time, for nothing.
		k.stale = c.schema
		return nil, nil
	case k != nil:
		s.misses.Store(s.misses.Load() + 1)
		if err := s.prepareAgain(ctx, k); err != nil {
			return nil, s.explain(err)
		}
		c.use(k)
		return k, nil
	}
	if ok, err := s.trusted(ctx); !ok || err != nil {
		return nil, err
	}
	if !s.makeRoom(query) {
		return nil, nil
	}
	k = &prepared{text: query, cache: c, kept: true, stale: -1}
	s.misses.Store(s.misses.Load() + 1)
	if err := s.prepareNow(ctx, k); err != nil {
		return nil, s.explain(err)
	}
	if c.byText == nil {
		c.byText = make(map[string]*prepared)
	}
	c.byText[query] = k
	c.pushFront(k)
	return k, nil
}

// prepareNow has the driver prepare k.
func (s *session) prepareNow(ctx context.Context, k *prepared) error {
	parent, err := s.prepare(ctx, k.text)
	if err != nil {
		return err
	}
	k.parent, k.schema, k.lost = parent, s.kept.schema, false
	k.execer, _ = parent.(driver.StmtExecContext)
	k.queryer, _ = parent.(driver.StmtQueryContext)
	k.checker, _ = parent.(driver.NamedValueChecker)
	return nil
}

// prepareFor prepares query for the handle: on a kept statement, if it is one to keep.
func (s *session) prepareFor(ctx context.Context, query string) (*prepared, error) {
	c := &s.kept
	if c.max > 0 {
		if k, err := s.keep(ctx, query); k != nil || err != nil {
			return k, err
		}
	}
	k := &prepared{text: query, cache: c}
	if parent, err := s.unprepared(ctx, query); err != nil {
		return nil, err
	} else if parent != nil {
		k.parent, k.execer, k.queryer = parent, parent, parent
		return k, nil
	}
	if err := s.prepareNow(ctx, k); err != nil {
		return nil, s.explain(err)
	}
	if c.kind == libPQ && k.parent.NumInput() < 0 {
		k.copying = true
		c.copies++
	}
	return k, nil
}

// prepareAgain replaces what k stands for on the server.
func (s *session) prepareAgain(ctx context.Context, k *prepared) error {
	_ = k.parent.Close() // it may not exist any more
	if err := s.prepareNow(ctx, k); err != nil {
		k.lost = true // for those who have it open
		s.kept.drop(k)
		return err
	}
	return nil
}

// makeRoom sees to it that one more statement fits, closing the least recently used that nobody has open.
func (s *session) makeRoom(query string) bool {
	c := &s.kept
	if len(c.byText) < c.max {
		return true
	}
	if !c.worth(query) {
		return false
	}
	for k := c.tail; k != nil; k = k.prev {
		if k.refs > 0 {
			continue
		}
		if k.used {
			c.wasted = 0
		} else {
			c.wasted++
		}
		c.drop(k)
		if err := k.parent.Close(); errors.Is(err, driver.ErrBadConn) {
			s.broke()
		}
		return true
	}
	return false
}

// maxWasted is how many statements in a row may be kept in vain, before the next ones are looked at twice.
const maxWasted = 16

var textSeed = maphash.MakeSeed()

// worth says whether a new statement may take the place of another. As long as statements are used again, any may. If
// they are not, because a program makes up a text for each query, keeping them costs a round trip more than it saves,
// and pushes those out that are used: then only a text that was met shortly before may.
func (c *statementCache) worth(query string) bool {
	if c.wasted < maxWasted {
		return true
	}
	if c.seen == nil {
		c.seen = make([]uint64, c.max)
	}
	hash := maphash.String(textSeed, query)
	place := &c.seen[hash%uint64(len(c.seen))]
	if *place == hash {
		return true
	}
	*place = hash
	return false
}

// failed decides what an error of an operation on k means. If the server no longer knows the statement, or its result
// type has changed, it goes; and outside a transaction it is prepared once more and the answer is true: the operation
// has not run, and may be tried again.
func (s *session) failed(ctx context.Context, k *prepared, err error, direct, retried bool) (again bool, _ error) {
	moved, misplaced := resultTypeChanged(err), direct && hasPosition(err)
	switch {
	case moved, misplaced, statementUnknown(err):
	default:
		return false, err
	}
	if moved && s.pool.schema.Load() == s.kept.moved {
		// A migration is under way. The statements of all connections are prepared again before they fail, too.
		s.pool.schema.Add(1)
	}
	s.settle()
	if k.kept && !misplaced {
		k.lost = true
		s.kept.unsettled = s.inTransaction() // which has failed, and can prepare nothing
	}
	if retried || !k.kept || s.kept.busy() || s.inTransaction() {
		return false, s.explain(err)
	}
	if placed := s.prepareAgain(ctx, k); placed != nil {
		if misplaced {
			return false, placed // the same once more, with the place in its text
		}
		return false, s.explain(err)
	}
	return true, nil
}

// ended looks after a connection on which a kept statement met the end of its context. lib/pq's statements cancel
// the query and keep the connection, as it is for those who prepared them. Its queries give the connection up, and so
// do those that run on statements here.
func (s *session) ended(ctx context.Context, direct bool) {
	if direct && ctx.Err() != nil {
		s.sawEnd = true
		s.bad = true
		s.spoiled = true
	}
}

// execPrepared and queryPrepared run k. direct says that it stands in for a query.
func (s *session) execPrepared(ctx context.Context, k *prepared, args []driver.NamedValue, direct bool) (driver.Result, error) {
	if err := s.beforeUse(ctx, k); err != nil {
		return nil, err
	}
	for retried := false; ; retried = true {
		inner, watched := s.watchFor(ctx, k)
		res, err := k.exec(inner, args)
		if watched {
			s.unwatch()
		}
		if err == nil {
			s.ended(ctx, direct)
			return res, nil
		}
		again, err := s.failed(ctx, k, err, direct, retried)
		if !again {
			s.ended(ctx, direct)
			return res, err
		}
	}
}

func (s *session) queryPrepared(ctx context.Context, k *prepared, args []driver.NamedValue, direct bool) (driver.Rows, error) {
	if err := s.beforeUse(ctx, k); err != nil {
		return nil, err
	}
	for retried := false; ; retried = true {
		inner, watched := s.watchFor(ctx, k)
		rows, err := k.query(inner, args)
		if err == nil {
			s.cancels.fresh = watched
			return rows, nil // the end of ctx is looked after when they are closed
		}
		if watched {
			s.unwatch()
		}
		again, err := s.failed(ctx, k, err, direct, retried)
		if !again {
			s.ended(ctx, direct)
			return rows, err
		}
	}
}

// beforeUse looks after a statement that somebody has prepared and kept open.
func (s *session) beforeUse(ctx context.Context, k *prepared) error {
	c := &s.kept
	switch {
	case k.lost:
		if s.settle(); c.unsettled || c.busy() {
			return nil // the server will say so
		}
		return s.prepareAgain(ctx, k)
	case !k.kept && c.max > 0:
		s.observe(k.text)
	}
	return nil
}

func (k *prepared) exec(ctx context.Context, args []driver.NamedValue) (driver.Result, error) {
	if k.execer != nil {
		return k.execer.ExecContext(ctx, args)
	}
	values, err := positional(ctx, args)
	if err != nil {
		return nil, err
	}
	return k.parent.Exec(values) //lint:ignore SA1019 all that this statement has
}

func (k *prepared) query(ctx context.Context, args []driver.NamedValue) (driver.Rows, error) {
	if k.queryer != nil {
		return k.queryer.QueryContext(ctx, args)
	}
	values, err := positional(ctx, args)
	if err != nil {
		return nil, err
	}
	return k.parent.Query(values) //lint:ignore SA1019 all that this statement has
}

// opened and closedRows follow which results are open on the session: while there are any, nothing can be prepared or
// closed on it.
func (c *statementCache) opened(r *rows) {
	c.rows++
	if r.prepared != nil {
		r.prepared.refs++
	}
	if r.direct {
		c.directRows++
	}
}

func (s *session) closedRows(r *rows) {
	s.kept.rows--
	if r.direct {
		s.kept.directRows--
	}
	cancelled := r.watched && s.unwatch()
	if r.prepared == nil && !cancelled {
		return
	}
	ctx := r.ctx
	if r.bound != nil {
		ctx = r.bound.caller // the end of the bound itself is its own business
	}
	s.ended(ctx, r.direct || r.prepared == nil)
	if r.prepared == nil {
		return
	}
	_ = s.release(r.prepared) // their reader is done, and no error of the statement's is his
}

// release is the end of a stmt's or a result's hold on k.
func (s *session) release(k *prepared) error {
	k.refs--
	if k.kept || k.refs > 0 {
		return nil
	}
	if k.copying {
		k.copying = false
		k.cache.copies--
	}
	return s.close(k)
}

// close closes k's statement, for which most drivers wait for the server.
func (s *session) close(k *prepared) error {
	if s.socket == nil {
		return k.parent.Close()
	}
	if _, chained := k.parent.(*interceptedStmt); s.bad && !chained {
		return driver.ErrBadConn // as lib/pq says of a connection that it has given up; one that is silent it asks
	}
	b := s.boundSocket(context.Background())
	return b.end(k.parent.Close())
}

func (c *statementCache) use(k *prepared) {
	if c.head != k {
		c.unlink(k)
		c.pushFront(k)
	}
}

func (c *statementCache) drop(k *prepared) {
	if k.kept {
		k.kept = false
		c.unlink(k)
		delete(c.byText, k.text)
	}
}

func (c *statementCache) pushFront(k *prepared) {
	k.prev, k.next = nil, c.head
	if c.head != nil {
		c.head.prev = k
	} else {
		c.tail = k
	}
	c.head = k
}

func (c *statementCache) unlink(k *prepared) {
	if k.prev != nil {
		k.prev.next = k.next
	} else {
		c.head = k.next
	}
	if k.next != nil {
		k.next.prev = k.prev
	} else {
		c.tail = k.prev
	}
	k.prev, k.next = nil, nil
}

// statementUnknown says whether the server does not know a prepared statement, or has another of its name:
// PostgreSQL's invalid_sql_statement_name and duplicate_prepared_statement, MySQL's ER_UNKNOWN_STMT_HANDLER.
func statementUnknown(err error) bool {
	switch serverCode(err) {
	case "26000", "42P05", "1243":
		return true
	}
	return false
}

// resultTypeChanged recognises "cached plan must not change result type". PostgreSQL's code for it, 0A000, has many
// other meanings, and its text depends on the language of the server, but the routine that raises it does not.
func resultTypeChanged(err error) bool {
	if serverCode(err) != "0A000" {
		return false
	}
	var e *pq.Error
	if errors.As(err, &e) {
		return e.Routine == "RevalidateCachedQuery"
	}
	return strings.Contains(err.Error(), "cached plan must not change result type")
}

// hasPosition says whether the server rejected the text of a statement and said where. lib/pq shows that place to who
// gave it the text, but not where it runs a statement that was accepted before.
func hasPosition(err error) bool {
	e, ok := err.(*pq.Error) // lib/pq's own, as it comes from there
	return ok && e.Position != "" && e.Code.Class() == "42"
}
