package lifeguard_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"math"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lib/pq"

	"github.com/go-lifeguard/lifeguard"
	"github.com/go-lifeguard/lifeguard/internal/pgtest"
	"github.com/go-lifeguard/lifeguard/internal/pooltest"
)

func TestMain(m *testing.M) { os.Exit(pooltest.Run(m)) }

type script struct{ *pooltest.Script }

var scripts = []struct {
	name   string
	limit  int // connections
	params string
	run    func(*script)
}{
	{"errors", 2, "", (*script).errors},
	{"arguments", 2, "", (*script).arguments},
	{"arguments in binary", 2, "binary_parameters=yes", (*script).arguments},
	{"scanning", 2, "", (*script).scanning},
	{"results", 2, "", (*script).results},
	{"isolation", 1, "", (*script).isolation},
	{"rollback by context", 1, "", (*script).rollbackByContext},
	{"raw", 1, "", (*script).raw},
	{"statements", 1, "", (*script).statements},
	{"statements on many connections", 4, "", (*script).statementsOnManyConnections},
	{"cancelled", 1, "", (*script).cancelled},
	{"terminated", 1, "", (*script).terminated},
	{"closed", 3, "", (*script).closed},
}

// TestDropIn runs every script on the plain driver and through lifeguard.
func TestDropIn(t *testing.T) {
	dsn := pgtest.DSN(t)
	for _, s := range scripts {
		t.Run(s.name, func(t *testing.T) {
			pooltest.CompareScript(t, dsn, s.limit, s.params, func(r *pooltest.Script) { s.run(&script{r}) })
		})
	}
}

func (s *script) errors() {
	s.MustExec(`CREATE TABLE parents (id int PRIMARY KEY, name text UNIQUE CHECK (name <> ''));
		CREATE TABLE children (parent int NOT NULL REFERENCES parents);
		INSERT INTO parents VALUES (1, 'one')`)
	for _, statement := range []string{
		"INSERT INTO parents VALUES (2, 'one')",
		"INSERT INTO parents VALUES (3, '')",
		"INSERT INTO children VALUES (99)",
		"INSERT INTO children VALUES (NULL)",
		"SELECT * FROM missing",
		"SELECT nothing FROM parents",
		"SELEC 1",
		"SELECT 1/0",
		"SELECT 'x'::int",
		"",
		"-- only a comment",
		"DO $$ BEGIN RAISE EXCEPTION 'own %', 'words' USING ERRCODE = 'LG001', DETAIL = 'd', HINT = 'h'; END $$",
	} {
		_, err := s.Exec(statement)
		s.NoteError(statement, err)
		rows, err := s.Query(statement)
		if err == nil {
			for rows.Next() {
			}
			err = errors.Join(rows.Err(), rows.Close())
		}
		s.NoteError("query: "+statement, err)
		_, err = s.Prepare(statement)
		s.NoteError("prepare: "+statement, err)
	}
	_, err := s.Exec("INSERT INTO parents VALUES ($1, $2)", 1, "again")
	s.NoteError("with arguments", err)
	_, err = s.Exec("SELECT $1::int", "seven")
	s.NoteError("argument of another type", err)
	_, err = s.Exec("SELECT $1::int + $2::int", 1)
	s.NoteError("an argument is missing", err)
	_, err = s.Exec("SELECT $1::int", 1, 2)
	s.NoteError("an argument too many", err)
	var one int
	s.NoteError("no rows", s.QueryRow("SELECT id FROM parents WHERE id = 12345").Scan(&one))
	done, cancel := context.WithCancel(s.Ctx)
	cancel()
	_, err = s.ExecContext(done, "SELECT 1")
	s.NoteError("context over before", err)
	s.NoteQuery("SELECT * FROM parents")
}

type cents int64

type pgValuer struct {
	value driver.Value
	err   error
}

func (v pgValuer) Value() (driver.Value, error) { return v.value, v.err }

func (s *script) arguments() {
	paris := time.FixedZone("CET", 3600)
	text := "pointed at"
	for i, a := range []struct {
		typ   string
		value any
	}{
		{"int", 42}, {"int", int8(-8)}, {"bigint", int64(math.MinInt64)}, {"bigint", uint32(math.MaxUint32)},
		{"numeric", uint64(math.MaxUint64)}, {"int", cents(1250)}, {"text", 42}, {"int", "42"}, {"bool", true}, {"text", false},
		{"float8", 1.5}, {"float8", math.NaN()}, {"float8", math.Inf(-1)}, {"real", float32(0.1)}, {"numeric", "123.4500"},
		{"text", ""}, {"text", "öäü \U0001F6DF"}, {"text", "nul\x00inside"}, {"text", "\xff is no UTF-8"},
		{"text", []byte("bytes")}, {"bytea", []byte{0, 1, 0xff}}, {"bytea", []byte{}}, {"bytea", []byte(nil)}, {"bytea", "text"},
		{"text", strings.Repeat("long ", 50000)},
		{"timestamptz", time.Date(2024, 2, 29, 12, 30, 1, 123456789, paris)}, {"timestamp", time.Date(1, 1, 1, 0, 0, 0, 0, time.UTC)},
		{"date", time.Date(2024, 2, 29, 23, 59, 0, 0, time.UTC)}, {"time", "12:34:56.789"}, {"interval", "1 day 2 hours"},
		{"timestamptz", "infinity"}, {"text", time.Date(-44, 3, 15, 0, 0, 0, 0, time.UTC)},
		{"uuid", "00000000-0000-0000-0000-000000000001"}, {"json", []byte(`{"a": [1, 2]}`)}, {"jsonb", `{"b":  1, "a": 2}`},
		{"text", nil}, {"text", sql.NullString{}}, {"text", sql.NullString{String: "there", Valid: true}},
		{"int", sql.Null[int32]{V: 7, Valid: true}}, {"timestamptz", sql.NullTime{}}, {"text", &text}, {"text", (*string)(nil)},
		{"int", pgValuer{value: int64(5)}}, {"text", pgValuer{value: "from a valuer"}}, {"text", pgValuer{}},
		{"text", pgValuer{err: errors.New("no value")}}, {"text", pgValuer{value: 5}},
		{"text", struct{ A int }{1}}, {"text", make(chan int)}, {"int[]", []int{1}}, {"int[]", pq.Array([]int{1, 2})},
		{"text", sql.Named("name", "x")}, {"int", sql.Out{Dest: new(int)}}, {"text", [3]byte{1, 2, 3}}, {"text", complex(1, 2)},
	} {
		what := fmt.Sprintf("%d, %T as %s", i, a.value, a.typ)
		var got any
		err := s.QueryRow("SELECT $1::"+a.typ, a.value).Scan(&got)
		s.NoteError(what, err)
		if err == nil {
			s.Note("%s: %.80s", what, pooltest.Show(got))
		}
		_, err = s.Exec("SELECT $1::"+a.typ, a.value)
		s.NoteError("exec "+what, err)
		stmt, err := s.Prepare("SELECT $1::" + a.typ)
		s.Must(err)
		got = nil
		err = stmt.QueryRow(a.value).Scan(&got)
		s.NoteError("prepared "+what, err)
		if err == nil {
			s.Note("prepared %s: %.80s", what, pooltest.Show(got))
		}
		s.Must(stmt.Close())
	}
	s.NoteQuery("SELECT $1::int, $2::text, $3::bool, $1::int", 1, "two", true)
}

func (s *script) scanning() {
	var (
		i   int
		i8  int8
		f   float64
		str string
		b   []byte
		raw sql.RawBytes
		at  time.Time
		yes bool
		ptr *string
		a   any
		ni  sql.NullInt64
		nt  sql.Null[time.Time]
	)
	for _, query := range []string{
		"SELECT NULL", "SELECT NULL::int", "SELECT 1", "SELECT 1000", "SELECT 123.4500::numeric", "SELECT 1e400::numeric",
		"SELECT 2.0", "SELECT 'text'", "SELECT '12'", "SELECT 't'::bool", `SELECT '\x00ff'::bytea`, "SELECT '2024-02-29'::date",
		"SELECT '2024-02-29 12:00:00.5+02'::timestamptz", "SELECT '2024-02-29 12:00:00'::timestamp", "SELECT '12:00'::time",
		"SELECT 'infinity'::timestamptz", "SELECT ''", "SELECT 'NaN'::float8",
	} {
		for _, dest := range []any{&i, &i8, &f, &str, &b, &at, &yes, &ptr, &a, &ni, &nt} {
			for _, args := range [][]any{nil, {true}} {
				q := query
				if args != nil {
					q += " WHERE $1"
				}
				i, i8, f, str, b, at, yes, ptr, a, ni, nt = 0, 0, 0, "", nil, time.Time{}, false, nil, nil, sql.NullInt64{}, sql.Null[time.Time]{}
				err := s.QueryRow(q, args...).Scan(dest)
				s.NoteError(fmt.Sprintf("%s into %T", q, dest), err)
				if err != nil {
					continue
				}
				if ptr != nil {
					s.Note("%q", *ptr)
				}
				s.Note("%v %v %v %q %q %s %v %s %v %s", i, i8, f, str, b, at, yes, pooltest.Show(a), ni, nt.V)
			}
		}
	}
	rows, err := s.Query("SELECT repeat(g::text, 3), g, NULL FROM generate_series(1, 3) g")
	s.Must(err)
	for rows.Next() {
		s.NoteError("raw", rows.Scan(&raw, &i, &a))
		s.Note("%q %d %v", raw, i, a)
		s.NoteError("too few", rows.Scan(&i))
	}
	s.Must(rows.Close())
	s.NoteError("a row of RawBytes", s.QueryRow("SELECT 1").Scan(&raw))
	s.NoteError("after Close", rows.Scan(&i, &i, &i))
}

func (s *script) results() {
	s.MustExec("CREATE TABLE lines (id serial PRIMARY KEY, t text)")
	for _, statement := range []string{
		"INSERT INTO lines (t) VALUES ('a'), ('b'), ('c')", "UPDATE lines SET t = 'x' WHERE id > 1", "DELETE FROM lines WHERE id = 1",
		"DELETE FROM lines WHERE id = 1", "SELECT * FROM lines", "CREATE TABLE more (id int)", "TRUNCATE lines",
		"INSERT INTO lines (t) VALUES ('r') RETURNING id", "VALUES (1), (2)", "SET work_mem = '5MB'", "BEGIN; COMMIT", "DROP TABLE more",
	} {
		res, err := s.Exec(statement)
		s.NoteError(statement, err)
		n, err := res.RowsAffected()
		s.Note("%s: %d rows, %v", statement, n, err)
		id, err := res.LastInsertId()
		s.Note("%s: last id %d, %v", statement, id, err)
	}
	res, err := s.Exec("UPDATE lines SET t = $1", "y")
	s.Must(err)
	n, err := res.RowsAffected()
	s.Note("%d rows, %v", n, err)
	s.NoteError("ping", s.Ping())
}

func (s *script) isolation() {
	s.MustExec("CREATE TABLE seen (id int)")
	for level := sql.LevelDefault; level <= sql.LevelLinearizable+1; level++ {
		for _, readOnly := range []bool{false, true} {
			what := fmt.Sprintf("%v, read-only %t", level, readOnly)
			tx, err := s.BeginTx(s.Ctx, &sql.TxOptions{Isolation: level, ReadOnly: readOnly})
			s.NoteError(what, err)
			if err != nil {
				continue
			}
			var isolation, ro string
			s.Must(tx.QueryRow("SELECT current_setting('transaction_isolation'), current_setting('transaction_read_only')").
				Scan(&isolation, &ro))
			s.Note("%s: %s %s", what, isolation, ro)
			_, err = tx.Exec("INSERT INTO seen VALUES ($1)", int(level))
			s.NoteError(what+": insert", err)
			s.NoteError(what+": commit", tx.Commit())
			s.NoteError(what+": commit again", tx.Commit())
			s.NoteError(what+": rollback after", tx.Rollback())
		}
	}
	s.NoteQuery("SELECT * FROM seen ORDER BY id")
	tx, err := s.Begin()
	s.Must(err)
	_, err = tx.Exec("DELETE FROM seen")
	s.Must(err)
	s.NoteError("rollback", tx.Rollback())
	s.NoteQuery("SELECT count(*) FROM seen")
	// What a program types by hand stays with the connection that it typed it on.
	conn, err := s.Conn(s.Ctx)
	s.Must(err)
	for _, statement := range []string{"BEGIN", "DELETE FROM seen", "ROLLBACK"} {
		_, err = conn.ExecContext(s.Ctx, statement)
		s.Must(err)
	}
	s.Must(conn.Close())
	s.NoteQuery("SELECT count(*) FROM seen")
}

func (s *script) rollbackByContext() {
	s.MustExec("CREATE TABLE kept (id int)")
	for i := range 10 {
		ctx, cancel := context.WithCancel(s.Ctx)
		tx, err := s.BeginTx(ctx, nil)
		s.Must(err)
		_, err = tx.Exec("INSERT INTO kept VALUES (1)")
		s.Must(err)
		if i%2 == 0 {
			go cancel()
		} else {
			cancel()
		}
		pooltest.Eventually(s.T, "the transaction ends", func() bool {
			_, err := tx.Exec("SELECT 1")
			return errors.Is(err, sql.ErrTxDone)
		})
		err = tx.Commit()
		s.Note("commit refused: %t", errors.Is(err, context.Canceled) || errors.Is(err, sql.ErrTxDone))
		// Whether the connection is kept is a race inside lib/pq; that it is clean is not.
		var open bool
		s.Must(s.QueryRow("SELECT now() <> statement_timestamp() OR txid_current_if_assigned() IS NOT NULL").Scan(&open))
		s.Note("a transaction is open: %t", open)
		cancel()
	}
	s.NoteQuery("SELECT count(*) FROM kept")
	ctx, cancel := context.WithCancel(s.Ctx)
	cancel()
	_, err := s.BeginTx(ctx, nil)
	s.NoteError("context over before", err)

	// With rows open.
	ctx, cancel = context.WithCancel(s.Ctx)
	tx, err := s.BeginTx(ctx, nil)
	s.Must(err)
	rows, err := tx.Query("SELECT generate_series(1, 2000000000)") // cannot end before it is cancelled
	s.Must(err)
	s.Note("row: %t", rows.Next())
	cancel()
	for rows.Next() {
	}
	s.Note("an error: %t", rows.Err() != nil)
	rows.Close()
	tx.Rollback()
	s.NoteQuery("SELECT 'alive'")
}

func (s *script) raw() {
	conn, err := s.Conn(s.Ctx)
	s.Must(err)
	s.NoteError("raw", conn.Raw(func(dc any) error {
		own := lifeguard.Unwrap(dc)
		s.Note("%T", own)
		_, execer := own.(driver.ExecerContext)
		_, checker := own.(driver.NamedValueChecker)
		_, pinger := own.(driver.Pinger)
		s.Note("%t %t %t", execer, checker, pinger)
		rows, err := own.(driver.QueryerContext).QueryContext(s.Ctx, "SELECT 1, 'two'", nil)
		if err != nil {
			return err
		}
		defer rows.Close()
		values := make([]driver.Value, 2)
		err = rows.Next(values)
		s.Note("%v %v %v %v", rows.Columns(), pooltest.Show(values[0]), pooltest.Show(values[1]), err)
		return nil
	}))
	failure := errors.New("of the function")
	s.Note("its error as it is: %t", conn.Raw(func(any) error { return failure }) == failure)
	pid := s.PID(conn)
	s.Must(conn.Close())
	s.Note("kept: %t", s.PID(s) == pid)
	s.NoteError("closed", conn.Raw(func(any) error { return nil }))

	conn, err = s.Conn(s.Ctx)
	s.Must(err)
	s.NoteError("bad", conn.Raw(func(any) error { return driver.ErrBadConn }))
	s.NoteError("use after", conn.PingContext(s.Ctx))
	s.NoteError("close after", conn.Close())
	second := s.PID(s)
	s.Note("kept: %t", second == pid)

	conn, err = s.Conn(s.Ctx)
	s.Must(err)
	func() {
		defer func() { s.Note("recovered %v", recover()) }()
		s.NoteError("not reached", conn.Raw(func(any) error { panic("in Raw") }))
	}()
	s.NoteError("close after a panic", conn.Close())
	s.Note("kept: %t", s.PID(s) == second)
}

func (s *script) statements() {
	s.MustExec("CREATE TABLE words (id int PRIMARY KEY, word text); INSERT INTO words SELECT g, 'word ' || g FROM generate_series(1, 10) g")
	stmt, err := s.Prepare("SELECT word FROM words WHERE id = $1")
	s.Must(err)
	insert, err := s.Prepare("INSERT INTO words VALUES ($1, $2)")
	s.Must(err)
	for i := range 12 {
		rows, err := stmt.Query(i)
		s.NoteRows("prepared", rows, err)
	}
	_, err = insert.Exec(1, "taken")
	s.NoteError("error in a statement", err)
	_, err = insert.Exec(11)
	s.NoteError("too few arguments", err)

	tx, err := s.Begin()
	s.Must(err)
	inTx, err := tx.Prepare("UPDATE words SET word = upper(word) WHERE id = $1")
	s.Must(err)
	_, err = inTx.Exec(1)
	s.NoteError("tx.Prepare", err)
	_, err = tx.Stmt(insert).Exec(11, "eleven")
	s.NoteError("tx.Stmt", err)
	rows, err := tx.Stmt(stmt).Query(11)
	s.NoteRows("tx.Stmt", rows, err)
	s.NoteError("commit", tx.Commit())
	_, err = inTx.Exec(2)
	s.NoteError("statement of a finished transaction", err)
	s.NoteError("its close", inTx.Close())

	tx, err = s.Begin()
	s.Must(err)
	_, err = tx.StmtContext(s.Ctx, insert).Exec(12, "twelve")
	s.Must(err)
	_, err = tx.StmtContext(s.Ctx, insert).Exec(12, "twelve")
	s.NoteError("twice", err)
	rows, err = tx.Stmt(stmt).Query(12)
	s.NoteRows("in a failed transaction", rows, err)
	s.NoteError("commit", tx.Commit())

	conn, err := s.Conn(s.Ctx)
	s.Must(err)
	onConn, err := conn.PrepareContext(s.Ctx, "SELECT count(*) FROM words")
	s.Must(err)
	rows, err = onConn.Query()
	s.NoteRows("conn.Prepare", rows, err)
	s.Must(conn.Close())
	_, err = onConn.Query()
	s.NoteError("statement of a returned connection", err)
	s.NoteError("its close", onConn.Close())

	rows, err = stmt.Query(11)
	s.NoteRows("prepared, at the end", rows, err)
	s.NoteError("close", stmt.Close())
	s.NoteError("close again", stmt.Close())
	_, err = stmt.Query(1)
	s.NoteError("after Close", err)
	s.NoteError("close", insert.Close())
	s.NoteQuery("SELECT word FROM words ORDER BY id")
}

func (s *script) statementsOnManyConnections() {
	stmt, err := s.Prepare("SELECT $1::int * 2")
	s.Must(err)
	var wg sync.WaitGroup
	var wrong atomic.Int64
	for g := range 16 {
		wg.Go(func() {
			for i := range 50 {
				var twice int
				if err := stmt.QueryRowContext(s.Ctx, g*1000+i).Scan(&twice); err != nil || twice != 2*(g*1000+i) {
					wrong.Add(1)
				}
			}
		})
	}
	wg.Wait()
	s.Note("%d wrong", wrong.Load())
	s.NoteError("close", stmt.Close())
}

func (s *script) cancelled() {
	stmt, err := s.Prepare("SELECT pg_sleep($1)")
	s.Must(err)
	defer stmt.Close()
	const query = "SELECT pg_sleep(60)"
	for _, c := range []struct {
		how string
		run func(context.Context) error
	}{
		{"exec", func(ctx context.Context) error { _, err := s.ExecContext(ctx, query); return err }},
		{"query", func(ctx context.Context) error { return s.QueryRowContext(ctx, query).Scan(new(string)) }},
		{"argument", func(ctx context.Context) error { _, err := s.ExecContext(ctx, "SELECT pg_sleep($1)", 60); return err }},
		{"prepared", func(ctx context.Context) error { _, err := stmt.ExecContext(ctx, 60); return err }},
		{"prepared query", func(ctx context.Context) error { return stmt.QueryRowContext(ctx, 60).Scan(new(string)) }},
	} {
		pid := s.PID(s)
		ctx, cancel := context.WithCancel(s.Ctx)
		failed := make(chan error, 1)
		go func() { failed <- c.run(ctx) }()
		pooltest.Eventually(s.T, "the query is running", func() (running bool) {
			s.Must(s.Server.QueryRow("SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1 AND state = 'active' "+
				"AND wait_event = 'PgSleep')", pid).Scan(&running))
			return running
		})
		cancel()
		err := <-failed
		s.Note("%s: cancelled %t", c.how, pooltest.WasCancelled(err))
		for range 10 {
			var one int
			s.Must(s.QueryRow("SELECT 1").Scan(&one))
		}
		s.Note("%s: kept %t", c.how, s.PID(s) == pid)
	}

	ctx, cancel := context.WithCancel(s.Ctx)
	rows, err := s.QueryContext(ctx, "SELECT generate_series(1, 2000000000), repeat('x', 1000)")
	s.Must(err)
	for range 10 {
		s.Note("%t", rows.Next())
	}
	cancel()
	for rows.Next() {
	}
	s.Note("in the middle of rows: cancelled %t", pooltest.WasCancelled(rows.Err()))
	// Nothing if database/sql closed them for the context already, which it does on a goroutine of its own.
	if err := rows.Close(); err != nil && !pooltest.WasCancelled(err) {
		s.NoteError("close", err)
	}
	s.NoteQuery("SELECT 'alive'")
}

func (s *script) terminated() {
	pid := s.PID(s)
	s.Terminate(s.T)
	s.NoteQuery("SELECT 'alive'")
	s.Note("kept: %t", s.PID(s) == pid)
	conn, err := s.Conn(s.Ctx)
	s.Must(err)
	s.Terminate(s.T)
	_, err = conn.ExecContext(s.Ctx, "SELECT 1")
	s.NoteError("held", err)
	s.NoteError("held, again", conn.PingContext(s.Ctx))
	s.NoteError("close", conn.Close())
	tx, err := s.Begin()
	s.Must(err)
	s.Terminate(s.T)
	_, err = tx.Exec("SELECT 1")
	s.NoteError("transaction", err)
	s.NoteError("commit", tx.Commit())
	s.NoteQuery("SELECT 'alive'")
	stmt, err := s.Prepare("SELECT 'prepared'")
	s.Must(err)
	s.Terminate(s.T)
	rows, err := stmt.Query()
	s.NoteRows("prepared", rows, err)
	s.NoteError("close", stmt.Close())
	s.Terminate(s.T)
	s.NoteError("ping", s.Ping())
}

func (s *script) closed() {
	conn, err := s.Conn(s.Ctx)
	s.Must(err)
	tx, err := s.Begin()
	s.Must(err)
	stmt, err := s.Prepare("SELECT 1")
	s.Must(err)
	s.NoteError("close", s.Close())
	// What is under way may go on.
	_, err = conn.ExecContext(s.Ctx, "SELECT 1")
	s.NoteError("conn", err)
	_, err = tx.Exec("CREATE TABLE late (id int)")
	s.NoteError("tx", err)
	s.NoteError("commit", tx.Commit())
	s.NoteError("conn", conn.Close())
	_, err = stmt.Query()
	s.NoteError("statement", err)
	s.NoteError("statement", stmt.Close())
	_, err = s.Query("SELECT 1")
	s.NoteError("query", err)
	_, err = s.Begin()
	s.NoteError("begin", err)
	s.NoteError("ping", s.Ping())
	s.NoteError("close again", s.Close())
}
