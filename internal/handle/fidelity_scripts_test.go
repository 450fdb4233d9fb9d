package handle_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"fmt"
	"strconv"
	"strings"
	"testing/synctest"
	"time"

	"github.com/go-lifeguard/lifeguard"
	"github.com/go-lifeguard/lifeguard/internal/fakedriver/recorder"
)

// execer and preparer are what *sql.DB, *sql.Conn and *sql.Tx have in common.
type execer interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
	PrepareContext(ctx context.Context, query string) (*sql.Stmt, error)
}

func (p *play) exec(on execer, ctx context.Context, query string, args ...any) {
	result, err := on.ExecContext(ctx, query, args...)
	p.error("Exec", err)
	p.result(result, err)
}

func (p *play) result(result sql.Result, err error) {
	if err != nil {
		if result != nil {
			p.note("a result beside the error")
		}
		return
	}
	n, err := result.RowsAffected()
	p.error("RowsAffected "+strconv.FormatInt(n, 10), err)
	n, err = result.LastInsertId()
	p.error("LastInsertId "+strconv.FormatInt(n, 10), err)
}

func (p *play) query(on execer, ctx context.Context, query string, args ...any) {
	rows, err := on.QueryContext(ctx, query, args...)
	p.error("Query", err)
	p.settle(ctx)
	p.rows(rows, err)
}

// settle waits for the consequences of a ctx that is over: database/sql closes
// rows and ends transactions on a goroutine, which is not to race the script.
func (p *play) settle(ctx context.Context) {
	if ctx.Err() != nil {
		synctest.Wait()
	}
}

// rows reads all there is.
func (p *play) rows(rows *sql.Rows, err error) {
	if err != nil {
		if rows != nil {
			p.note("rows beside the error")
		}
		return
	}
	for {
		columns, err := rows.Columns()
		p.error(fmt.Sprintf("Columns %q", columns), err)
		for rows.Next() {
			p.row(rows, len(columns))
		}
		p.error("Err", rows.Err())
		if !rows.NextResultSet() {
			break
		}
	}
	p.error("Err at the end", rows.Err())
	p.error("Close", rows.Close())
}

func (p *play) row(rows *sql.Rows, columns int) {
	values := make([]any, columns)
	dest := make([]any, columns)
	for i := range values {
		dest[i] = &values[i]
	}
	err := rows.Scan(dest...)
	for i, v := range values {
		if c, ok := v.(*cursor); ok {
			values[i] = fmt.Sprintf("a cursor with %d", c.left)
		}
	}
	p.error(fmt.Sprintf("Scan %#v", values), err)
}

func (p *play) queryRow(on execer, ctx context.Context, query string, args ...any) {
	var n int64
	row := on.QueryRowContext(ctx, query, args...)
	p.error("QueryRow", row.Err())
	err := row.Scan(&n)
	p.error(fmt.Sprintf("Scan %d", n), err)
}

// where shows which connection the next call gets.
func (p *play) where() { p.exec(p.db, p.ctx, "where") }

// script is all of it: some 800 calls in the long form, some 200 in the short
// one, which tries the same things with fewer variations.
func (p *play) script() {
	p.dialling()
	p.arguments()
	p.prepared()
	p.transactions()
	if p.full {
		p.resultSets()
	}
	p.connections()
	p.contexts()
	p.faulty(func(string) bool { return true })
	p.several()
	p.closing()
}

// rowsScript is what of it concerns rows.
func (p *play) rowsScript() {
	p.dialling()
	p.resultSets()
	p.faulty(func(kind string) bool { return strings.HasPrefix(kind, "Rows.") })
	p.closing()
}

func (p *play) dialling() { p.dialFails(failWith(errDriver)) }

// dialFails has the first dials fail, and waits: how soon a pool dials again
// after a failure is its own affair.
func (p *play) dialFails(faults ...fault) {
	p.step("dial fails", func() {
		p.fail("Connector.Connect", faults...)
		p.error("Ping", p.db.PingContext(p.ctx))
	})
	time.Sleep(time.Minute)
	p.step("dial", func() {
		p.error("Ping", p.db.PingContext(p.ctx))
		p.where()
	})
}

// shortOtherArgs is how many of otherArgs the short form tries.
const shortOtherArgs = 9

func (p *play) arguments() {
	ctx := p.ctx
	p.step("no arguments", func() {
		p.exec(p.db, ctx, "q")
		p.query(p.db, ctx, "q")
		p.queryRow(p.db, ctx, "q")
		p.exec(p.db, ctx, "") // whatever it means is the driver's to say
	})
	p.step("without a ctx", func() {
		result, err := p.db.Exec("q", 1)
		p.error("Exec", err)
		p.result(result, err)
		rows, err := p.db.Query("q", 1)
		p.error("Query", err)
		p.rows(rows, err)
	})
	good := goodArgs
	if !p.full {
		good = fewArgs
	}
	p.step("good arguments", func() {
		p.exec(p.db, ctx, "q", good...)
		p.query(p.db, ctx, "q", good...)
	})
	p.step("good arguments, prepared", func() {
		st, err := p.db.PrepareContext(ctx, "q")
		p.error("Prepare", err)
		if err != nil {
			return
		}
		result, err := st.ExecContext(ctx, good...)
		p.error("Exec", err)
		p.result(result, err)
		rows, err := st.QueryContext(ctx, good...)
		p.error("Query", err)
		p.rows(rows, err)
		p.error("Close", st.Close())
	})
	if !p.full {
		p.step("other arguments", func() {
			for i, other := range otherArgs[:shortOtherArgs] {
				if i%2 == 0 {
					p.exec(p.db, ctx, "q", other.args...)
				} else {
					p.query(p.db, ctx, "q", other.args...)
				}
			}
		})
		return
	}
	for _, other := range otherArgs {
		p.step(other.name, func() {
			p.exec(p.db, ctx, "q", other.args...)
			p.query(p.db, ctx, "q", other.args...)
			p.exec(p.db, ctx, "?", other.args...)
			p.exec(p.db, ctx, "? ?", other.args...)
			p.queryRow(p.db, ctx, "? ?", other.args...)
			st, err := p.db.PrepareContext(ctx, "q")
			p.error("Prepare", err)
			if err == nil {
				_, err := st.ExecContext(ctx, other.args...)
				p.error("Exec", err)
				p.error("Close", st.Close())
			}
		})
	}
}

func (p *play) prepared() {
	ctx := p.ctx
	var st *sql.Stmt
	p.step("prepare", func() {
		var err error
		st, err = p.db.PrepareContext(ctx, "? ?")
		p.error("Prepare", err)
	})
	counts := []int{0, 1, 2, 3}
	if !p.full {
		counts = []int{2, 3}
	}
	for _, n := range counts {
		p.step(fmt.Sprintf("%d arguments for 2", n), func() {
			args := make([]any, n)
			result, err := st.ExecContext(ctx, args...)
			p.error("Exec", err)
			p.result(result, err)
			rows, err := st.QueryContext(ctx, args...)
			p.error("Query", err)
			p.rows(rows, err)
			var i int
			p.error("QueryRow", st.QueryRowContext(ctx, args...).Scan(&i))
		})
	}
	p.step("a statement on another connection", func() {
		held, err := p.db.Conn(ctx)
		p.error("Conn", err)
		if err != nil {
			return
		}
		_, err = st.ExecContext(ctx, 1, 2)
		p.error("Exec", err)
		p.error("Close", held.Close())
	})
	p.step("a statement in a transaction", func() {
		tx, err := p.db.BeginTx(ctx, nil)
		p.error("Begin", err)
		if err != nil {
			return
		}
		of := tx.StmtContext(ctx, st)
		_, err = of.ExecContext(ctx, 1, 2)
		p.error("Exec", err)
		own, err := tx.PrepareContext(ctx, "three")
		p.error("Prepare", err)
		if err == nil {
			rows, err := own.QueryContext(ctx)
			p.error("Query", err)
			p.rows(rows, err)
		}
		p.error("Commit", tx.Commit())
		_, err = of.ExecContext(ctx, 1, 2)
		p.error("Exec after Commit", err)
	})
	p.step("close the statement", func() {
		p.error("Close", st.Close())
		p.error("Close", st.Close())
		_, err := st.ExecContext(ctx, 1, 2)
		p.error("Exec after Close", err)
	})
	p.step("close the statement before its rows", func() {
		st, err := p.db.PrepareContext(ctx, "three")
		p.error("Prepare", err)
		if err != nil {
			return
		}
		rows, err := st.QueryContext(ctx)
		p.error("Query", err)
		p.error("Close", st.Close())
		p.rows(rows, err)
	})
}

func (p *play) transactions() {
	ctx := p.ctx
	levels := []sql.IsolationLevel{sql.LevelDefault, sql.LevelReadUncommitted, sql.LevelReadCommitted,
		sql.LevelWriteCommitted, sql.LevelRepeatableRead, sql.LevelSnapshot, sql.LevelSerializable,
		sql.LevelLinearizable, 99}
	if !p.full {
		levels = []sql.IsolationLevel{sql.LevelDefault, sql.LevelSerializable}
	}
	for _, level := range levels {
		for _, readOnly := range []bool{false, true} {
			p.step(fmt.Sprintf("begin %v read-only=%t", level, readOnly), func() {
				tx, err := p.db.BeginTx(ctx, &sql.TxOptions{Isolation: level, ReadOnly: readOnly})
				p.error("Begin", err)
				if err != nil {
					return
				}
				p.exec(tx, ctx, "q", 1)
				p.query(tx, ctx, "three")
				p.error("Commit", tx.Commit())
				p.error("Rollback", tx.Rollback())
				p.exec(tx, ctx, "q")
			})
		}
	}
	p.step("rollback", func() {
		tx, err := p.db.Begin()
		p.error("Begin", err)
		if err != nil {
			return
		}
		p.exec(tx, ctx, "q", "a")
		p.error("Rollback", tx.Rollback())
		p.error("Commit", tx.Commit())
		p.where()
	})
	p.step("commit with rows open", func() {
		tx, err := p.db.BeginTx(ctx, nil)
		p.error("Begin", err)
		if err != nil {
			return
		}
		rows, err := tx.QueryContext(ctx, "three")
		p.error("Query", err)
		p.note("Next %t", rows.Next())
		p.exec(tx, ctx, "beside the rows")
		p.error("Commit", tx.Commit())
		p.rows(rows, nil)
	})
	p.step("rollback by the ctx", func() {
		p.ending(func(ctx context.Context, end func()) {
			tx, err := p.db.BeginTx(ctx, nil)
			p.error("Begin", err)
			if err != nil {
				return
			}
			p.exec(tx, p.ctx, "q")
			end()
			synctest.Wait()
			p.error("Commit", tx.Commit())
			p.exec(tx, p.ctx, "q")
		})
		p.where()
	})
	p.step("rollback by the ctx with rows open", func() {
		p.ending(func(ctx context.Context, end func()) {
			tx, err := p.db.BeginTx(ctx, nil)
			p.error("Begin", err)
			if err != nil {
				return
			}
			rows, err := tx.QueryContext(p.ctx, "three")
			p.error("Query", err)
			p.note("Next %t", rows.Next())
			end()
			synctest.Wait()
			p.note("Next %t", rows.Next())
			p.error("Err", rows.Err())
			p.error("Rollback", tx.Rollback())
		})
		p.where()
	})
	p.step("rollback by the ctx fails", func() {
		p.ending(func(ctx context.Context, end func()) {
			tx, err := p.db.BeginTx(ctx, nil)
			p.error("Begin", err)
			if err != nil {
				return
			}
			p.fail("Tx.Rollback", failWith(errDriver))
			end()
			synctest.Wait()
			p.error("Commit", tx.Commit())
		})
		p.where()
	})
}

func (p *play) resultSets() {
	ctx := p.ctx
	for _, query := range []string{"none", "three", "kinds", "sets"} {
		p.step("read "+query, func() {
			p.query(p.db, ctx, query)
			p.queryRow(p.db, ctx, query)
		})
	}
	p.step("column types", func() {
		rows, err := p.db.QueryContext(ctx, "types")
		p.error("Query", err)
		if err != nil {
			return
		}
		types, err := rows.ColumnTypes()
		p.error("ColumnTypes", err)
		for _, c := range types {
			length, hasLength := c.Length()
			precision, scale, hasDecimal := c.DecimalSize()
			nullable, hasNullable := c.Nullable()
			p.note("%s %s %v length %d %t, decimal %d,%d %t, nullable %t %t", c.Name(), c.DatabaseTypeName(),
				c.ScanType(), length, hasLength, precision, scale, hasDecimal, nullable, hasNullable)
		}
		p.rows(rows, nil)
		_, err = rows.ColumnTypes()
		p.error("ColumnTypes after Close", err)
		_, err = rows.Columns()
		p.error("Columns after Close", err)
	})
	p.step("rows left early", func() {
		rows, err := p.db.QueryContext(ctx, "three")
		p.error("Query", err)
		if err != nil {
			return
		}
		p.note("Next %t", rows.Next())
		p.error("Close", rows.Close())
		p.error("Close", rows.Close())
		p.note("Next %t", rows.Next())
		p.error("Err", rows.Err())
	})
	p.step("the next result set at once", func() {
		rows, err := p.db.QueryContext(ctx, "sets")
		p.error("Query", err)
		if err != nil {
			return
		}
		p.note("NextResultSet %t", rows.NextResultSet())
		p.error("Err", rows.Err())
		p.rows(rows, nil)
	})
	p.step("scans", func() {
		rows, err := p.db.QueryContext(ctx, "types")
		p.error("Query", err)
		if err != nil {
			return
		}
		var n int8
		var s sql.NullString
		var raw sql.RawBytes
		p.error("Scan before Next", rows.Scan(&n, &s, &raw))
		p.note("Next %t", rows.Next())
		p.error("Scan too few", rows.Scan(&n))
		p.error("Scan a wrong type", rows.Scan(&n, &n, &raw))
		err = rows.Scan(&n, &s, &raw)
		p.error(fmt.Sprintf("Scan %d %v %q", n, s, raw), err)
		p.error("Close", rows.Close())
	})
	p.step("a cursor", func() {
		rows, err := p.db.QueryContext(ctx, "kinds")
		p.error("Query", err)
		if err != nil {
			return
		}
		p.note("Next %t", rows.Next())
		var inner sql.Rows
		var skip any
		err = rows.Scan(&skip, &skip, &skip, &skip, &skip, &skip, &skip, &inner)
		p.error("Scan", err)
		if err == nil {
			for inner.Next() {
				var n int
				p.error(fmt.Sprintf("Scan %d", n), inner.Scan(&n))
			}
			p.error("Err", inner.Err())
		}
		p.error("Close", rows.Close())
	})
}

func (p *play) connections() {
	ctx := p.ctx
	p.step("ping", func() { p.error("Ping", p.db.PingContext(ctx)) })

	var conn *sql.Conn
	take := func() bool {
		var err error
		conn, err = p.db.Conn(ctx)
		p.error("Conn", err)
		return err == nil
	}
	p.step("conn", func() {
		if !take() {
			return
		}
		p.error("Ping", conn.PingContext(ctx))
		p.exec(conn, ctx, "q", 1)
		p.query(conn, ctx, "three")
		p.queryRow(conn, ctx, "q")
		tx, err := conn.BeginTx(ctx, nil)
		p.error("Begin", err)
		if err == nil {
			p.exec(tx, ctx, "q")
			p.error("Commit", tx.Commit())
		}
		st, err := conn.PrepareContext(ctx, "?")
		p.error("Prepare", err)
		if err == nil {
			_, err := st.ExecContext(ctx, 1)
			p.error("Exec", err)
		}
		p.error("Close", conn.Close())
		p.error("Close", conn.Close())
		p.error("Ping", conn.PingContext(ctx))
		p.exec(conn, ctx, "q")
		p.error("Raw", conn.Raw(func(any) error { return nil }))
	})
	p.step("the driver's connection", func() {
		if !take() {
			return
		}
		err := conn.Raw(func(dc any) error {
			own := lifeguard.Unwrap(dc)
			p.note("connection %d with %010b", p.r.ConnID(own), recorder.ConnSetOf(own))
			return errDriver
		})
		p.error("Raw", err)
		p.error("Close", conn.Close())
		p.where()
	})
	p.step("Raw finds a broken connection", func() {
		if !take() {
			return
		}
		p.error("Raw", conn.Raw(func(any) error { return driver.ErrBadConn }))
		p.error("Raw", conn.Raw(func(any) error { return nil }))
		p.error("Close", conn.Close())
		p.where()
	})
	p.step("Raw panics", func() {
		if !take() {
			return
		}
		p.panics(func() { conn.Raw(func(any) error { panic("in Raw") }) })
		p.error("Close", conn.Close())
		p.where()
	})
}

func (p *play) panics(f func()) {
	defer func() { p.note("recovered %v", recover()) }()
	f()
}
