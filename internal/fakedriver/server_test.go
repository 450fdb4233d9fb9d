package fakedriver_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-lifeguard/lifeguard/internal/fakedriver"
)

// What database/sql does with a connection breaks none of the rules, and
// everything is counted.
func TestServerThroughDatabaseSQL(t *testing.T) {
	s := fakedriver.New()
	db := sql.OpenDB(s.Connector(fakedriver.WithClose()))
	db.SetMaxIdleConns(2)
	ctx := t.Context()

	var n int
	if err := db.QueryRow("SELECT 1").Scan(&n); err != nil || n != 1 {
		t.Fatalf("QueryRow = %d, %v; want 1", n, err)
	}
	rows, err := db.Query("rows 100", 1, "two", nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := s.OpenRows(); got != 1 {
		t.Errorf("OpenRows = %d while rows are open", got)
	}
	count := 0
	for rows.Next() {
		count++
	}
	if rows.Err() != nil || count != 100 {
		t.Errorf("%d rows, %v; want 100", count, rows.Err())
	}
	result, err := db.Exec("UPDATE")
	if err != nil {
		t.Fatal(err)
	}
	if n, err := result.RowsAffected(); n != 1 || err != nil {
		t.Errorf("RowsAffected = %d, %v", n, err)
	}

	tx, err := db.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	conns := s.Conns()
	if len(conns) != 1 || !conns[0].InTx() || conns[0].ID() != 1 {
		t.Errorf("connections in a transaction: %v", conns)
	}
	stmt, err := tx.Prepare("rows 3")
	if err != nil {
		t.Fatal(err)
	}
	if s.Stmts() != 1 {
		t.Errorf("Stmts = %d", s.Stmts())
	}
	if _, err := stmt.Exec(7); err != nil {
		t.Error(err)
	}
	if err := tx.Commit(); err != nil {
		t.Error(err)
	}
	if conns[0].InTx() || s.Stmts() != 0 {
		t.Error("a transaction or a statement is left after Commit")
	}
	if err := db.Ping(); err != nil {
		t.Error(err)
	}

	// With the first connection taken, another is dialled.
	held, err := db.Conn(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.Exec("UPDATE"); err != nil {
		t.Error(err)
	}
	if s.MaxOpen() != 2 || s.Open() != 2 || s.Dials() != 2 || s.MaxDialing() != 1 || s.Dialing() != 0 {
		t.Errorf("open %d of %d, dials %d (%d of %d)", s.Open(), s.MaxOpen(), s.Dials(), s.Dialing(), s.MaxDialing())
	}
	if err := held.Close(); err != nil {
		t.Error(err)
	}
	if s.Resets() == 0 || s.Pings() != 1 || s.Prepares() != 1 || s.Queries() != 5 {
		t.Errorf("resets %d, pings %d, prepares %d, queries %d", s.Resets(), s.Pings(), s.Prepares(), s.Queries())
	}
	if err := db.Close(); err != nil {
		t.Error(err)
	}
	if s.Open() != 0 || s.Closed() != 2 || s.ConnectorCloses() != 1 {
		t.Errorf("after Close: open %d, closed %d, connector closed %d times", s.Open(), s.Closed(), s.ConnectorCloses())
	}
	if v := s.Violations(); len(v) != 0 {
		t.Error(v)
	}
}

func TestServerDriver(t *testing.T) {
	s := fakedriver.New()
	c, err := s.Driver().Open("host=a")
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if got := s.DSNs(); !slices.Equal(got, []string{"host=a"}) {
		t.Errorf("DSNs = %q", got)
	}
}

func TestScripts(t *testing.T) {
	fail := errors.New("scripted")
	s := fakedriver.New()
	db := sql.OpenDB(s.Connector())
	defer db.Close()
	ctx := t.Context()

	s.OnDial(func(context.Context) error { return fail })
	if err := db.Ping(); !errors.Is(err, fail) {
		t.Errorf("dial: %v", err)
	}
	s.OnDial(nil)

	s.OnPing(func(context.Context, *fakedriver.Conn) error { return fail })
	if err := db.Ping(); !errors.Is(err, fail) {
		t.Errorf("ping: %v", err)
	}
	s.OnPrepare(func(_ context.Context, _ *fakedriver.Conn, query string) error { return errors.New(query) })
	if _, err := db.Prepare("q"); err == nil || err.Error() != "q" {
		t.Errorf("prepare: %v", err)
	}
	s.OnQuery(func(_ context.Context, _ *fakedriver.Conn, query string, args []driver.NamedValue) error {
		if query != "q" || len(args) != 1 || args[0].Value != int64(5) {
			t.Errorf("OnQuery got %q %v", query, args)
		}
		return fail
	})
	if _, err := db.Query("q", 5); !errors.Is(err, fail) {
		t.Errorf("query: %v", err)
	}
	if _, err := db.Exec("q", 5); !errors.Is(err, fail) {
		t.Errorf("exec: %v", err)
	}
	s.OnQuery(nil)
	s.OnNext(func(_ *fakedriver.Conn, row int) error {
		if row == 2 {
			return fail
		}
		return nil
	})
	rows, err := db.Query("rows 3")
	if err != nil {
		t.Fatal(err)
	}
	if !rows.Next() || rows.Next() || !errors.Is(rows.Err(), fail) {
		t.Errorf("rows: %v", rows.Err())
	}
	s.OnBegin(func(_ context.Context, _ *fakedriver.Conn, opts driver.TxOptions) error {
		if opts.ReadOnly {
			return fail
		}
		return nil
	})
	if _, err := db.BeginTx(ctx, &sql.TxOptions{ReadOnly: true}); !errors.Is(err, fail) {
		t.Errorf("begin: %v", err)
	}
	s.OnCommit(func(*fakedriver.Conn) error { return fail })
	s.OnRollback(func(*fakedriver.Conn) error { return fail })
	for name, end := range map[string]func(*sql.Tx) error{"commit": (*sql.Tx).Commit, "rollback": (*sql.Tx).Rollback} {
		tx, err := db.Begin()
		if err != nil {
			t.Fatal(err)
		}
		if err := end(tx); !errors.Is(err, fail) {
			t.Errorf("%s: %v", name, err)
		}
	}
	s.OnReset(func(context.Context, *fakedriver.Conn) error { return driver.ErrBadConn })
	before := s.Dials()
	if _, err := db.Exec("q"); err != nil || s.Dials() != before+1 {
		t.Errorf("a refused reset: %v, %d dials", err, s.Dials()-before)
	}
	s.OnReset(nil)

	s.OnQuery(func(context.Context, *fakedriver.Conn, string, []driver.NamedValue) error { panic("scripted panic") })
	func() {
		defer func() {
			if r := recover(); r != "scripted panic" {
				t.Errorf("recovered %v", r)
			}
		}()
		db.Exec("q")
	}()
	s.OnQuery(nil)
	if _, err := db.Exec("q"); err != nil {
		t.Error(err)
	}

	s.OnClose(func(*fakedriver.Conn) error { return fail })
	if err := db.Close(); !errors.Is(err, fail) {
		t.Errorf("close: %v", err)
	}
	if s.Open() != 0 {
		t.Errorf("%d open after Close", s.Open())
	}
	if v := s.Violations(); len(v) != 0 {
		t.Error(v)
	}
}

func TestDialOfNothing(t *testing.T) {
	s := fakedriver.New()
	s.OnDial(func(context.Context) error { return fakedriver.ErrNothing })
	if c, err := s.Connector().Connect(t.Context()); c != nil || err != nil {
		t.Errorf("Connect = %v, %v; want neither", c, err)
	}
	if s.Dials() != 1 || s.Open() != 0 {
		t.Errorf("%d dials, %d open", s.Dials(), s.Open())
	}
}

func TestWithoutReset(t *testing.T) {
	s := fakedriver.New()
	c, err := s.Connector(fakedriver.WithoutReset()).Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := c.(driver.SessionResetter); ok {
		t.Error("there is a ResetSession")
	}
	if _, ok := c.(driver.Validator); ok {
		t.Error("there is an IsValid")
	}
	if err := c.(driver.Pinger).Ping(t.Context()); err != nil || s.Pings() != 1 {
		t.Errorf("%v, %d pings", err, s.Pings())
	}
}

// A blocking script is durably blocked in a bubble, so virtual time passes.
func TestScriptsBlockInABubble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := fakedriver.New()
		s.OnDial(func(ctx context.Context) error {
			time.Sleep(150 * time.Millisecond)
			return nil
		})
		s.OnQuery(func(ctx context.Context, c *fakedriver.Conn, query string, _ []driver.NamedValue) error {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-c.Gone():
				return errors.New("connection lost")
			}
		})
		db := sql.OpenDB(s.Connector())
		defer db.Close()
		start := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := db.ExecContext(ctx, "q"); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		if got := time.Since(start); got != time.Second {
			t.Errorf("took %v", got)
		}
		done := make(chan error)
		go func() {
			_, err := db.ExecContext(t.Context(), "q")
			done <- err
		}()
		synctest.Wait()
		if n := s.Kill(); n != 1 {
			t.Errorf("killed %d", n)
		}
		if err := <-done; err == nil || err.Error() != "connection lost" {
			t.Error(err)
		}
		if s.MaxDialing() != 1 {
			t.Errorf("MaxDialing = %d", s.MaxDialing())
		}
	})
}

// The next call finds the dead connection out and database/sql takes another.
func TestKill(t *testing.T) {
	s := fakedriver.New()
	db := sql.OpenDB(s.Connector())
	defer db.Close()
	if err := db.Ping(); err != nil {
		t.Fatal(err)
	}
	dead := s.Conns()[0]
	dead.Kill()
	if dead.IsValid() || !dead.Killed() {
		t.Error("a killed connection is valid")
	}
	if err := db.Ping(); err != nil {
		t.Error(err)
	}
	if s.Dials() != 2 || s.Closed() != 1 || s.Open() != 1 {
		t.Errorf("dials %d, closed %d, open %d", s.Dials(), s.Closed(), s.Open())
	}
	if v := s.Violations(); len(v) != 0 {
		t.Error(v)
	}
}

func TestViolations(t *testing.T) {
	ctx := t.Context()
	connect := func(s *fakedriver.Server) *fakedriver.Conn {
		c, err := s.Connector().Connect(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return c.(*fakedriver.Conn)
	}
	must := func(t *testing.T, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	tests := []struct {
		name string
		want string
		do   func(t *testing.T, s *fakedriver.Server, c *fakedriver.Conn)
	}{
		{"two at once", "Ping while Exec runs", func(t *testing.T, s *fakedriver.Server, c *fakedriver.Conn) {
			running, goOn, done := make(chan bool), make(chan bool), make(chan error)
			s.OnQuery(func(context.Context, *fakedriver.Conn, string, []driver.NamedValue) error {
				running <- true
				<-goOn
				return nil
			})
			go func() {
				_, err := c.ExecContext(ctx, "q", nil)
				done <- err
			}()
			<-running
			must(t, c.Ping(ctx))
			goOn <- true
			must(t, <-done)
			// The flag is down again.
			must(t, c.Ping(ctx))
		}},
		{"statement closed in a query", "Stmt.Close while Exec runs", func(t *testing.T, s *fakedriver.Server, c *fakedriver.Conn) {
			st, err := c.Prepare("q")
			must(t, err)
			s.OnQuery(func(context.Context, *fakedriver.Conn, string, []driver.NamedValue) error {
				return st.Close()
			})
			_, err = c.ExecContext(ctx, "q", nil)
			must(t, err)
		}},
		{"closed in a query", "Close while Exec runs", func(t *testing.T, s *fakedriver.Server, c *fakedriver.Conn) {
			s.OnQuery(func(context.Context, *fakedriver.Conn, string, []driver.NamedValue) error { return c.Close() })
			_, err := c.ExecContext(ctx, "q", nil)
			must(t, err)
		}},
		{"closed twice", "Close after Close", func(t *testing.T, _ *fakedriver.Server, c *fakedriver.Conn) {
			must(t, c.Close())
			must(t, c.Close())
		}},
		{"query after close", "Query after Close", func(t *testing.T, _ *fakedriver.Server, c *fakedriver.Conn) {
			must(t, c.Close())
			if _, err := c.QueryContext(ctx, "q", nil); err == nil {
				t.Error("no error")
			}
		}},
		{"valid after close", "IsValid after Close", func(t *testing.T, _ *fakedriver.Server, c *fakedriver.Conn) {
			must(t, c.Close())
			if c.IsValid() {
				t.Error("valid")
			}
		}},
		{"statement after its close", "Stmt.Query after Stmt.Close", func(t *testing.T, _ *fakedriver.Server, c *fakedriver.Conn) {
			st, err := c.Prepare("q")
			must(t, err)
			must(t, st.Close())
			st.(driver.StmtQueryContext).QueryContext(ctx, nil)
		}},
		{"statement closed twice", "Stmt.Close after Stmt.Close", func(t *testing.T, s *fakedriver.Server, c *fakedriver.Conn) {
			st, err := c.Prepare("q")
			must(t, err)
			must(t, st.Close())
			must(t, st.Close())
			if s.Stmts() != 0 {
				t.Errorf("Stmts = %d", s.Stmts())
			}
		}},
		{"statement closed after the connection", "Stmt.Close after Close", func(t *testing.T, s *fakedriver.Server, c *fakedriver.Conn) {
			st, err := c.Prepare("q")
			must(t, err)
			must(t, c.Close())
			must(t, st.Close())
			if s.Stmts() != 0 {
				t.Errorf("Stmts = %d", s.Stmts())
			}
		}},
		{"rows after their close", "Rows.Next after Rows.Close", func(t *testing.T, _ *fakedriver.Server, c *fakedriver.Conn) {
			rs, err := c.QueryContext(ctx, "q", nil)
			must(t, err)
			must(t, rs.Close())
			rs.Next(make([]driver.Value, 1))
		}},
		{"rows closed twice", "Rows.Close after Rows.Close", func(t *testing.T, s *fakedriver.Server, c *fakedriver.Conn) {
			rs, err := c.QueryContext(ctx, "q", nil)
			must(t, err)
			must(t, rs.Close())
			must(t, rs.Close())
			if s.OpenRows() != 0 {
				t.Errorf("OpenRows = %d", s.OpenRows())
			}
		}},
		{"rows closed after the connection", "Rows.Close after Close", func(t *testing.T, _ *fakedriver.Server, c *fakedriver.Conn) {
			rs, err := c.QueryContext(ctx, "q", nil)
			must(t, err)
			must(t, c.Close())
			must(t, rs.Close())
		}},
		{"commit after rollback", "Commit after Rollback", func(t *testing.T, _ *fakedriver.Server, c *fakedriver.Conn) {
			tx, err := c.Begin()
			must(t, err)
			must(t, tx.Rollback())
			tx.Commit()
		}},
		{"commit after close", "Commit after Close", func(t *testing.T, _ *fakedriver.Server, c *fakedriver.Conn) {
			tx, err := c.Begin()
			must(t, err)
			must(t, c.Close())
			tx.Commit()
		}},
		{"nested", "Begin inside a transaction", func(t *testing.T, _ *fakedriver.Server, c *fakedriver.Conn) {
			_, err := c.Begin()
			must(t, err)
			_, err = c.Begin()
			must(t, err)
		}},
		{"reset in a transaction", "ResetSession inside a transaction", func(t *testing.T, _ *fakedriver.Server, c *fakedriver.Conn) {
			_, err := c.Begin()
			must(t, err)
			must(t, c.ResetSession(ctx))
		}},
		{"reset with rows", "ResetSession with 1 rows open", func(t *testing.T, _ *fakedriver.Server, c *fakedriver.Conn) {
			_, err := c.QueryContext(ctx, "q", nil)
			must(t, err)
			must(t, c.ResetSession(ctx))
		}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s := fakedriver.New()
			test.do(t, s, connect(s))
			v := s.Violations()
			if len(v) != 1 || v[0] != "conn 1: "+test.want {
				t.Errorf("violations %q, want %q", v, test.want)
			}
		})
	}
}

func TestViolationsAreBounded(t *testing.T) {
	s := fakedriver.New()
	c, err := s.Connector().Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for range 150 {
		c.Close()
	}
	v := s.Violations()
	if len(v) != 101 || !strings.HasPrefix(v[100], "and 49 more") {
		t.Errorf("%d violations, the last %q", len(v), v[len(v)-1])
	}
}

func TestFastAllocates(t *testing.T) {
	ctx := t.Context()
	dc, err := fakedriver.Fast().Connect(ctx)
	if err != nil {
		t.Fatal(err)
	}
	dest := make([]driver.Value, 1)
	n := testing.AllocsPerRun(100, func() {
		rs, _ := dc.(driver.QueryerContext).QueryContext(ctx, "rows 100", nil)
		for rs.Next(dest) == nil {
		}
		rs.Close()
		dc.(driver.ExecerContext).ExecContext(ctx, "q", nil)
		tx, _ := dc.(driver.ConnBeginTx).BeginTx(ctx, driver.TxOptions{})
		tx.Commit()
	})
	if n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// Rows that are open together on one connection do not disturb each other.
func TestFastRows(t *testing.T) {
	db := sql.OpenDB(fakedriver.Fast())
	defer db.Close()
	tx, err := db.Begin()
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback()
	outer, err := tx.Query("rows 3")
	if err != nil {
		t.Fatal(err)
	}
	count := 0
	for outer.Next() {
		var n int
		if err := tx.QueryRow("q").Scan(&n); err != nil || n != 1 {
			t.Error(n, err)
		}
		count++
	}
	if count != 3 || outer.Err() != nil {
		t.Errorf("%d rows, %v", count, outer.Err())
	}
}

func BenchmarkFast(b *testing.B) {
	db := sql.OpenDB(fakedriver.Fast())
	defer db.Close()
	b.Run("Exec", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := db.Exec("q"); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("QueryRow", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			var n int64
			if err := db.QueryRow("q").Scan(&n); err != nil {
				b.Fatal(err)
			}
		}
	})
}
