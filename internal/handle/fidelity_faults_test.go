package handle_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing/synctest"
	"time"
)

func (p *play) contexts() {
	ended, cancel := context.WithCancel(p.ctx)
	cancel()
	p.step("a ctx that is over", func() {
		p.error("Ping", p.db.PingContext(ended))
		p.exec(p.db, ended, "q")
		p.query(p.db, ended, "q")
		_, err := p.db.PrepareContext(ended, "q")
		p.error("Prepare", err)
		_, err = p.db.BeginTx(ended, nil)
		p.error("Begin", err)
		_, err = p.db.Conn(ended)
		p.error("Conn", err)
	})
	p.step("a ctx that is over, on a held connection", func() {
		conn, err := p.db.Conn(p.ctx)
		p.error("Conn", err)
		if err != nil {
			return
		}
		p.error("Ping", conn.PingContext(ended))
		p.exec(conn, ended, "q", 1)
		p.query(conn, ended, "q", 1)
		st, err := conn.PrepareContext(ended, "q")
		p.error("Prepare", err)
		if err == nil {
			p.error("Close", st.Close())
		}
		st, err = conn.PrepareContext(p.ctx, "q")
		p.error("Prepare", err)
		if err == nil {
			_, err = st.ExecContext(ended, 1)
			p.error("Exec", err)
			rows, err := st.QueryContext(ended, 1)
			p.error("Query", err)
			p.settle(ended)
			p.rows(rows, err)
			p.error("Close", st.Close())
		}
		p.error("Close", conn.Close())
		p.where()
	})
	p.step("a deadline", func() {
		ctx, cancel := context.WithTimeout(p.ctx, time.Hour)
		defer cancel()
		p.error("Ping", p.db.PingContext(ctx))
		p.exec(p.db, ctx, "q", 1)
		p.query(p.db, ctx, "q", 1)
		tx, err := p.db.BeginTx(ctx, nil)
		p.error("Begin", err)
		if err == nil {
			p.exec(tx, ctx, "q")
			p.error("Rollback", tx.Rollback())
		}
	})
	// The ctx ends in the middle of a call.
	operations := map[string]func(ctx context.Context){
		"Exec":  func(ctx context.Context) { p.exec(p.db, ctx, "q", 1) },
		"Query": func(ctx context.Context) { p.query(p.db, ctx, "three", 1) },
		"Begin": func(ctx context.Context) {
			tx, err := p.db.BeginTx(ctx, nil)
			p.error("Begin", err)
			if err == nil {
				p.settle(ctx)
				p.error("Commit", tx.Commit())
			}
		},
		"Ping": func(ctx context.Context) { p.error("Ping", p.db.PingContext(ctx)) },
	}
	endsIn := func(kind, operation string) {
		p.step(fmt.Sprintf("the ctx ends in %s, called by %s", kind, operation), func() {
			p.ending(func(ctx context.Context, end func()) {
				p.fail(kind, func() error { end(); return nil })
				operations[operation](ctx)
				p.settle(ctx)
				p.noFaults()
			})
			p.where()
		})
	}
	if p.full {
		for _, kind := range []string{"Exec", "Query", "Prepare", "Begin", "Ping", "CheckNamedValue",
			"Stmt.CheckNamedValue", "Stmt.Exec", "Stmt.Query", "ResetSession"} {
			for _, operation := range []string{"Exec", "Query", "Begin", "Ping"} {
				endsIn(kind, operation)
			}
		}
	} else {
		endsIn("CheckNamedValue", "Exec") // just before the driver is called
		endsIn("CheckNamedValue", "Query")
		endsIn("Prepare", "Exec")
		endsIn("Query", "Query")
		endsIn("Begin", "Begin")
	}
	p.step("the ctx ends while rows are open", func() {
		p.ending(func(ctx context.Context, end func()) {
			rows, err := p.db.QueryContext(ctx, "three")
			p.error("Query", err)
			if err != nil {
				return
			}
			p.note("Next %t", rows.Next())
			end()
			synctest.Wait()
			p.note("Next %t", rows.Next())
			p.error("Err", rows.Err())
			p.error("Close", rows.Close())
		})
		p.where()
	})
}

// handsOnBadConn is true where database/sql hands driver.ErrBadConn on without
// giving the connection up. lifeguard does give it up, see [TestBadConnHandedOn].
func handsOnBadConn(kind, in string) bool {
	return kind == "Rows.Next" || kind == "Rows.NextResultSet" || strings.HasPrefix(in, "Tx.")
}

// faulty makes one kind of call after another fail in one way after another,
// where the filter agrees.
func (p *play) faulty(filter func(kind string) bool) {
	ctx := p.ctx
	wrapped := fmt.Errorf("the connection is gone: %w", driver.ErrBadConn)
	faults := []struct {
		name string
		err  error
		n    int
	}{
		{"an error", errDriver, 1},
		{"ErrBadConn once", driver.ErrBadConn, 1},
		{"ErrBadConn always", driver.ErrBadConn, 3},
		{"ErrBadConn twice", driver.ErrBadConn, 2},
		{"ErrBadConn, wrapped", wrapped, 1},
		{"ErrSkip", driver.ErrSkip, 1},
		{"ErrRemoveArgument", driver.ErrRemoveArgument, 1},
		{"EOF", io.EOF, 1},
		{"a canceled ctx that is not ours", context.Canceled, 1},
		{"a joined error", errors.Join(errDriver, io.EOF), 1},
	}
	if !p.full {
		faults = faults[:3]
	}
	onDB := func(do func(on execer, ctx context.Context, query string, args ...any), query string) func() {
		return func() { do(p.db, ctx, query, "a") }
	}
	inTx := func(do func(tx *sql.Tx)) func() {
		return func() {
			tx, err := p.db.BeginTx(ctx, nil)
			p.error("Begin", err)
			if err != nil {
				return
			}
			do(tx)
			p.error("Commit", tx.Commit())
		}
	}
	onConn := func(do func(c *sql.Conn)) func() {
		return func() {
			conn, err := p.db.Conn(ctx)
			p.error("Conn", err)
			if err != nil {
				return
			}
			do(conn)
			p.error("Ping", conn.PingContext(ctx))
			p.error("Close", conn.Close())
		}
	}
	onStmt := func(do func(st *sql.Stmt)) func() {
		return func() {
			st, err := p.db.PrepareContext(ctx, "? ?")
			p.error("Prepare", err)
			if err != nil {
				return
			}
			do(st)
			p.error("Close", st.Close())
		}
	}
	execStmt := func(st *sql.Stmt) {
		result, err := st.ExecContext(ctx, 1, "b")
		p.error("Exec", err)
		p.result(result, err)
	}
	queryStmt := func(st *sql.Stmt) {
		rows, err := st.QueryContext(ctx, 1, "b")
		p.error("Query", err)
		p.rows(rows, err)
	}
	exec, query := onDB(p.exec, "?"), onDB(p.query, "three")
	type faultyCall struct {
		kind string // what fails
		in   string // what is called
		do   func()
	}
	cases := []faultyCall{
		{"Exec", "Exec", exec},
		{"Prepare", "Exec", exec},
		{"Stmt.Exec", "Exec", exec},
		{"ResetSession", "Exec", exec},
		{"IsValid", "Exec", exec},
		{"CheckNamedValue", "Exec", exec},
		{"Query", "Query", query},
		{"Ping", "Ping", func() { p.error("Ping", p.db.PingContext(ctx)) }},
		{"Begin", "Begin", inTx(func(*sql.Tx) {})},
		{"Tx.Commit", "Commit", inTx(func(*sql.Tx) {})},
	}
	if p.full {
		cases = append(cases, []faultyCall{
			{"Stmt.Close", "Exec", exec},
			{"Stmt.CheckNamedValue", "Exec", exec},
			{"Stmt.ConvertValue", "Exec", exec},
			{"Result.RowsAffected", "Exec", exec},
			{"Result.LastInsertId", "Exec", exec},
			{"Close", "Exec", exec},

			{"Prepare", "Query", query},
			{"Stmt.Query", "Query", query},
			{"Stmt.Close", "Query", query},
			{"CheckNamedValue", "Query", query},
			{"Rows.Next", "Query", query},
			{"Rows.Close", "Query", query},
			{"Rows.NextResultSet", "Query", onDB(p.query, "sets")},
			{"Rows.Next", "QueryRow", onDB(p.queryRow, "three")},
			{"Rows.Close", "QueryRow", onDB(p.queryRow, "three")},

			{"Tx.Rollback", "Rollback", inTx(func(tx *sql.Tx) { p.error("Rollback", tx.Rollback()) })},
			{"Exec", "Tx.Exec", inTx(func(tx *sql.Tx) { p.exec(tx, ctx, "q", 1) })},
			{"Prepare", "Tx.Exec", inTx(func(tx *sql.Tx) { p.exec(tx, ctx, "q", 1) })},
			{"Stmt.Exec", "Tx.Exec", inTx(func(tx *sql.Tx) { p.exec(tx, ctx, "q", 1) })},
			{"Query", "Tx.Query", inTx(func(tx *sql.Tx) { p.query(tx, ctx, "q", 1) })},
			{"Rows.Next", "Tx.Query", inTx(func(tx *sql.Tx) { p.query(tx, ctx, "q", 1) })},

			{"Exec", "Conn.Exec", onConn(func(c *sql.Conn) { p.exec(c, ctx, "q", 1) })},
			{"Stmt.Exec", "Conn.Exec", onConn(func(c *sql.Conn) { p.exec(c, ctx, "q", 1) })},
			{"Ping", "Conn.Exec", onConn(func(c *sql.Conn) { p.exec(c, ctx, "q", 1) })},
			{"Begin", "Conn.Begin", onConn(func(c *sql.Conn) {
				tx, err := c.BeginTx(ctx, nil)
				p.error("Begin", err)
				if err == nil {
					p.error("Rollback", tx.Rollback())
				}
			})},

			{"Prepare", "Prepare", onStmt(execStmt)},
			{"Stmt.Exec", "Stmt.Exec", onStmt(execStmt)},
			{"Stmt.Query", "Stmt.Query", onStmt(queryStmt)},
			{"Stmt.CheckNamedValue", "Stmt.Exec", onStmt(execStmt)},
			{"CheckNamedValue", "Stmt.Query", onStmt(queryStmt)},
			{"Stmt.ConvertValue", "Stmt.Query", onStmt(queryStmt)},
			{"Stmt.Close", "Stmt.Close", onStmt(func(*sql.Stmt) {})},
			{"Rows.Close", "Stmt.Query", onStmt(queryStmt)},
		}...)
	}
	for _, f := range faults {
		for _, c := range cases {
			if !p.full && f.n > 1 && c.kind != "Exec" && c.kind != "Begin" {
				continue
			}
			if !filter(c.kind) || errors.Is(f.err, driver.ErrBadConn) && handsOnBadConn(c.kind, c.in) {
				continue
			}
			p.step(fmt.Sprintf("%s in %s, called by %s", f.name, c.kind, c.in), func() {
				queue := make([]fault, f.n)
				for i := range queue {
					queue[i] = failWith(f.err)
				}
				p.fail(c.kind, queue...)
				c.do()
				p.noFaults()
				p.where()
			})
		}
	}
}

// several uses more than one connection.
func (p *play) several() {
	ctx := p.ctx
	p.step("two connections", func() {
		first, err := p.db.Conn(ctx)
		p.error("Conn", err)
		second, err := p.db.Conn(ctx)
		p.error("Conn", err)
		p.exec(first, ctx, "first")
		p.exec(second, ctx, "second")
		p.error("Close", first.Close())
		p.where()
		p.error("Close", second.Close())
		p.where()
	})
	p.step("a statement on both", func() {
		st, err := p.db.PrepareContext(ctx, "?")
		p.error("Prepare", err)
		if err != nil {
			return
		}
		first, err := p.db.Conn(ctx)
		p.error("Conn", err)
		_, err = st.ExecContext(ctx, 1)
		p.error("Exec", err)
		p.error("Close", first.Close())
		_, err = st.ExecContext(ctx, 2)
		p.error("Exec", err)
		p.error("Close", st.Close())
	})
}

func (p *play) closing() {
	ctx := p.ctx
	var st *sql.Stmt
	var tx *sql.Tx
	p.step("close the handle in a transaction", func() {
		var err error
		st, err = p.db.PrepareContext(ctx, "?")
		p.error("Prepare", err)
		tx, err = p.db.BeginTx(ctx, nil)
		p.error("Begin", err)
		p.fail("Connector.Close", failWith(errDriver))
		p.error("Close", p.db.Close())
	})
	p.step("finish the transaction", func() {
		p.exec(tx, ctx, "q")
		p.error("Commit", tx.Commit())
	})
	p.step("use after Close", func() {
		p.error("Ping", p.db.PingContext(ctx))
		p.exec(p.db, ctx, "q")
		_, err := st.ExecContext(ctx, 1)
		p.error("Stmt.Exec", err)
		p.error("Stmt.Close", st.Close())
		_, err = p.db.BeginTx(ctx, nil)
		p.error("Begin", err)
		p.error("Close", p.db.Close())
	})
}
