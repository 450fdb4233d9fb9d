package handle_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
	"testing/synctest"

	"github.com/go-lifeguard/lifeguard"
	"github.com/go-lifeguard/lifeguard/internal/fakedriver/recorder"
	"github.com/go-lifeguard/lifeguard/internal/pooltest"
)

// opener makes a handle of a connector.
type opener func(driver.Connector) (*sql.DB, error)

func openPlain(c driver.Connector) (*sql.DB, error) { return sql.OpenDB(c), nil }

func openLifeguard(c driver.Connector) (*sql.DB, error) {
	cfg := lifeguard.DefaultConfig()
	// A statement cache changes which calls the driver sees. That is its use.
	cfg.StatementCacheSize = 0
	return lifeguard.OpenDB(c, lifeguard.WithConfig(cfg), lifeguard.WithLogger(slog.New(slog.DiscardHandler)))
}

// run plays a script in a bubble of its own, from which no goroutine of the
// handle may be left.
func run(t *testing.T, sets recorder.Sets, full bool, open opener, script func(*play)) (steps []step) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		// Not a ctx that can end, for which database/sql starts a goroutine with
		// every query: the steps that are about that make their own.
		ctx := recorder.WithTag(context.Background(), "caller's")
		p := &play{t: t, full: full, faults: make(map[string][]fault), ctx: ctx}
		p.r = recorder.New(sets, recorder.Script{
			Call: p.onCall, CheckNamedValue: checkNamedValue, Convert: convert, NumInput: numInput, Results: results,
		})
		var err error
		if p.db, err = open(p.r.Connector()); err != nil {
			t.Fatal(err)
		}
		script(p)
		if err := p.db.Close(); err != nil {
			t.Errorf("closing the handle: %v", err)
		}
		steps = p.steps
	})
	return steps
}

// difference finds the first step that went another way, and shows both.
func difference(plain, wrapped []step) string {
	for i := range min(len(plain), len(wrapped)) {
		if !plain[i].equal(wrapped[i]) {
			return fmt.Sprintf("step %q\nplain:\n%vwrapped:\n%v", plain[i].name, plain[i], wrapped[i])
		}
	}
	if len(plain) != len(wrapped) {
		return fmt.Sprintf("%d steps, %d wrapped", len(plain), len(wrapped))
	}
	return ""
}

// compare fails for sets whose connections behave otherwise behind lifeguard.
// It stops after a few: one cause shows in hundreds of them.
func compare(t *testing.T, full bool, list []recorder.Sets, script func(*play)) {
	t.Helper()
	different := 0
	for _, sets := range some(list) {
		d := difference(run(t, sets, full, openPlain, script), run(t, sets, full, openLifeguard, script))
		if d == "" {
			continue
		}
		t.Errorf("%v: %s", sets, d)
		if different++; different == 5 {
			t.Fatal("more are not tried")
		}
	}
}

// some are every seventh of a long list with -short, and under the race detector, which takes ten times as long and finds
// no more in all: what runs beside what is the same for every set.
func some(list []recorder.Sets) []recorder.Sets {
	if !pooltest.RaceEnabled && !testing.Short() || len(list) < 8 {
		return list
	}
	var seventh []recorder.Sets
	for i := 0; i < len(list); i += 7 {
		seventh = append(seventh, list[i])
	}
	return seventh
}

var fullSets = recorder.Sets{Conn: recorder.ConnAll, Stmt: recorder.StmtAll, Rows: recorder.RowsAll, ConnectorCloser: true}

func TestFidelityConn(t *testing.T) {
	// In parts, to use all processors.
	const parts = 8
	for part := range recorder.ConnSet(parts) {
		t.Run(strconv.Itoa(int(part)), func(t *testing.T) {
			t.Parallel()
			var list []recorder.Sets
			for set := part; set <= recorder.ConnAll; set += parts {
				sets := fullSets
				sets.Conn = set
				list = append(list, sets)
			}
			compare(t, false, list, (*play).script)
		})
	}
}

// Without the shortcuts of the connection every query goes through a
// statement.
const connWithoutShortcuts = recorder.ConnAll &^ (recorder.ConnExecer | recorder.ConnExecerContext |
	recorder.ConnQueryer | recorder.ConnQueryerContext)

func TestFidelityStmt(t *testing.T) {
	t.Parallel()
	var list []recorder.Sets
	for set := range recorder.StmtSet(recorder.StmtAll + 1) {
		for _, checker := range []recorder.ConnSet{0, recorder.ConnNamedValueChecker} {
			sets := fullSets
			sets.Conn, sets.Stmt = connWithoutShortcuts&^checker, set
			list = append(list, sets)
		}
	}
	list = append(list, fullSets)
	compare(t, true, list, (*play).script)
}

func TestFidelityRows(t *testing.T) {
	t.Parallel()
	var list []recorder.Sets
	for set := range recorder.RowsSet(recorder.RowsAll + 1) {
		sets := fullSets
		sets.Rows = set
		list = append(list, sets)
	}
	compare(t, true, list, (*play).rowsScript)
}

// TestFidelityRandom draws from all combinations. LIFEGUARD_TEST_SEED repeats a
// run.
func TestFidelityRandom(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	if text := os.Getenv("LIFEGUARD_TEST_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("LIFEGUARD_TEST_SEED: %v", err)
		}
	}
	t.Logf("LIFEGUARD_TEST_SEED=%d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	var list []recorder.Sets
	for range 24 {
		list = append(list, recorder.Sets{
			Conn:            recorder.ConnSet(random.IntN(recorder.ConnAll + 1)),
			Stmt:            recorder.StmtSet(random.IntN(recorder.StmtAll + 1)),
			Rows:            recorder.RowsSet(random.IntN(recorder.RowsAll + 1)),
			ConnectorCloser: random.IntN(2) == 1,
		})
	}
	compare(t, true, list, (*play).script)
}

// A panic of the driver reaches the caller as it was, and the handle goes on
// working.
func TestFidelityPanic(t *testing.T) {
	t.Parallel()
	scripts := []struct {
		kind string
		do   func(p *play)
	}{
		{"Exec", func(p *play) { p.exec(p.db, p.ctx, "q", 1) }},
		{"CheckNamedValue", func(p *play) { p.query(p.db, p.ctx, "q", 1) }},
		{"Stmt.CheckNamedValue", func(p *play) {
			st, err := p.db.PrepareContext(p.ctx, "q")
			p.error("Prepare", err)
			st.QueryContext(p.ctx, 1)
		}},
		{"Stmt.Close", func(p *play) {
			st, err := p.db.PrepareContext(p.ctx, "q")
			p.error("Prepare", err)
			st.Close()
		}},
		{"Query", func(p *play) { p.query(p.db, p.ctx, "q", 1) }},
		{"Prepare", func(p *play) { p.db.PrepareContext(p.ctx, "q") }},
		{"CheckNamedValue", func(p *play) { p.exec(p.db, p.ctx, "q", 1) }},
		{"Begin", func(p *play) { p.db.BeginTx(p.ctx, nil) }},
		{"Ping", func(p *play) { p.db.PingContext(p.ctx) }},
		{"ResetSession", func(p *play) { p.exec(p.db, p.ctx, "q", 1) }},
		{"IsValid", func(p *play) { p.exec(p.db, p.ctx, "q", 1) }},
		{"Tx.Commit", func(p *play) {
			tx, err := p.db.BeginTx(p.ctx, nil)
			p.error("Begin", err)
			tx.Commit()
		}},
		{"Tx.Rollback", func(p *play) {
			tx, err := p.db.BeginTx(p.ctx, nil)
			p.error("Begin", err)
			tx.Rollback()
		}},
		{"Stmt.Exec", func(p *play) {
			st, err := p.db.PrepareContext(p.ctx, "q")
			p.error("Prepare", err)
			st.ExecContext(p.ctx, 1)
		}},
		{"Stmt.Query", func(p *play) {
			st, err := p.db.PrepareContext(p.ctx, "q")
			p.error("Prepare", err)
			st.QueryContext(p.ctx, 1)
		}},
		{"Rows.Next", func(p *play) {
			rows, err := p.db.QueryContext(p.ctx, "three")
			p.error("Query", err)
			defer func() { p.error("Close", rows.Close()) }()
			rows.Next()
		}},
		{"Rows.Close", func(p *play) {
			rows, err := p.db.QueryContext(p.ctx, "three")
			p.error("Query", err)
			rows.Close()
		}},
		{"Raw in a transaction", func(p *play) {
			conn, err := p.db.Conn(p.ctx)
			p.error("Conn", err)
			defer func() { p.error("Close", conn.Close()) }()
			tx, err := conn.BeginTx(p.ctx, nil)
			p.error("Begin", err)
			defer func() { p.error("Rollback", tx.Rollback()) }()
			panic("driver panic")
		}},
	}
	for _, s := range scripts {
		t.Run(s.kind, func(t *testing.T) {
			with := func(open opener, check func(p *play)) []step {
				return run(t, fullSets, true, open, func(p *play) {
					p.step("before", func() { p.where() })
					p.step("panic", func() {
						p.fail(s.kind, func() error { panic("driver panic") })
						p.panics(func() { s.do(p) })
					})
					p.step("after", func() {
						p.where()
						p.query(p.db, p.ctx, "three")
					})
					check(p)
				})
			}
			plain := with(openPlain, func(*play) {})
			wrapped := with(openLifeguard, func(p *play) {
				pool, ok := lifeguard.PoolOf(p.db)
				if !ok {
					t.Fatal("the handle has no pool")
				}
				if stats := pool.Stats(); stats.InUse != 0 {
					t.Errorf("%d connections still in use", stats.InUse)
				}
			})
			// Not the connections: one whose driver panicked is closed, where
			// database/sql uses it again or, after some of these, loses it.
			if !slices.Equal(plain[1].results, wrapped[1].results) ||
				!slices.Equal(upTo(s.kind, plain[1].calls), upTo(s.kind, wrapped[1].calls)) {
				t.Errorf("panic\nplain:\n%vwrapped:\n%v", plain[1], wrapped[1])
			}
			if !slices.Equal(plain[2].results, wrapped[2].results) {
				t.Errorf("after the panic\nplain:\n%vwrapped:\n%v", plain[2], wrapped[2])
			}
		})
	}
}

// upTo cuts calls off after the first of a kind.
func upTo(kind string, calls []recorder.Call) []recorder.Call {
	i := slices.IndexFunc(calls, func(c recorder.Call) bool { return kindOf(c.Method) == kind })
	if i < 0 {
		return calls
	}
	return calls[:i+1]
}

// A transaction that its ctx ended leaves a session in an unknown state. Where the driver can neither reset nor check it,
// database/sql takes the connection from an *sql.Conn, too. Behind lifeguard it does not know, so that Close alone has
// nothing to say.
func TestFidelityConnAfterRollback(t *testing.T) {
	t.Parallel()
	var list []recorder.Sets
	for _, missing := range []recorder.ConnSet{0, recorder.ConnSessionResetter, recorder.ConnValidator,
		recorder.ConnSessionResetter | recorder.ConnValidator} {
		sets := fullSets
		sets.Conn &^= missing
		list = append(list, sets)
	}
	for _, endedBefore := range []bool{false, true} {
		compare(t, true, list, func(p *play) {
			p.step("rollback by the ctx", func() {
				conn, err := p.db.Conn(p.ctx)
				p.error("Conn", err)
				p.ending(func(ctx context.Context, end func()) {
					if endedBefore {
						end()
					}
					tx, err := conn.BeginTx(ctx, nil)
					p.error("Begin", err)
					end()
					synctest.Wait()
					p.error("Commit", tx.Commit())
				})
				p.exec(conn, p.ctx, "q", 1)
				p.error("Ping", conn.PingContext(p.ctx))
				if err := conn.Close(); err != nil && err != sql.ErrConnDone {
					p.error("Close", err)
				}
				p.where()
			})
		})
	}
}

// A connection that turns out to be bad while rows are read, or in the middle
// of a transaction, is not used again. The plain driver's is, and the next call
// finds out.
func TestBadConnHandedOn(t *testing.T) {
	t.Parallel()
	sets := fullSets
	sets.Conn &^= recorder.ConnExecer | recorder.ConnExecerContext
	inTx := func(do func(p *play, tx *sql.Tx)) func(p *play) {
		return func(p *play) {
			tx, err := p.db.BeginTx(p.ctx, nil)
			p.error("Begin", err)
			do(p, tx)
			p.error("Commit", tx.Commit())
		}
	}
	exec := inTx(func(p *play, tx *sql.Tx) { p.exec(tx, p.ctx, "q", 1) })
	query := inTx(func(p *play, tx *sql.Tx) { p.query(tx, p.ctx, "sets", 1) })
	for _, test := range []struct {
		kind, in string
		do       func(p *play)
	}{
		{"Rows.Next", "Query", func(p *play) { p.query(p.db, p.ctx, "sets") }},
		{"Rows.NextResultSet", "Query", func(p *play) { p.query(p.db, p.ctx, "sets") }},
		{"Query", "Tx.Query", query},
		{"Rows.Next", "Tx.Query", query},
		{"Prepare", "Tx.Exec", exec},
		{"Stmt.Exec", "Tx.Exec", exec},
	} {
		t.Run(test.kind+" in "+test.in, func(t *testing.T) {
			script := func(p *play) {
				p.step("bad connection", func() {
					p.fail(test.kind, failWith(driver.ErrBadConn))
					test.do(p)
				})
				p.step("after", func() { p.where() })
			}
			plain, wrapped := run(t, sets, true, openPlain, script), run(t, sets, true, openLifeguard, script)
			if !slices.Equal(plain[0].results, wrapped[0].results) || !slices.Equal(plain[0].calls, wrapped[0].calls) {
				t.Errorf("plain:\n%vwrapped:\n%v", plain[0], wrapped[0])
			}
			if !handsOnBadConn(test.kind, test.in) || !slices.Equal(plain[1].open, []int{1}) {
				t.Errorf("plain database/sql uses connections %v, and gives up the first itself", plain[1].open)
			}
			if !slices.Equal(wrapped[1].open, []int{2}) {
				t.Errorf("open connections %v, want only the second", wrapped[1].open)
			}
		})
	}
}

// What fails when the last connections close is told by DB.Close.
func TestFidelityClose(t *testing.T) {
	t.Parallel()
	compare(t, true, []recorder.Sets{fullSets, {}}, func(p *play) {
		p.step("two connections", func() {
			conn, err := p.db.Conn(p.ctx)
			p.error("Conn", err)
			p.where()
			p.error("Close", conn.Close())
		})
		p.step("close", func() {
			p.fail("Close", failWith(errDriver), failWith(errDriver))
			p.error("Close", p.db.Close())
			p.error("Close", p.db.Close())
		})
	})
}

// The comparison finds what careless wrappers do, each in the part of the
// script that is about it, and no difference between a driver and itself.
func TestFidelityFindsDifferences(t *testing.T) {
	t.Parallel()
	all := func(string) bool { return true }
	tests := []struct {
		name   string
		wrap   func(dc fullConn) driver.Conn
		script func(p *play)
	}{
		{"hidden interfaces", func(dc fullConn) driver.Conn { return struct{ driver.Conn }{dc} }, (*play).arguments},
		{"another ctx", func(dc fullConn) driver.Conn { return forgetsContext{dc} }, (*play).arguments},
		{"other arguments", func(dc fullConn) driver.Conn { return changesArguments{dc} }, (*play).arguments},
		{"no options", func(dc fullConn) driver.Conn { return dropsOptions{dc} }, (*play).transactions},
		{"no reset", func(dc fullConn) driver.Conn { return dropsReset{dc} }, (*play).arguments},
		{"wrapped errors", func(dc fullConn) driver.Conn { return wrapsErrors{dc} }, func(p *play) { p.faulty(all) }},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			open := func(c driver.Connector) (*sql.DB, error) { return sql.OpenDB(wrappingConnector{c, test.wrap}), nil }
			plain := run(t, fullSets, true, openPlain, test.script)
			if d := difference(plain, run(t, fullSets, true, openPlain, test.script)); d != "" {
				t.Errorf("the same driver twice: %s", d)
			}
			if difference(plain, run(t, fullSets, true, open, test.script)) == "" {
				t.Error("not found")
			}
		})
	}
}

type fullConn interface {
	driver.Conn
	driver.Pinger
	driver.ExecerContext
	driver.QueryerContext
	driver.ConnPrepareContext
	driver.ConnBeginTx
	driver.SessionResetter
	driver.Validator
	driver.NamedValueChecker
}

type wrappingConnector struct {
	driver.Connector
	wrap func(fullConn) driver.Conn
}

func (c wrappingConnector) Connect(ctx context.Context) (driver.Conn, error) {
	dc, err := c.Connector.Connect(ctx)
	if err != nil {
		return nil, err
	}
	return c.wrap(dc.(fullConn)), nil
}

type forgetsContext struct{ fullConn }

func (c forgetsContext) ExecContext(_ context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	return c.fullConn.ExecContext(context.Background(), query, args)
}

type changesArguments struct{ fullConn }

func (c changesArguments) CheckNamedValue(nv *driver.NamedValue) (err error) {
	nv.Value, err = driver.DefaultParameterConverter.ConvertValue(nv.Value)
	return err
}

type dropsOptions struct{ fullConn }

func (c dropsOptions) BeginTx(ctx context.Context, _ driver.TxOptions) (driver.Tx, error) {
	return c.fullConn.BeginTx(ctx, driver.TxOptions{})
}

type dropsReset struct{ fullConn }

func (dropsReset) ResetSession(context.Context) error { return nil }

type wrapsErrors struct{ fullConn }

func (c wrapsErrors) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	rows, err := c.fullConn.QueryContext(ctx, query, args)
	if err != nil {
		return nil, fmt.Errorf("query: %w", err)
	}
	return rows, nil
}
