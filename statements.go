package lifeguard

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"reflect"
	"strconv"
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
		res, err := k.exec(ctx, args)
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
		rows, err := k.query(ctx, args)
		if err == nil {
			return rows, nil // the end of ctx is looked after when they are closed
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
	if r.prepared == nil {
		return
	}
	ctx := r.ctx
	if r.bound != nil {
		ctx = r.bound.caller // the end of the bound itself is its own business
	}
	s.ended(ctx, r.direct)
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

// observe looks at what is not kept for what it does to statements that are. What a function or a procedure does
// from inside cannot be seen.
func (s *session) observe(query string) {
	c := &s.kept
	for len(query) > 0 {
		statement, rest, sure := cutStatement(query, c.kind)
		if !sure {
			c.change(false) // whatever it is
		}
		c.observeOne(statement)
		query = rest
	}
}

// observeOne looks at a single statement. What it does not know changes everything: to have a statement prepared again
// costs little, to run one that means something else is wrong.
func (c *statementCache) observeOne(statement string) {
	verb, rest := leadingVerb(statement)
	switch verb {
	case "BEGIN", "START":
		c.inHand = true
	case "COMMIT", "END", "ABORT", "ROLLBACK":
		if word, _ := leadingVerb(rest); word != "TO" {
			c.inHand = false
		}
	case "SELECT", "WITH":
		if makesTable(rest) {
			c.change(false)
		}
	case "EXPLAIN":
		if containsFold(rest, "analy") && (makesTable(rest) || containsFold(rest, "create") || containsFold(rest, "execute")) {
			c.change(false) // it is run
		}
	case "DISCARD", "DEALLOCATE":
		// Statements that were prepared by hand have other names than a driver's, and may come and go.
		if verb == "DISCARD" || containsFold(rest, "all") {
			c.change(false)
			c.forgot = true
		}
	case "SET":
		if c.matters(rest) {
			word, _ := leadingVerb(rest)
			c.change(word == "LOCAL")
		}
	case "RESET":
		if c.matters(rest) {
			c.change(false)
		}
	case "INSERT", "UPDATE", "DELETE", "MERGE", "REPLACE", "VALUES", "TABLE", "TRUNCATE", "COPY", "CALL", "LOCK", "UNLOCK",
		"SAVEPOINT", "RELEASE", "LISTEN", "UNLISTEN", "NOTIFY", "DECLARE", "FETCH", "MOVE", "CLOSE", "SHOW",
		"DESCRIBE", "PREPARE", "ANALYZE", "VACUUM", "CHECKPOINT", "GRANT", "REVOKE", "COMMENT", "KILL", "FLUSH", "":
		if verb == "" && rest != "" {
			c.change(false)
		}
	default: // ALTER, CREATE, DROP, USE, DO, EXECUTE and others
		c.change(false)
	}
	if setsConfig(rest) {
		c.change(false)
	}
}

// cutStatement cuts the first of several statements off. sure is false if it depends on settings of the server where
// it ends, or on a syntax that is not understood here.
func cutStatement(query string, kind driverKind) (statement, rest string, sure bool) {
	if strings.IndexByte(query, ';') < 0 {
		return query, "", true
	}
	for i := 0; i < len(query); {
		end := i + 1
		switch ch := query[i]; {
		case ch == ';':
			return query[:i], query[end:], true
		case ch == '\'' || ch == '"' || ch == '`' && kind == goMySQL:
			n := strings.IndexByte(query[end:], ch)
			// A quote that is doubled ends one string and begins another, which comes to the same.
			if n < 0 || strings.IndexByte(query[end:end+n], '\\') >= 0 {
				return query, "", false
			}
			end += n + 1
		case ch == '-' && strings.HasPrefix(query[end:], "-"), ch == '#' && kind == goMySQL:
			n := strings.IndexByte(query[i:], '\n')
			if n < 0 {
				return query, "", true
			}
			if strings.IndexByte(query[i:i+n], '\r') >= 0 {
				return query, "", false // which ends it in PostgreSQL, and not in MySQL
			}
			end = i + n
		case ch == '/' && strings.HasPrefix(query[end:], "*"):
			n := strings.Index(query[i+2:], "*/")
			if n < 0 || strings.Contains(query[i+2:i+2+n], "/*") || strings.HasPrefix(query[i+2:], "!") {
				return query, "", false
			}
			end = i + n + 4
		case ch == '$' && kind != goMySQL && (i == 0 || !isWordByte(query[i-1])):
			tag := 1
			for i+tag < len(query) && isWordByte(query[i+tag]) && query[i+tag] != '$' {
				tag++
			}
			if i+tag == len(query) || query[i+tag] != '$' || query[end] >= '0' && query[end] <= '9' {
				break // $1
			}
			quote := query[i : i+tag+1]
			n := strings.Index(query[i+len(quote):], quote)
			if n < 0 {
				return query, "", false
			}
			end = i + n + 2*len(quote)
		}
		i = end
	}
	return query, "", true
}

// isWordByte says whether c may be in a name without quotes.
func isWordByte(c byte) bool {
	return c == '_' || c == '$' || c >= '0' && c <= '9' || c|0x20 >= 'a' && c|0x20 <= 'z' || c >= 0x80
}

// change notes that statements may mean something else from now on; local, that this ends with the transaction.
func (c *statementCache) change(local bool) {
	if !local {
		c.schema++
	}
	c.unsettled = true
}

// matters says whether a SET or RESET may change what a statement means that was prepared before: the tables that
// its names stand for, or the values of its literals, which depend on the time zone, the style of dates, and more. So
// all settings do but those that are known not to.
func (c *statementCache) matters(rest string) bool {
	if c.kind == goMySQL {
		return containsFold(rest, "sql_mode") || containsFold(rest, "names") || containsFold(rest, "char") || containsFold(rest, "collation")
	}
	name := strings.TrimLeft(rest, " \t\r\n")
	for _, scope := range []string{"session ", "local "} {
		if len(name) > len(scope) && strings.EqualFold(name[:len(scope)], scope) {
			name = strings.TrimLeft(name[len(scope):], " \t\r\n")
			break
		}
	}
	if end := strings.IndexAny(name, " =\t\r\n;"); end >= 0 {
		name = name[:end]
	}
	return !harmless(name)
}

// harmless says whether a PostgreSQL setting of that name has no part in what a statement means.
func harmless(name string) bool {
	name = strings.ToLower(name)
	if strings.Contains(name, ".") { // a program's own
		return true
	}
	switch name {
	case "application_name", "characteristics", "client_min_messages", "constraints", "deadlock_timeout",
		"default_transaction_deferrable", "default_transaction_isolation", "default_transaction_read_only",
		"effective_cache_size", "idle_in_transaction_session_timeout", "idle_session_timeout", "lock_timeout",
		"maintenance_work_mem", "plan_cache_mode", "statement_timeout", "synchronous_commit", "temp_buffers",
		"transaction", "transaction_timeout", "work_mem":
		return true
	}
	for _, prefix := range []string{"enable_", "jit", "log_", "track_"} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return strings.HasSuffix(name, "_cost")
}

// makesTable recognises SELECT … INTO in the text after the verb, at the price of a few others.
func makesTable(rest string) bool {
	for i := 0; i+len("into") <= len(rest); i++ {
		if rest[i]|0x20 != 'i' || !strings.EqualFold(rest[i:i+len("into")], "into") ||
			i > 0 && isWordByte(rest[i-1]) || i+len("into") < len(rest) && isWordByte(rest[i+len("into")]) {
			continue
		}
		before := strings.TrimRight(rest[:i], " \t\r\n\v\f")
		word := len(before)
		for word > 0 && isWordByte(before[word-1]) {
			word--
		}
		if before = before[word:]; !strings.EqualFold(before, "insert") && !strings.EqualFold(before, "merge") {
			return true
		}
	}
	return false
}

// setsConfig recognises a query that changes a setting which matters by way of PostgreSQL's function for it.
func setsConfig(rest string) bool {
	const function = "set_config"
	for i := 0; i+len(function) <= len(rest); i++ {
		if rest[i]|0x20 != 's' || !strings.EqualFold(rest[i:i+len(function)], function) {
			continue
		}
		name := strings.TrimLeft(rest[i+len(function):], " \t\r\n(")
		if !strings.HasPrefix(name, "'") {
			return true
		}
		if name, _, _ = strings.Cut(name[1:], "'"); !harmless(name) {
			return true
		}
	}
	return false
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

// maxKept bounds the text of a statement that is kept. A longer one, such as an INSERT of thousands of rows, takes so
// long that a round trip does not count, and its plan takes megabytes on the server.
const maxKept = 16 << 10

// keepable says whether query is one statement, of a kind that means the same whether it is prepared or not.
func keepable(query string) bool {
	if len(query) > maxKept {
		return false
	}
	verb, rest := leadingVerb(query)
	switch verb {
	case "SELECT", "WITH":
		if makesTable(rest) {
			return false
		}
	case "INSERT", "UPDATE", "DELETE", "MERGE", "VALUES":
	default:
		return false
	}
	if setsConfig(rest) {
		return false
	}
	// Several statements cannot be prepared as one. A semicolon in a literal is taken for one between them: such a
	// query costs what it costs on the plain driver.
	semicolon := strings.IndexByte(query, ';')
	return semicolon < 0 || strings.Trim(query[semicolon:], "; \t\r\n") == ""
}

// leadingVerb gives the first word of query in upper case, after white space, comments and parentheses, and what
// follows it. If there is none it is "", and so it is with all that is there as the rest if that is not understood.
func leadingVerb(query string) (verb, rest string) {
	for {
		query = strings.TrimLeft(query, " \t\r\n\v\f(")
		switch {
		case strings.HasPrefix(query, "--"):
			line, after, found := strings.Cut(query, "\n")
			if strings.IndexByte(line, '\r') >= 0 {
				return "", query // which ends it in PostgreSQL, and not in MySQL
			}
			if !found {
				return "", ""
			}
			query = after
		case strings.HasPrefix(query, "/*"):
			// A comment that MySQL executes, or one inside another as PostgreSQL has them, is not worth understanding.
			end := strings.Index(query[2:], "*/") + 2
			if end < 2 || strings.HasPrefix(query, "/*!") || strings.Contains(query[2:end], "/*") {
				return "", query
			}
			query = query[end+2:]
		default:
			end := 0
			var upper [10]byte // DEALLOCATE
			for end < len(query) && end < len(upper) && (query[end]|0x20 >= 'a' && query[end]|0x20 <= 'z') {
				upper[end] = query[end] &^ 0x20
				end++
			}
			if end < len(query) && isWordByte(query[end]) {
				return "", query
			}
			return string(upper[:end]), query[end:]
		}
	}
}

// containsFold looks for lower, in lower case, in s in any case.
func containsFold(s, lower string) bool {
	for i := 0; i+len(lower) <= len(s); i++ {
		if s[i]|0x20 == lower[0]|0x20 && strings.EqualFold(s[i:i+len(lower)], lower) {
			return true
		}
	}
	return false
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

const poolerHint = "; prepared statements do not survive a pooler in transaction mode: " +
	"if there is one, such as PgBouncer, add pgbouncer=true to the DSN"

// explain adds to an error that is a riddle to whoever meets it for the first time. lib/pq's errors keep their type.
func (s *session) explain(err error) error {
	c := &s.kept
	switch {
	case c.kind != libPQ && c.kind != pgxStdlib, c.forgot:
		return err
	case statementUnknown(err):
	case c.pooler == poolerRaw && serverCode(err) == "08P01": // another client's, with another number of arguments
	default:
		return err
	}
	if e, ok := err.(*pq.Error); ok { // lib/pq's own, as it comes from there
		explained := *e
		explained.Message += poolerHint
		return &explained
	}
	return &lostStatementError{err}
}

// explainQuery is explain for queries that lib/pq runs on a statement without a name, which can be lost, too.
func (s *session) explainQuery(err error, args []driver.NamedValue) error {
	if len(args) == 0 || s.kept.kind != libPQ {
		return err
	}
	return s.explain(err)
}

// lostStatementError is an explained error of a driver whose own type is not known here.
type lostStatementError struct{ error }

func (e *lostStatementError) Error() string { return e.error.Error() + poolerHint }
func (e *lostStatementError) Unwrap() error { return e.error }

// poolerState is what is known about what stands between a session and its server.
type poolerState uint8

const (
	poolerUnknown poolerState = iota
	poolerNone                // the server itself, or nothing that can be told from it
	poolerNames               // a pooler that keeps the statements of its clients apart
	poolerRaw                 // one that does not, or of which it is not known
)

// trusted says whether statements may be kept: that those prepared on the session will be found there again.
//
// A pooler in transaction mode that knows nothing of prepared statements would give each transaction another server
// connection, on which a name stands for nothing, or for a statement of another client: lib/pq numbers them from 1 on
// every connection. The wrong statement would run. So it is looked for before the first statement: PostgreSQL gives
// its process number to each client for cancelling queries, and a pooler has to give another.
func (s *session) trusted(ctx context.Context) (bool, error) {
	c := &s.kept
	if c.pooler != poolerUnknown {
		return true, nil
	}
	if c.kind != libPQ { // pgx names statements after their text, MySQL's protocol does not let clients name them
		c.pooler = poolerNone
		return true, nil
	}
	told, ok := cancelProcess(s.conn)
	if !ok {
		c.pooler = poolerNone
		return true, nil
	}
	pid, err := s.ask(ctx, "SELECT pg_backend_pid()")
	if err != nil {
		return false, s.ignorable(ctx, err)
	}
	if pid == told {
		c.pooler = poolerNone
		return true, nil
	}
	verdict := poolerState(s.pool.pooler.Load())
	if verdict == poolerUnknown {
		if s.inTransaction() {
			return false, nil // which trying out might spoil
		}
		if verdict, err = s.tryNames(ctx); err != nil {
			return false, s.ignorable(ctx, err)
		}
		if s.pool.pooler.Swap(int32(verdict)) == int32(poolerUnknown) && verdict == poolerRaw {
			s.pool.log.Warn("lifeguard: a connection pooler stands before PostgreSQL that may not keep prepared statements: "+
				"the statement cache is off; if the pooler is in transaction mode, add pgbouncer=true to the DSN",
				slog.String("pool", s.pool.name))
		}
	}
	c.pooler = verdict
	if verdict == poolerRaw {
		c.max = 0
		return false, nil
	}
	return true, nil
}

// ignorable keeps the errors of a look at the server to itself, unless the connection did not survive it: the caller's
// own statement will meet the cause.
func (s *session) ignorable(ctx context.Context, err error) error {
	if errors.Is(err, driver.ErrBadConn) || ctx.Err() != nil || !s.valid() {
		return err
	}
	return nil
}

// tryNames finds out whether a pooler translates the names of statements, as PgBouncer does since 1.21: it prepares one
// and looks it up under the name that the server has for it. All of it in a transaction, which no pooler distributes.
func (s *session) tryNames(ctx context.Context) (verdict poolerState, err error) {
	tx, err := s.begin(ctx, driver.TxOptions{ReadOnly: true})
	if err != nil {
		return poolerUnknown, err
	}
	defer func() {
		if e := tx.Rollback(); err == nil {
			err = e
		}
	}()
	const text = "SELECT count(*) FROM pg_prepared_statements WHERE statement = $1 AND name !~ '^[0-9]+$'"
	st, err := s.prepare(ctx, text)
	if statementUnknown(err) {
		return poolerRaw, nil // another client has the name
	}
	if err != nil {
		return poolerUnknown, err
	}
	k := &prepared{parent: st}
	k.queryer, _ = st.(driver.StmtQueryContext)
	rows, err := k.query(ctx, []driver.NamedValue{{Ordinal: 1, Value: text}})
	if err != nil {
		return poolerUnknown, err
	}
	translated, err := number(rows)
	if err != nil {
		return poolerUnknown, err
	}
	if err := st.Close(); err != nil {
		return poolerUnknown, err
	}
	if translated > 0 {
		return poolerNames, nil
	}
	return poolerRaw, nil
}

// ask runs a query of lifeguard's own that gives a number.
func (s *session) ask(ctx context.Context, query string) (int64, error) {
	rows, err := s.queryDirect(ctx, query, nil)
	if err != nil {
		return 0, err
	}
	return number(rows)
}

// number reads the one number of a result and closes it.
func number(rows driver.Rows) (int64, error) {
	value := make([]driver.Value, 1)
	err := rows.Next(value)
	if e := rows.Close(); err == nil {
		err = e
	}
	if err != nil {
		return 0, err
	}
	n, ok := value[0].(int64)
	if !ok {
		return 0, fmt.Errorf("lifeguard: the server answered with %T where a number was expected", value[0])
	}
	return n, nil
}

// cancelProcess gives the process number that lib/pq was told for cancelling queries. It does not show it; if a later
// version has it under another name, poolers are not recognised.
func cancelProcess(conn driver.Conn) (int64, bool) {
	v := reflect.Indirect(reflect.ValueOf(conn))
	if v.Kind() != reflect.Struct {
		return 0, false
	}
	pid := v.FieldByName("pid")
	if !pid.IsValid() || !pid.CanInt() {
		return 0, false
	}
	return pid.Int(), true
}

// binaryParameters says whether lib/pq was told to use binary_parameters, with which a query and its arguments go to the
// server in one piece. It may have been told in any syntax, or by the connector that OpenDB was given, so it is best asked.
func binaryParameters(conn driver.Conn, p *Pool) bool {
	if v := reflect.Indirect(reflect.ValueOf(conn)); v.Kind() == reflect.Struct {
		if cfg := v.FieldByName("cfg"); cfg.IsValid() && cfg.Kind() == reflect.Struct {
			if b := cfg.FieldByName("BinaryParameters"); b.IsValid() && b.Kind() == reflect.Bool {
				return b.Bool()
			}
		}
	}
	return p.binaryParameters
}

// serverTransaction says whether the server told lib/pq, at the end of the last operation, that the connection is in a
// transaction, which no reading of statements can know for certain: think of COMMIT AND CHAIN, or of a procedure. lib/pq
// does not show that either; without it, what begins and ends transactions is followed by its text.
func serverTransaction(conn driver.Conn) (inTx, known bool) {
	v := reflect.Indirect(reflect.ValueOf(conn))
	if v.Kind() != reflect.Struct || v.Type().PkgPath() != "github.com/lib/pq" {
		return false, false
	}
	status := v.FieldByName("txnStatus")
	if !status.IsValid() || !status.CanUint() {
		return false, false
	}
	switch status.Uint() {
	case 'I':
		return false, true
	case 'T', 'E':
		return true, true
	}
	return false, false
}

// directStmt stands for a prepared statement where none may exist: behind a pooler that gives each transaction another
// server connection, or where statements were turned off. Each execution runs the text, as if it had not been prepared.
type directStmt struct {
	session *session
	text    string
	inputs  int // -1 if it is not known
}

var (
	_ driver.StmtExecContext  = (*directStmt)(nil)
	_ driver.StmtQueryContext = (*directStmt)(nil)
)

func (d *directStmt) Close() error  { return nil }
func (d *directStmt) NumInput() int { return d.inputs }

func (d *directStmt) Exec(args []driver.Value) (driver.Result, error) {
	return d.ExecContext(context.Background(), ordinal(args))
}

func (d *directStmt) Query(args []driver.Value) (driver.Rows, error) {
	return d.QueryContext(context.Background(), ordinal(args))
}

func (d *directStmt) ExecContext(ctx context.Context, args []driver.NamedValue) (driver.Result, error) {
	return d.session.execer.ExecContext(ctx, d.text, args)
}

func (d *directStmt) QueryContext(ctx context.Context, args []driver.NamedValue) (driver.Rows, error) {
	return d.session.queryer.QueryContext(ctx, d.text, args)
}

// unprepared gives the stand-in for a statement that must not be prepared by name; nil if it may.
func (s *session) unprepared(ctx context.Context, query string) (*directStmt, error) {
	pooled := s.pool.cfg.PgBouncer && (s.kept.kind == libPQ || s.kept.kind == pgxStdlib)
	off := s.pool.cfg.StatementCacheSize == 0 && s.kept.kind == libPQ
	if !pooled && !off {
		return nil, nil
	}
	if verb, _ := leadingVerb(query); verb == "COPY" {
		return nil, nil // lib/pq has its own way with it, in which nothing is named
	}
	d := &directStmt{session: s, text: query, inputs: -1}
	if s.kept.onePiece || pooled {
		return d, nil // such queries go to the server in one piece, there is no looking at them before
	}
	err := s.describe(ctx, d)
	if err != nil {
		return nil, err
	}
	return d, nil
}

// describe has the server read a text without giving it a name, as it would if it were prepared, so that Prepare fails if
// it is wrong. lib/pq does that for a query with arguments. With one too many it gets no further: it is lib/pq that
// refuses, and would be the server if not.
func (s *session) describe(ctx context.Context, d *directStmt) error {
	args := make([]driver.NamedValue, placeholders(d.text)+1)
	for i := range args {
		args[i].Ordinal = i + 1
	}
	rows, err := s.queryDirect(ctx, d.text, args)
	if err == nil {
		return rows.Close()
	}
	switch code := serverCode(err); {
	case code != "" && code != "08P01", errors.Is(err, driver.ErrBadConn):
		return err
	case ctx.Err() != nil:
		return ctx.Err()
	}
	if _, after, ok := strings.Cut(err.Error(), "the statement requires "); ok {
		if n, err := strconv.Atoi(after); err == nil {
			d.inputs = n
		}
	}
	return nil
}

// placeholders gives the highest number of an argument that query may have.
func placeholders(query string) int {
	most := 0
	for _, after, ok := strings.Cut(query, "$"); ok; _, after, ok = strings.Cut(after, "$") {
		n := 0
		for i := 0; i < len(after) && after[i] >= '0' && after[i] <= '9' && n < maxArguments; i++ {
			n = 10*n + int(after[i]-'0')
		}
		most = max(most, n)
	}
	return min(most, maxArguments)
}

// maxArguments is the most that PostgreSQL's protocol has room for.
const maxArguments = 65535
