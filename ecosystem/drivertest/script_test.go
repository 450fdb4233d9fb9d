package drivertest

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/go-lifeguard/lifeguard"
	"github.com/go-lifeguard/lifeguard/internal/mariatest"
	"github.com/go-lifeguard/lifeguard/internal/pgtest"
)

func TestMain(m *testing.M) {
	// That a connection has been killed is said by the test that did it.
	if err := mysql.SetLogger(&mysql.NopLogger{}); err != nil {
		panic(err)
	}
	os.Exit(runAll(m))
}

// servers runs the tests between the start and the end of both shared servers.
type servers struct{ *testing.M }

func (s servers) Run() int { return mariatest.Run(s.M) }

// runAll runs the tests, stops the servers, and then looks for goroutines that outlived their handles.
func runAll(m *testing.M) int {
	code := pgtest.Run(servers{m})
	if err := goleak.Find(); err != nil {
		fmt.Fprintln(os.Stderr, "after all tests:", err)
		code = max(code, 1)
	}
	return code
}

// quiet keeps the pool's reports about dials that are meant to fail out of the test's output.
var quiet = lifeguard.WithLogger(slog.New(slog.DiscardHandler))

// A scenario is a script and the number of connections it needs.
type scenario struct {
	name  string
	limit int
	param string // added to the DSN
	run   func(*script)
}

// A script is one use of database/sql which takes down all that a program could see. It is run on the plain driver and
// through lifeguard in every way, and what was taken down has to be the same.
type script struct {
	*sql.DB
	*engine
	t     *testing.T
	ctx   context.Context
	lines []string
}

// common are the scripts for every driver.
var common = []scenario{
	{"arguments", 1, "", (*script).bindArguments},
	{"errors", 1, "", (*script).fail},
	{"transactions", 1, "", (*script).transactions},
	{"rollback by context", 1, "", (*script).rollbackByContext},
	{"rollback by context on a conn", 1, "", (*script).rollbackByContextOnConn},
	{"rollback after a cancel", 1, "", (*script).rollbackAfterCancel},
	{"statements", 1, "", (*script).statements},
	{"statements on many connections", 4, "", (*script).statementsOnManyConnections},
	{"rows", 1, "", (*script).halfRead},
	{"raw", 1, "", (*script).raw},
	{"cancelled", 1, "", (*script).cancelled},
	{"closed", 3, "", (*script).closed},
}

// compare runs all scripts.
func (e *engine) compare(t *testing.T) {
	fresh := e.database(t)
	for _, s := range append(common, e.scripts...) {
		t.Run(s.name, func(t *testing.T) {
			var want []string
			for _, w := range append([]way{plain}, wrapped...) {
				t.Run(w.name, func(t *testing.T) {
					dsn := fresh(t)
					if s.param != "" {
						dsn = withParam(dsn, s.param)
					}
					db, err := w.open(e, dsn, s.limit)
					require.NoError(t, err)
					defer func() { assert.NoError(t, db.Close()) }()
					run := &script{DB: db, engine: e, t: t, ctx: t.Context()}
					s.run(run)
					if w.name == plain.name {
						want = run.lines
						require.NotEmpty(t, want)
						return
					}
					require.Equal(t, want, run.lines)
					pool, ok := lifeguard.PoolOf(db)
					require.True(t, ok)
					assert.LessOrEqual(t, pool.Stats().Open, s.limit)
					settled(t, pool)
				})
			}
		})
	}
}

// settled waits for the pool to be at rest: what database/sql does after a context has ended, it does in goroutines of
// its own, which a caller cannot wait for.
func settled(t *testing.T, pool *lifeguard.Pool) {
	t.Helper()
	eventually(t, "nothing in use and nobody waiting", func() bool {
		st := pool.Stats()
		return st.InUse == 0 && st.Waiting == 0
	})
}

// eventually waits for what another process does, and about which nothing can be waited for but by asking.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Errorf("not within 20s: %s", what)
			return
		}
	}
}

func (s *script) note(format string, args ...any) {
	s.lines = append(s.lines, fmt.Sprintf(format, args...))
}

// must is for what a script needs to go on.
func (s *script) must(err error) {
	s.t.Helper()
	require.NoError(s.t, err)
}

func (s *script) exec(statement string, args ...any) {
	s.t.Helper()
	_, err := s.ExecContext(s.ctx, statement, args...)
	s.must(err)
}

// failed takes down an error: its text, what it unwraps to, and what the server said.
func (s *script) failed(what string, err error) {
	s.note("%s: %s", what, s.error(err))
}

func (s *script) error(err error) string {
	if err == nil {
		return "no error"
	}
	var b strings.Builder
	for e := err; e != nil; e = errors.Unwrap(e) {
		fmt.Fprintf(&b, "%T %q; ", e, e)
	}
	return b.String() + s.describe(err)
}

// show is a value with its type.
func show(v any) string {
	switch v := v.(type) {
	case []byte:
		return fmt.Sprintf("[]byte %.80q nil=%t", v, v == nil)
	case time.Time:
		return fmt.Sprintf("time %s %s", v.Format(time.RFC3339Nano), v.Location())
	default:
		return fmt.Sprintf("%T %.80s", v, fmt.Sprint(v))
	}
}

// rows takes down all rows of all result sets.
func (s *script) rows(what string, rows *sql.Rows, err error) {
	s.t.Helper()
	s.failed(what, err)
	if err != nil {
		return
	}
	for set := 0; ; set++ {
		columns, err := rows.Columns()
		s.note("%s: set %d: columns %q, %s", what, set, columns, s.error(err))
		for rows.Next() {
			s.note("%s: row %s", what, s.row(rows, len(columns)))
		}
		s.failed(what+": after the rows", rows.Err())
		if !rows.NextResultSet() {
			break
		}
	}
	s.failed(what+": at the end", rows.Err())
	s.failed(what+": close", rows.Close())
}

func (s *script) row(rows interface{ Scan(...any) error }, columns int) string {
	values, dest := make([]any, columns), make([]any, columns)
	for i := range dest {
		dest[i] = &values[i]
	}
	if err := rows.Scan(dest...); err != nil {
		return s.error(err)
	}
	texts := make([]string, columns)
	for i, v := range values {
		texts[i] = show(v)
	}
	return strings.Join(texts, ", ")
}

func (s *script) query(query string, args ...any) {
	s.t.Helper()
	rows, err := s.QueryContext(s.ctx, query, args...)
	s.rows(query, rows, err)
}

// columnTypes takes down everything about the columns of a result.
func (s *script) columnTypes(what string, rows *sql.Rows, err error) {
	s.t.Helper()
	s.must(err)
	columns, err := rows.ColumnTypes()
	s.must(err)
	for i, c := range columns {
		length, hasLength := c.Length()
		precision, scale, hasScale := c.DecimalSize()
		nullable, known := c.Nullable()
		s.note("%s %02d %s %s length %d %t, decimal %d %d %t, nullable %t %t, %v", what, i, c.Name(), c.DatabaseTypeName(),
			length, hasLength, precision, scale, hasScale, nullable, known, c.ScanType())
	}
	for rows.Next() {
		s.note("%s: %s", what, s.row(rows, len(columns)))
	}
	s.failed(what, rows.Err())
	s.must(rows.Close())
}

// connection is the number of the connection that serves a query now.
func (s *script) connection(q interface {
	QueryRowContext(context.Context, string, ...any) *sql.Row
}) (id int64) {
	s.t.Helper()
	if s.identity != "" {
		s.must(q.QueryRowContext(s.ctx, s.identity).Scan(&id))
	}
	return id
}

func (s *script) bindArguments() {
	for i, a := range s.arguments {
		what := fmt.Sprintf("%d, %T as %s", i, a.value, a.expression)
		query := "SELECT " + fmt.Sprintf(a.expression, s.mark(1))
		var got any
		err := s.QueryRowContext(s.ctx, query, a.value).Scan(&got)
		s.failed(what, err)
		s.note("%s: %s", what, show(got))
		stmt, err := s.PrepareContext(s.ctx, query)
		s.failed("preparing "+what, err)
		if err != nil {
			continue
		}
		got = nil
		err = stmt.QueryRow(a.value).Scan(&got)
		s.failed("prepared "+what, err)
		s.note("prepared %s: %s", what, show(got))
		s.must(stmt.Close())
	}
	_, err := s.QueryContext(s.ctx, "SELECT "+s.mark(1))
	s.failed("an argument is missing", err)
	rows, err := s.QueryContext(s.ctx, "SELECT 1", 2)
	if err == nil {
		rows.Next()
		err = errors.Join(rows.Err(), rows.Close())
	}
	s.failed("an argument too many", err)
	s.query("SELECT 'alive'")
}

func (s *script) fail() {
	s.exec("CREATE TABLE parents (id INT PRIMARY KEY, name VARCHAR(20) NOT NULL UNIQUE)")
	s.exec("INSERT INTO parents VALUES (1, 'one')")
	insert := "INSERT INTO parents VALUES (" + s.mark(1) + ", " + s.mark(2) + ")"
	for _, statement := range append([]string{
		"INSERT INTO parents VALUES (1, 'again')",
		"INSERT INTO parents VALUES (2, NULL)",
		"SELECT * FROM missing",
		"SELECT nothing FROM parents",
		"SELEC 1",
	}, s.failing...) {
		_, err := s.ExecContext(s.ctx, statement)
		s.failed(statement, err)
		rows, err := s.QueryContext(s.ctx, statement)
		if err == nil {
			for rows.Next() {
			}
			err = rows.Err()
			rows.Close()
		}
		s.failed("query: "+statement, err)
		stmt, err := s.PrepareContext(s.ctx, statement)
		s.failed("prepare: "+statement, err)
		if err == nil {
			s.must(stmt.Close())
		}
	}
	_, err := s.ExecContext(s.ctx, insert, 1, "again")
	s.failed("with arguments", err)
	stmt, err := s.PrepareContext(s.ctx, insert)
	s.must(err)
	_, err = stmt.Exec(2, "one")
	s.failed("prepared", err)
	s.must(stmt.Close())
	s.failed("no rows", s.QueryRowContext(s.ctx, "SELECT id FROM parents WHERE id = 12345").Scan(new(int)))
	done, cancel := context.WithCancel(s.ctx)
	cancel()
	_, err = s.ExecContext(done, "SELECT 1")
	s.failed("context over before", err)
	s.query("SELECT * FROM parents")
	s.failed("ping", s.PingContext(s.ctx))
}

func (s *script) statements() {
	s.exec("CREATE TABLE words (id INT PRIMARY KEY, word VARCHAR(50))")
	insert, err := s.PrepareContext(s.ctx, "INSERT INTO words VALUES ("+s.mark(1)+", "+s.mark(2)+")")
	s.must(err)
	for i := range 10 {
		res, err := insert.Exec(i, fmt.Sprint("word ", i))
		s.failed("insert", err)
		n, err := res.RowsAffected()
		s.note("%d, %v", n, err)
	}
	_, err = insert.Exec(1, "taken")
	s.failed("taken", err)
	_, err = insert.Exec(11)
	s.failed("too few arguments", err)
	word, err := s.PrepareContext(s.ctx, "SELECT word FROM words WHERE id = "+s.mark(1))
	s.must(err)
	for i := range 12 {
		rows, err := word.Query(i)
		s.rows("prepared", rows, err)
	}

	tx, err := s.BeginTx(s.ctx, nil)
	s.must(err)
	inTx, err := tx.Prepare("UPDATE words SET word = " + s.mark(1) + " WHERE id = " + s.mark(2))
	s.must(err)
	res, err := inTx.Exec("changed", 1)
	s.failed("tx.Prepare", err)
	n, err := res.RowsAffected()
	s.note("%d, %v", n, err)
	_, err = tx.Stmt(insert).Exec(11, "eleven")
	s.failed("tx.Stmt", err)
	rows, err := tx.StmtContext(s.ctx, word).Query(11)
	s.rows("tx.Stmt", rows, err)
	s.failed("commit", tx.Commit())
	_, err = inTx.Exec("late", 2)
	s.failed("statement of a finished transaction", err)
	s.failed("its close", inTx.Close())

	conn, err := s.Conn(s.ctx)
	s.must(err)
	onConn, err := conn.PrepareContext(s.ctx, "SELECT COUNT(*) FROM words")
	s.must(err)
	rows, err = onConn.Query()
	s.rows("conn.Prepare", rows, err)
	s.must(conn.Close())
	_, err = onConn.Query()
	s.failed("statement of a returned connection", err)
	s.failed("its close", onConn.Close())

	s.failed("close", word.Close())
	s.failed("close again", word.Close())
	_, err = word.Query(1)
	s.failed("after Close", err)
	s.failed("close", insert.Close())
	s.query("SELECT word FROM words ORDER BY id")
}

func (s *script) statementsOnManyConnections() {
	stmt, err := s.PrepareContext(s.ctx, "SELECT 2 * "+fmt.Sprintf(s.arguments[0].expression, s.mark(1)))
	s.must(err)
	var wg sync.WaitGroup
	var wrong atomic.Int64
	for g := range 16 {
		wg.Go(func() {
			for i := range 30 {
				var twice int
				if err := stmt.QueryRowContext(s.ctx, g*1000+i).Scan(&twice); err != nil || twice != 2*(g*1000+i) {
					wrong.Add(1)
				}
			}
		})
	}
	wg.Wait()
	s.note("%d wrong", wrong.Load())
	s.failed("close", stmt.Close())
}

func (s *script) halfRead() {
	s.exec("CREATE TABLE many (id INT PRIMARY KEY)")
	insert, err := s.PrepareContext(s.ctx, "INSERT INTO many VALUES ("+s.mark(1)+")")
	s.must(err)
	for i := range 50 {
		_, err := insert.Exec(i)
		s.must(err)
	}
	s.must(insert.Close())
	before := s.connection(s)
	rows, err := s.QueryContext(s.ctx, "SELECT a.id, b.id FROM many a CROSS JOIN many b ORDER BY a.id, b.id")
	s.must(err)
	for range 10 {
		s.note("%t %s", rows.Next(), s.row(rows, 2))
	}
	s.failed("too few", rows.Scan(new(int)))
	s.failed("close", rows.Close())
	s.note("%t", rows.Next())
	s.failed("after close", rows.Err())
	s.failed("scan after close", rows.Scan(new(int), new(int)))
	s.note("kept: %t", s.connection(s) == before)
	s.query("SELECT COUNT(*) FROM many WHERE id > "+s.mark(1), 40)
}

func (s *script) raw() {
	before := s.connection(s)
	conn, err := s.Conn(s.ctx)
	s.must(err)
	s.failed("raw", conn.Raw(func(dc any) error {
		own := lifeguard.Unwrap(dc)
		s.note("%T", own)
		rows, err := own.(driver.QueryerContext).QueryContext(s.ctx, "SELECT 'by hand'", nil)
		if err != nil {
			return err
		}
		values := make([]driver.Value, 1)
		err = rows.Next(values)
		s.note("%v %v %v", len(rows.Columns()), show(values[0]), err)
		return rows.Close()
	}))
	failure := errors.New("of the function")
	s.note("its error as it is: %t", conn.Raw(func(any) error { return failure }) == failure)
	s.must(conn.Close())
	s.note("kept: %t", s.connection(s) == before)
	s.failed("closed", conn.Raw(func(any) error { return nil }))

	conn, err = s.Conn(s.ctx)
	s.must(err)
	s.failed("bad", conn.Raw(func(any) error { return driver.ErrBadConn }))
	s.failed("use after", conn.PingContext(s.ctx))
	s.failed("close after", conn.Close())
	s.note("kept: %t", s.connection(s) == before)
	func() {
		conn, err := s.Conn(s.ctx)
		s.must(err)
		defer conn.Close()
		defer func() { s.note("recovered %v", recover()) }()
		s.failed("not reached", conn.Raw(func(any) error { panic("in Raw") }))
	}()
	s.query("SELECT 'alive'")
}

func (s *script) cancelled() {
	stmt, err := s.PrepareContext(s.ctx, s.endless)
	s.must(err)
	for _, c := range []struct {
		how string
		run func(context.Context) error
	}{
		{"exec", func(ctx context.Context) error { _, err := s.ExecContext(ctx, s.endless); return err }},
		{"query", func(ctx context.Context) error { return s.QueryRowContext(ctx, s.endless).Scan(new(string)) }},
		{"prepared", func(ctx context.Context) error { return stmt.QueryRowContext(ctx).Scan(new(string)) }},
		{"transaction", func(ctx context.Context) error {
			tx, err := s.BeginTx(ctx, nil)
			if err != nil {
				return err
			}
			defer tx.Rollback()
			_, err = tx.ExecContext(ctx, s.endless)
			return err
		}},
	} {
		s.connection(s) // so that the time is spent in the query
		ctx, cancel := context.WithTimeout(s.ctx, 100*time.Millisecond)
		err := c.run(ctx)
		s.note("%s: an error %t, the context's %t", c.how, err != nil, errors.Is(ctx.Err(), context.DeadlineExceeded))
		cancel()
		for range 5 {
			s.query("SELECT 'alive'")
		}
	}
	s.failed("close", stmt.Close())
}

func (s *script) closed() {
	conn, err := s.Conn(s.ctx)
	s.must(err)
	tx, err := s.BeginTx(s.ctx, nil)
	s.must(err)
	stmt, err := s.PrepareContext(s.ctx, "SELECT 1")
	s.must(err)
	s.failed("close", s.Close())
	// What is under way may go on.
	_, err = conn.ExecContext(s.ctx, "SELECT 1")
	s.failed("conn", err)
	_, err = tx.Exec("SELECT 1")
	s.failed("tx", err)
	s.failed("commit", tx.Commit())
	s.failed("conn", conn.Close())
	_, err = stmt.Query()
	s.failed("statement", err)
	s.failed("statement", stmt.Close())
	_, err = s.Query("SELECT 1")
	s.failed("query", err)
	s.failed("ping", s.Ping())
	s.failed("close again", s.Close())
}
