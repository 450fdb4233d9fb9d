package handle_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
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

type dropIn struct{ *pooltest.Script }

var dropIns = []struct {
	name   string
	limit  int // connections
	params string
	run    func(*dropIn)
}{
	{"copy", 2, "", (*dropIn).copy},
	{"result sets", 2, "", (*dropIn).resultSets},
	{"column types", 2, "", (*dropIn).columnTypes},
	{"notifications", 2, "", (*dropIn).notifications},
	{"notices", 2, "", (*dropIn).notices},
	{"arrays", 2, "", (*dropIn).arrays},
	{"cursors", 1, "", (*dropIn).cursors},
	{"savepoints", 1, "", (*dropIn).savepoints},
	{"settings", 1, "", (*dropIn).settings},
	{"error between rows", 1, "", (*dropIn).errorBetweenRows},
	{"statement timeout", 1, "", (*dropIn).statementTimeout},
	{"cancelled at random", 4, "", (*dropIn).cancelledAtRandom},
}

// TestDropInPostgres runs what is PostgreSQL's own, and what few programs use, as TestDropIn does.
func TestDropInPostgres(t *testing.T) {
	dsn := pgtest.DSN(t)
	for _, s := range dropIns {
		t.Run(s.name, func(t *testing.T) {
			pooltest.CompareScript(t, dsn, s.limit, s.params, func(r *pooltest.Script) { s.run(&dropIn{r}) })
		})
	}
}

func (s *dropIn) copy() {
	s.MustExec("CREATE TABLE items (id int PRIMARY KEY, name text, data bytea, at timestamptz)")
	// Deprecated or not, this is what programs have.
	statements := []string{
		pq.CopyIn("items", "id", "name", "data", "at"), //lint:ignore SA1019 see above
		"COPY items (id, name, data, at) FROM STDIN",
	}
	for i, statement := range statements {
		tx, err := s.Begin()
		s.Must(err)
		stmt, err := tx.Prepare(statement)
		s.Must(err)
		for j := range 500 {
			_, err := stmt.Exec(1000*i+j, fmt.Sprintf("tab\tline\n%d", j), []byte{0, byte(j), '\\'}, time.Unix(int64(j), 0))
			s.Must(err)
		}
		_, err = stmt.Exec(1000*i+999, nil, nil, nil)
		s.Must(err)
		res, err := stmt.Exec()
		s.NoteError("flush", err)
		n, err := res.RowsAffected()
		s.Note("%d copied, %v", n, err)
		s.NoteError("close", stmt.Close())
		s.NoteError("close again", stmt.Close())
		s.NoteError("commit", tx.Commit())
	}
	s.NoteQuery("SELECT count(*), sum(id), md5(string_agg(name, '|' ORDER BY id)), min(data), max(at) FROM items")

	for _, wrong := range []any{"not a number", 0 /* taken */, struct{}{}} {
		tx, err := s.Begin()
		s.Must(err)
		stmt, err := tx.Prepare(statements[1])
		s.Must(err)
		_, err = stmt.Exec(7777, "fine", []byte{1}, nil)
		s.NoteError("before", err)
		_, err = stmt.Exec(wrong, "x", nil, nil)
		// What the server minds may show now or at the next call; it has to show by the end.
		_, flush := stmt.Exec()
		s.Note("copying %v failed: %t", wrong, err != nil || flush != nil)
		stmt.Close()
		s.NoteError("rollback", tx.Rollback())
	}
	s.NoteQuery("SELECT count(*) FROM items")

	tx, err := s.Begin()
	s.Must(err)
	stmt, err := tx.Prepare(statements[1])
	s.Must(err)
	_, err = stmt.Exec(8888, "abandoned", nil, nil)
	s.Must(err)
	_, err = tx.Exec("SELECT 1")
	s.Note("another query during COPY is refused: %t", err != nil)
	s.NoteError("close", stmt.Close())
	tx.Rollback()
	s.NoteQuery("SELECT count(*) FROM items")

	_, err = s.Prepare(statements[1])
	s.NoteError("COPY outside of a transaction", err)
	_, err = s.Exec("COPY items TO STDOUT")
	s.Note("COPY TO STDOUT is refused: %t", err != nil)
	s.NoteQuery("SELECT count(*) FROM items")
}

func (s *dropIn) resultSets() {
	s.NoteQuery("SELECT 1 AS a; SELECT 'x' AS b, 'y' AS c; SELECT generate_series(1, 3); SELECT WHERE false")
	s.NoteQuery("SELECT 1; SELECT 1/0; SELECT 2")
	s.NoteQuery("SELECT 1; SELECT 2", "an argument")
	s.NoteQuery("CREATE TABLE pairs (id int); INSERT INTO pairs VALUES (1), (2) RETURNING id; SELECT count(*) FROM pairs")

	rows, err := s.Query("SELECT generate_series(1, 1000); SELECT 2")
	s.Must(err)
	s.Note("first row: %t", rows.Next())
	s.Note("next set while rows are left: %t", rows.NextResultSet())
	s.Note("its row: %t", rows.Next())
	s.NoteError("closed before the end", rows.Close())
	s.NoteQuery("SELECT 'alive'")
	res, err := s.Exec("INSERT INTO pairs VALUES (3); INSERT INTO pairs VALUES (4), (5)")
	s.Must(err)
	n, err := res.RowsAffected()
	s.Note("%d, %v", n, err)
}

func (s *dropIn) columnTypes() {
	s.MustExec(`CREATE TYPE mood AS ENUM ('calm', 'stormy');
		CREATE TABLE types (
			i2 smallint, i4 int NOT NULL, i8 bigint, r real, d double precision, n numeric(10, 3), n0 numeric, b boolean,
			t text, v varchar(20), v0 varchar, c char(5), by bytea, bits bit(3), vbits varbit(7), u uuid, j json, jb jsonb,
			da date, ti time, titz timetz, ts timestamp, tstz timestamptz(3), iv interval, ip inet, ia int[], ta text[][],
			na numeric(5, 2)[], x xml, p point, m mood, o oid, mon money)`)
	stmt, err := s.Prepare("SELECT * FROM types WHERE i4 = $1")
	s.Must(err)
	defer stmt.Close()
	for _, filled := range []bool{false, true} {
		if filled {
			s.MustExec(`INSERT INTO types VALUES (1, 2, 3, 1.5, 2.5, 1234.567, 1e30, true, 't', 'v', '', 'c', '\x00ff', '101', '1',
				'00000000-0000-0000-0000-000000000001', '[1]', '{"a": 1}', '2024-02-29', '12:34:56', '12:34:56+02',
				'2024-02-29 12:34:56.789', '2024-02-29 12:34:56.789+01', '1 day 2 hours', '::1', '{1,2}', '{{a,b},{c,d}}',
				'{1.25}', '<a/>', '(1,2)', 'stormy', 7, 12.5)`)
			s.MustExec("INSERT INTO types (i4) VALUES (3)")
		}
		for _, c := range []struct {
			how   string
			query func() (*sql.Rows, error)
		}{
			{"text", func() (*sql.Rows, error) { return s.Query("SELECT * FROM types WHERE i4 = 2") }},
			{"argument", func() (*sql.Rows, error) { return s.Query("SELECT * FROM types WHERE i4 = $1", 2) }},
			{"prepared", func() (*sql.Rows, error) { return stmt.Query(2) }},
			{"nulls", func() (*sql.Rows, error) { return stmt.Query(3) }},
		} {
			how := c.how
			rows, err := c.query()
			s.Must(err)
			columns, err := rows.ColumnTypes()
			s.Must(err)
			for i, c := range columns {
				length, hasLength := c.Length()
				precision, scale, hasScale := c.DecimalSize()
				nullable, known := c.Nullable()
				s.Note("%s %t %02d %s %s length %d %t, decimal %d %d %t, nullable %t %t, %v", how, filled, i, c.Name(),
					c.DatabaseTypeName(), length, hasLength, precision, scale, hasScale, nullable, known, c.ScanType())
			}
			for rows.Next() {
				s.Note("%s: %s", how, s.ScanRow(rows, len(columns)))
			}
			s.Must(rows.Close())
		}
	}
}

func (s *dropIn) notifications() {
	listener, err := s.Conn(s.Ctx)
	s.Must(err)
	defer listener.Close()
	sender, err := s.Conn(s.Ctx)
	s.Must(err)
	defer sender.Close()
	var got []*pq.Notification
	s.Must(listener.Raw(func(dc any) error {
		pq.SetNotificationHandler(lifeguard.Unwrap(dc).(driver.Conn), func(n *pq.Notification) { got = append(got, n) })
		return nil
	}))
	_, err = listener.ExecContext(s.Ctx, "LISTEN news")
	s.Must(err)
	senderPID := s.PID(sender)
	for i := range 3 {
		_, err = sender.ExecContext(s.Ctx, "SELECT pg_notify('news', $1)", fmt.Sprint("number ", i))
		s.Must(err)
	}
	_, err = sender.ExecContext(s.Ctx, "SELECT pg_notify('other', 'not for us')")
	s.Must(err)
	pooltest.Eventually(s.T, "notifications come with the replies to other queries", func() bool {
		_, err := listener.ExecContext(s.Ctx, "SELECT 1")
		s.Must(err)
		return len(got) >= 3
	})
	for _, n := range got {
		s.Note("%s %q, from the sender: %t", n.Channel, n.Extra, n.BePid == senderPID)
	}
	s.Must(listener.Raw(func(dc any) error {
		pq.SetNotificationHandler(lifeguard.Unwrap(dc).(driver.Conn), nil)
		return nil
	}))
}

func (s *dropIn) notices() {
	conn, err := s.Conn(s.Ctx)
	s.Must(err)
	defer conn.Close()
	s.Must(conn.Raw(func(dc any) error {
		pq.SetNoticeHandler(lifeguard.Unwrap(dc).(driver.Conn), func(n *pq.Error) { s.Note("%s: %s", n.Severity, n.Message) })
		return nil
	}))
	_, err = conn.ExecContext(s.Ctx, "DO $$ BEGIN RAISE NOTICE 'look'; RAISE WARNING 'mind %', 'this'; END $$")
	s.Must(err)
	_, err = conn.ExecContext(s.Ctx, "DROP TABLE IF EXISTS missing")
	s.Must(err)
}

func (s *dropIn) arrays() {
	s.MustExec("CREATE TABLE arrays (i bigint[], f float8[], t text[], b bool[], by bytea[], i2 int[][], t2 text[][])")
	_, err := s.Exec("INSERT INTO arrays VALUES ($1, $2, $3, $4, $5, $6, $7)",
		pq.Array([]int64{1, -2, math.MaxInt64}), pq.Array([]float64{1.5, math.Inf(1)}),
		pq.Array([]string{"", "a,b", `"quoted"`, `back\slash`, "NULL"}), pq.Array([]bool{true, false}),
		pq.Array([][]byte{{}, {0, 255}, []byte("{}")}), pq.Array([][]int64{{1, 2}, {3, 4}}),
		pq.Array([][]string{{"a", "b c"}, {"{", "}"}}))
	s.Must(err)
	_, err = s.Exec("INSERT INTO arrays VALUES ($1, $2, $3)", pq.Array([]int64{}), pq.Array([]float64(nil)), pq.Array(nil))
	s.NoteError("empty, nil and nothing", err)
	for _, stmt := range []string{"SELECT * FROM arrays", "SELECT * FROM arrays WHERE $1"} {
		var args []any
		if strings.Contains(stmt, "$1") {
			args = []any{true}
		}
		s.NoteQuery(stmt, args...)
		rows, err := s.Query(stmt, args...)
		s.Must(err)
		for rows.Next() {
			var (
				i, f, t, b = []int64{}, []float64{}, []string{}, []bool{}
				by         [][]byte
				i2, t2     = [2][2]int64{}, [2][2]string{}
			)
			err := rows.Scan(pq.Array(&i), pq.Array(&f), pq.Array(&t), pq.Array(&b), pq.Array(&by), pq.Array(&i2), pq.Array(&t2))
			s.NoteError("scan", err)
			s.Note("%v %v %q %v %q %v %q", i, f, t, b, by, i2, t2)
		}
		s.Must(rows.Close())
	}
	_, err = s.Exec("INSERT INTO arrays (i2) VALUES ($1)", pq.Array([][]int64{{1, 2}, {3}}))
	s.NoteError("ragged", err)
	_, err = s.Exec("SELECT $1::int[]", []int{1, 2})
	s.NoteError("a slice", err)
	s.NoteQuery("SELECT g FROM generate_series(1, 9) g WHERE g = ANY($1)", pq.Array([]int{2, 4, 99}))
}

func (s *dropIn) cursors() {
	tx, err := s.Begin()
	s.Must(err)
	_, err = tx.Exec("DECLARE c SCROLL CURSOR FOR SELECT generate_series(1, 10)")
	s.Must(err)
	for _, fetch := range []string{"FETCH 3 FROM c", "MOVE 2 IN c", "FETCH 2 FROM c", "FETCH BACKWARD 1 FROM c", "FETCH ALL FROM c", "FETCH 1 FROM c"} {
		rows, err := tx.Query(fetch)
		s.NoteRows(fetch, rows, err)
	}
	s.NoteError("commit", tx.Commit())
	_, err = s.Exec("FETCH 1 FROM c")
	s.NoteError("after the transaction", err)

	conn, err := s.Conn(s.Ctx)
	s.Must(err)
	_, err = conn.ExecContext(s.Ctx, "DECLARE h CURSOR WITH HOLD FOR SELECT generate_series(1, 4)")
	s.Must(err)
	rows, err := conn.QueryContext(s.Ctx, "FETCH 2 FROM h")
	s.NoteRows("with hold", rows, err)
	s.Must(conn.Close())
	s.NoteQuery("FETCH 1 FROM h") // the only connection
}

func (s *dropIn) savepoints() {
	s.MustExec("CREATE TABLE points (id int PRIMARY KEY)")
	tx, err := s.Begin()
	s.Must(err)
	for _, statement := range []string{
		"INSERT INTO points VALUES (1)", "SAVEPOINT a", "INSERT INTO points VALUES (2)", "INSERT INTO points VALUES (1)",
		"INSERT INTO points VALUES (3)", "ROLLBACK TO a", "INSERT INTO points VALUES (4)", "SAVEPOINT b", "RELEASE b",
		"ROLLBACK TO b", "ROLLBACK TO a", "INSERT INTO points VALUES (5)",
	} {
		_, err := tx.Exec(statement)
		s.NoteError(statement, err)
	}
	s.NoteError("commit", tx.Commit())
	s.NoteQuery("SELECT id FROM points ORDER BY id")

	tx, err = s.Begin()
	s.Must(err)
	_, err = tx.Exec("INSERT INTO points VALUES ($1), ($1)", 9)
	s.NoteError("twice", err)
	_, err = tx.Exec("SELECT 1")
	s.NoteError("in a failed transaction", err)
	s.NoteError("commit of a failed transaction", tx.Commit())
	s.NoteQuery("SELECT id FROM points ORDER BY id")
}

func (s *dropIn) settings() {
	conn, err := s.Conn(s.Ctx)
	s.Must(err)
	show := func(q pooltest.RowQueryer) {
		var zone, path string
		var at time.Time
		s.Must(q.QueryRowContext(s.Ctx, "SELECT current_setting('TimeZone'), current_setting('search_path'), "+
			"'2024-02-29 12:00:00+00'::timestamptz").Scan(&zone, &path, &at))
		s.Note("%s %s %s %s", zone, path, at.Format(time.RFC3339), at.Location())
	}
	show(conn)
	_, err = conn.ExecContext(s.Ctx, "SET TimeZone = 'Asia/Kolkata'; SET search_path = pg_catalog, script")
	s.Must(err)
	show(conn)
	_, err = conn.ExecContext(s.Ctx, "CREATE TEMPORARY TABLE mine (id int); INSERT INTO mine VALUES (1)")
	s.Must(err)
	s.Must(conn.Close())
	show(s) // it is the same connection, and nobody resets it
	s.NoteQuery("SELECT * FROM mine")
	_, err = s.Exec("SELECT pg_advisory_lock(7)")
	s.Must(err)
	s.NoteQuery("SELECT pg_advisory_unlock(7)")
	tx, err := s.Begin()
	s.Must(err)
	_, err = tx.Exec("SET LOCAL TimeZone = 'America/New_York'")
	s.Must(err)
	show(tx)
	s.Must(tx.Commit())
	show(s)
	s.MustExec("RESET ALL")
	show(s)
	s.MustExec("DISCARD ALL")
	s.NoteQuery("SELECT 'alive'")
}

func (s *dropIn) errorBetweenRows() {
	pid := s.PID(s)
	for _, args := range [][]any{nil, {true}} {
		query := "SELECT g, 100 / (g - 3) FROM generate_series(1, 5) g"
		if args != nil {
			query += " WHERE $1"
		}
		s.NoteQuery(query, args...)
		s.NoteQuery("SELECT 'alive'")
	}
	rows, err := s.Query("SELECT g FROM generate_series(1, 20000) g")
	s.Must(err)
	for range 10 {
		s.Note("%t", rows.Next())
	}
	s.NoteError("closed early", rows.Close())
	s.Note("%t", rows.Next())
	s.NoteError("its error", rows.Err())
	var g int
	s.NoteError("scan after close", rows.Scan(&g))

	tx, err := s.Begin()
	s.Must(err)
	rows, err = tx.Query("SELECT g FROM generate_series(1, 20000) g")
	s.Must(err)
	s.Note("%t", rows.Next())
	_, err = tx.Exec("SELECT 1")
	s.Note("a second query while rows are open is refused: %t", err != nil)
	s.NoteError("close", rows.Close())
	tx.Rollback()
	s.Note("kept: %t", s.PID(s) == pid)
}

func (s *dropIn) statementTimeout() {
	conn, err := s.Conn(s.Ctx)
	s.Must(err)
	pid := s.PID(conn)
	_, err = conn.ExecContext(s.Ctx, "SET statement_timeout = '20ms'")
	s.Must(err)
	_, err = conn.ExecContext(s.Ctx, "SELECT pg_sleep(60)")
	s.NoteError("exec", err)
	rows, err := conn.QueryContext(s.Ctx, "SELECT pg_sleep($1)", 60)
	if err == nil {
		rows.Next()
		err = errors.Join(rows.Err(), rows.Close())
	}
	s.NoteError("query", errors.Unwrap(errors.Join(err)))
	s.Note("timed out: %t", pooltest.IsCode(err, "57014"))
	s.Must(conn.Close())
	s.MustExec("SET statement_timeout = 0")
	s.Note("kept: %t", s.PID(s) == pid)

	tx, err := s.Begin()
	s.Must(err)
	_, err = tx.Exec("SET LOCAL statement_timeout = '20ms'")
	s.Must(err)
	_, err = tx.Exec("SELECT pg_sleep(60)")
	s.NoteError("in a transaction", err)
	s.NoteError("commit", tx.Commit())
	s.MustExec("SET idle_in_transaction_session_timeout = '20ms'")
	tx, err = s.Begin()
	s.Must(err)
	pooltest.Eventually(s.T, "the server ends the session", func() bool { return len(s.Backends(s.T)) == 0 })
	_, err = tx.Exec("SELECT 1")
	s.Note("the session is over: %t", err != nil)
	s.Note("rollback fails: %t", tx.Rollback() != nil)
	s.Note("kept: %t", s.PID(s) == pid)
}

// cancelledAtRandom cancels around the moment at which a query ends. The next caller must get its own result.
func (s *dropIn) cancelledAtRandom() {
	seed := pooltest.Seed(s.T).Uint64()
	n := 40
	if testing.Short() {
		n = 10
	}
	var wg sync.WaitGroup
	var wrong, poisoned atomic.Int64
	for g := range 8 {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(seed, uint64(g)))
			for i := range n {
				want := g*1_000_000 + i
				ctx, cancel := context.WithTimeout(s.Ctx, time.Duration(rnd.IntN(1500))*time.Microsecond)
				var got int
				if err := s.QueryRowContext(ctx, "SELECT $1::int", want).Scan(&got); err == nil && got != want {
					wrong.Add(1)
				}
				cancel()
				if err := s.QueryRowContext(s.Ctx, "SELECT $1::int", -want).Scan(&got); err != nil {
					poisoned.Add(1)
					s.T.Error("the query after a cancelled one:", err)
				} else if got != -want {
					wrong.Add(1)
				}
			}
		})
	}
	wg.Wait()
	s.Note("%d wrong, %d poisoned", wrong.Load(), poisoned.Load())
}
