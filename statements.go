package lifeguard

import (
	"context"
	"database/sql/driver"
	"errors"
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
type statementCache struct {
	max    int  // 0: nothing is kept
	direct bool // queries with arguments run on kept statements too, not only what was prepared by the handle
	kind   driverKind

	byText     map[string]*prepared
	head, tail *prepared // most and least recently used
	schema     int       // counts what this session did that may change the result types of statements
	rows       int       // open results of the session, of whatever origin
	directRows int       // those of direct queries that ran on kept statements
}

// prepared is a statement on a session: one of the cache, or one that is not kept and closes when nobody uses it.
type prepared struct {
	text    string
	parent  driver.Stmt
	execer  driver.StmtExecContext
	queryer driver.StmtQueryContext
	checker driver.NamedValueChecker

	kept       bool      // it is in the cache
	refs       int       // open stmts and rows; while there are any it is not closed
	schema     int       // statementCache.schema when it was prepared
	moved      int64     // Pool.schema when it was prepared
	prev, next *prepared // by last use
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
	if c.kind != otherDriver && !p.cfg.PgBouncer {
		c.max = p.cfg.StatementCacheSize
	}
	// With binary_parameters lib/pq needs one round trip by itself, and who sets it may well do so because named
	// statements do not work behind his pooler.
	c.direct = c.max > 0 && c.kind == libPQ && !p.binaryParameters
	return c
}

// errQueryInProgress is lib/pq's answer to a query on a connection whose last result has not been read. Its statements
// do not look after that, so it is done here for those that stand in for its queries.
var errQueryInProgress = errors.New("pq: there is already a query being processed on this connection")

// forQuery gives the kept statement on which a query with arguments runs; nil if it is to be left to the driver.
func (s *session) forQuery(ctx context.Context, query string, args []driver.NamedValue) (*prepared, error) {
	c := &s.kept
	if c.directRows > 0 {
		return nil, errQueryInProgress
	}
	if c.max == 0 {
		return nil, nil
	}
	if len(args) == 0 || !c.direct {
		s.observe(query)
		return nil, nil
	}
	return s.keep(ctx, query)
}

// keep finds the statement for query, or prepares it; nil if it is not one to keep.
func (s *session) keep(ctx context.Context, query string) (*prepared, error) {
	c := &s.kept
	if k := c.byText[query]; k != nil {
		if k.schema == c.schema && k.moved == s.pool.schema.Load() {
			s.hits.Store(s.hits.Load() + 1)
			c.use(k)
			return k, nil
		}
		if c.rows > 0 {
			return nil, nil // the connection is busy with a result; let the driver say so
		}
		s.misses.Store(s.misses.Load() + 1)
		if err := s.prepareAgain(ctx, k); err != nil {
			return nil, err
		}
		c.use(k)
		return k, nil
	}
	if c.rows > 0 || !keepable(query) || !s.makeRoom() {
		s.observe(query)
		return nil, nil
	}
	k := &prepared{text: query, kept: true}
	s.misses.Store(s.misses.Load() + 1)
	if err := s.prepareNow(ctx, k); err != nil {
		return nil, err
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
	schema, moved := s.kept.schema, s.pool.schema.Load()
	parent, err := s.prepare(ctx, k.text)
	if err != nil {
		return s.explainLost(err)
	}
	k.parent, k.schema, k.moved = parent, schema, moved
	k.execer, _ = parent.(driver.StmtExecContext)
	k.queryer, _ = parent.(driver.StmtQueryContext)
	k.checker, _ = parent.(driver.NamedValueChecker)
	return nil
}

// prepareFor prepares query for the handle: on a kept statement, if it is one to keep.
func (s *session) prepareFor(ctx context.Context, query string) (*prepared, error) {
	if s.kept.max > 0 {
		if k, err := s.keep(ctx, query); k != nil || err != nil {
			return k, err
		}
	}
	k := &prepared{text: query}
	if parent := s.unprepared(query); parent != nil {
		k.parent, k.execer, k.queryer = parent, parent, parent
		return k, nil
	}
	return k, s.prepareNow(ctx, k)
}

// prepareAgain replaces what k stands for on the server.
func (s *session) prepareAgain(ctx context.Context, k *prepared) error {
	_ = k.parent.Close() // it may not exist any more
	if err := s.prepareNow(ctx, k); err != nil {
		s.kept.drop(k)
		return err
	}
	return nil
}

// makeRoom sees to it that one more statement fits, closing the least recently used that nobody has open.
func (s *session) makeRoom() bool {
	c := &s.kept
	if len(c.byText) < c.max {
		return true
	}
	for k := c.tail; k != nil; k = k.prev {
		if k.refs == 0 {
			c.drop(k)
			if err := k.parent.Close(); errors.Is(err, driver.ErrBadConn) {
				s.broke()
			}
			return true
		}
	}
	return false
}

// lost decides what an error of an operation on k means. If the server no longer knows the statement, or its result
// type has changed, it goes; and outside a transaction it is prepared once more and the answer is true: the operation
// has not run, and may be tried again.
func (s *session) lost(ctx context.Context, k *prepared, err error, retried bool) bool {
	moved := resultTypeChanged(err)
	if !moved && !statementUnknown(err) {
		return false
	}
	if moved {
		// A migration is under way. The statements of all connections are prepared again before they fail, too.
		s.pool.schema.Add(1)
	}
	l := s.lease.Load()
	if retried || !k.kept || s.kept.rows > 0 || l == nil || l.inTx.Load() {
		s.kept.schema++
		return false
	}
	// In a transaction that was begun by hand this fails, because the first error ended it. Then that one is told.
	return s.prepareAgain(ctx, k) == nil
}

// ended looks after a connection on which a kept statement met the end of its context. lib/pq's statements cancel
// the query and keep the connection, and the cancellation may reach the server late, in the middle of the next query.
// Its queries give the connection up, and so do those that run on statements here.
func (s *session) ended(ctx context.Context) {
	if s.kept.kind == libPQ && ctx.Err() != nil {
		s.sawEnd = true
		s.bad = true
	}
}

// execPrepared and queryPrepared run k.
func (s *session) execPrepared(ctx context.Context, k *prepared, args []driver.NamedValue) (driver.Result, error) {
	for retried := false; ; retried = true {
		res, err := k.exec(ctx, args)
		if err == nil {
			s.ended(ctx)
			return res, nil
		}
		if !s.lost(ctx, k, err, retried) {
			s.ended(ctx)
			return res, s.explainLost(err)
		}
	}
}

func (s *session) queryPrepared(ctx context.Context, k *prepared, args []driver.NamedValue) (driver.Rows, error) {
	for retried := false; ; retried = true {
		rows, err := k.query(ctx, args)
		if err == nil {
			return rows, nil // the end of ctx is looked after when they are closed
		}
		if !s.lost(ctx, k, err, retried) {
			s.ended(ctx)
			return rows, s.explainLost(err)
		}
	}
}

func (k *prepared) exec(ctx context.Context, args []driver.NamedValue) (driver.Result, error) {
	if k.execer != nil {
		return k.execer.ExecContext(ctx, args)
	}
	values, err := positional(ctx, args)
	if err != nil {
		return nil, err
	}
	return k.parent.Exec(values) //nolint:staticcheck // all that this statement has
}

func (k *prepared) query(ctx context.Context, args []driver.NamedValue) (driver.Rows, error) {
	if k.queryer != nil {
		return k.queryer.QueryContext(ctx, args)
	}
	values, err := positional(ctx, args)
	if err != nil {
		return nil, err
	}
	return k.parent.Query(values) //nolint:staticcheck // all that this statement has
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
	if r.prepared != nil {
		s.ended(r.ctx)
		_ = r.prepared.release() // their reader is done, and no error of the statement's is his
	}
}

// release is the end of a stmt's or a result's hold on k.
func (k *prepared) release() error {
	k.refs--
	if !k.kept && k.refs == 0 {
		return k.parent.Close()
	}
	return nil
}

// observe looks at a statement that is not kept for what it does to those that are.
func (s *session) observe(query string) {
	c := &s.kept
	if len(c.byText) == 0 {
		return
	}
	switch verb, rest := leadingVerb(query); verb {
	case "DISCARD", "DEALLOCATE":
		// They are gone, all or one: which, is not worth finding out. The driver's own names go on counting, so what is
		// forgotten here is never confused with what comes after.
		for c.tail != nil {
			c.drop(c.tail)
		}
	case "ALTER", "CREATE", "DROP":
		c.schema++
	case "SET", "RESET":
		// Other settings do not change what a statement means, and some services set one in each transaction.
		if containsFold(rest, "search_path") || containsFold(rest, "all") {
			c.schema++
		}
	}
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

// keepable says whether query is one statement, of a kind that means the same whether it is prepared or not.
func keepable(query string) bool {
	switch verb, _ := leadingVerb(query); verb {
	case "SELECT", "INSERT", "UPDATE", "DELETE", "MERGE", "WITH", "VALUES":
	default:
		return false
	}
	// Several statements cannot be prepared as one. A semicolon in a literal is taken for one between them: such a
	// query costs what it costs on the plain driver.
	semicolon := strings.IndexByte(query, ';')
	return semicolon < 0 || strings.Trim(query[semicolon:], "; \t\r\n") == ""
}

// leadingVerb gives the first word of query in upper case, after white space, comments and parentheses, and what
// follows it; "" if it is longer than any verb.
func leadingVerb(query string) (verb, rest string) {
	for {
		query = strings.TrimLeft(query, " \t\r\n\f(")
		switch {
		case strings.HasPrefix(query, "--"):
			_, after, found := strings.Cut(query, "\n")
			if !found {
				return "", ""
			}
			query = after
		case strings.HasPrefix(query, "/*"):
			// A comment that MySQL executes, or one inside another as PostgreSQL has them, is not worth understanding.
			end := strings.Index(query, "*/")
			if end < 0 || strings.HasPrefix(query, "/*!") || strings.Contains(query[2:end], "/*") {
				return "", ""
			}
			query = query[end+2:]
		default:
			end := 0
			var upper [10]byte // DEALLOCATE
			for end < len(query) && end < len(upper) && (query[end]|0x20 >= 'a' && query[end]|0x20 <= 'z') {
				upper[end] = query[end] &^ 0x20
				end++
			}
			if end < len(query) && (query[end] == '_' || query[end] >= '0' && query[end] <= '9' || query[end]|0x20 >= 'a' && query[end]|0x20 <= 'z') {
				return "", ""
			}
			return string(upper[:end]), query[end:]
		}
	}
}

func containsFold(s, lower string) bool { return strings.Contains(strings.ToLower(s), lower) }

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

// lostStatementError explains an error that is a riddle to whoever meets it for the first time.
type lostStatementError struct{ error }

func (e lostStatementError) Error() string {
	return e.error.Error() + "; prepared statements do not survive a pooler in transaction mode: " +
		"if there is one, such as PgBouncer, add pgbouncer=true to the DSN"
}

func (e lostStatementError) Unwrap() error { return e.error }

func (s *session) explainLost(err error) error {
	if s.kept.kind != goMySQL && statementUnknown(err) {
		return lostStatementError{err}
	}
	return err
}

// directStmt stands for a prepared statement where none may exist: behind a pooler that gives each transaction another
// server connection. Each execution runs the text, as if it had not been prepared.
type directStmt struct {
	session *session
	text    string
}

var (
	_ driver.StmtExecContext  = (*directStmt)(nil)
	_ driver.StmtQueryContext = (*directStmt)(nil)
)

func (d *directStmt) Close() error  { return nil }
func (d *directStmt) NumInput() int { return -1 }

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
func (s *session) unprepared(query string) *directStmt {
	if !s.pool.cfg.PgBouncer || s.kept.kind != libPQ && s.kept.kind != pgxStdlib {
		return nil
	}
	if verb, _ := leadingVerb(query); verb == "COPY" {
		return nil // lib/pq has its own way with it, in which nothing is named
	}
	return &directStmt{s, query}
}
