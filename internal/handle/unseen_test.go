package handle_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/go-lifeguard/lifeguard"
	"github.com/go-lifeguard/lifeguard/internal/fakedriver"
	"github.com/go-lifeguard/lifeguard/internal/pooltest"
)

// unasked hides IsValid alone.
type unasked struct {
	conn
	driver.SessionResetter
}

// hidingIsValid is a library that does something, and hides IsValid.
func hidingIsValid(does func(conn) conn) func(conn) driver.Conn {
	return func(c conn) driver.Conn { return unasked{does(c), c.(driver.SessionResetter)} }
}

// hidingNothing is one that does something, and shows all there is.
func hidingNothing(does func(conn) conn) func(conn) driver.Conn {
	return func(c conn) driver.Conn {
		return struct {
			unasked
			driver.Validator
		}{unasked{does(c), c.(driver.SessionResetter)}, c.(driver.Validator)}
	}
}

// slowAudit audits after a pause.
type slowAudit struct {
	conn
	pause time.Duration
}

func pausing(pause time.Duration) func(conn) conn {
	return func(c conn) conn { return slowAudit{c, pause} }
}

func (c slowAudit) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	res, err := c.conn.ExecContext(ctx, query, args)
	if err == nil && query == "INSERT" {
		time.Sleep(c.pause)
		_, err = c.conn.ExecContext(ctx, "AUDIT", args)
	}
	return res, err
}

// skipping has arguments go through a statement, as MySQL's driver does.
type skipping struct{ conn }

func (c skipping) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	if len(args) > 0 {
		return nil, driver.ErrSkip
	}
	return c.conn.ExecContext(ctx, query, args)
}

// counted has statements of one argument.
type (
	counted     struct{ skipping }
	countedStmt struct{ driver.Stmt }
)

func (c counted) PrepareContext(ctx context.Context, query string) (driver.Stmt, error) {
	st, err := c.skipping.PrepareContext(ctx, query)
	return countedStmt{st}, err
}

func (countedStmt) NumInput() int { return 1 }

// asking does by queries what others have operations for.
type asking struct{ conn }

func (c asking) Ping(ctx context.Context) error {
	_, err := c.conn.ExecContext(ctx, "SELECT 1", nil)
	return err
}

func (c asking) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	if query != "INSERT" {
		return c.conn.ExecContext(ctx, query, args)
	}
	rows, err := c.conn.QueryContext(ctx, "INSERT RETURNING", args)
	if err != nil {
		return nil, err
	}
	return driver.RowsAffected(1), rows.Close()
}

// slowToClose has statements that take a round trip to close.
type (
	slowToClose     struct{ skipping }
	slowToCloseStmt struct{ driver.Stmt }
)

func (c slowToClose) PrepareContext(ctx context.Context, query string) (driver.Stmt, error) {
	st, err := c.skipping.PrepareContext(ctx, query)
	if err != nil {
		return nil, err
	}
	return slowToCloseStmt{st}, nil
}

func (st slowToCloseStmt) Close() error {
	time.Sleep(300 * time.Millisecond)
	return st.Stmt.Close()
}

// slowDriver is a driver of such statements.
type slowDriver struct{ driver.Driver }

func (d slowDriver) Open(name string) (driver.Conn, error) {
	c, err := d.Driver.Open(name)
	if err != nil {
		return nil, err
	}
	return hidingNothing(func(c conn) conn { return slowToClose{skipping{c}} })(c.(conn)), nil
}

// logged notes what a server runs.
func logged(srv *fakedriver.Server) func() []string {
	var mu sync.Mutex
	var log []string
	srv.OnQuery(func(_ context.Context, _ *fakedriver.Conn, query string, _ []driver.NamedValue) error {
		mu.Lock()
		defer mu.Unlock()
		log = append(log, query)
		return nil
	})
	return func() []string {
		mu.Lock()
		defer mu.Unlock()
		return log
	}
}

// openBeside opens a second handle of a pool.
func openBeside(t *testing.T, pool *lifeguard.Pool) *sql.DB {
	t.Helper()
	db, err := sql.Open(pool.Config().PoolName, "server")
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, db.Close()) })
	return db
}

// However a checkout ends that nobody tells of, who waits then has the connection soon, though its handle takes no other.
func TestUnseenEnds(t *testing.T) {
	for _, tt := range []struct {
		name   string
		veiled func(conn) driver.Conn
		last   func(*testing.T, *fakedriver.Server, *sql.DB)
	}{
		{"a deadline", veils["IsValid"], func(t *testing.T, srv *fakedriver.Server, db *sql.DB) {
			srv.OnQuery(func(ctx context.Context, _ *fakedriver.Conn, query string, _ []driver.NamedValue) error {
				if query == "slow" {
					<-ctx.Done()
					return ctx.Err()
				}
				return nil
			})
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			_, err := db.ExecContext(ctx, "slow")
			assert.ErrorIs(t, err, context.DeadlineExceeded)
		}},
		{"a rollback after the end of the context", veils["IsValid"], func(t *testing.T, _ *fakedriver.Server, db *sql.DB) {
			ctx, cancel := context.WithCancel(t.Context())
			tx, err := db.BeginTx(ctx, nil)
			require.NoError(t, err)
			cancel()
			_ = tx.Rollback() // or it was first who waits for the context
			synctest.Wait()
		}},
		{"a statement that cannot be prepared", hidingIsValid(func(c conn) conn { return skipping{c} }),
			func(t *testing.T, srv *fakedriver.Server, db *sql.DB) {
				srv.OnPrepare(func(context.Context, *fakedriver.Conn, string) error { return errors.New("syntax error") })
				_, err := db.ExecContext(t.Context(), "bad", 1)
				assert.ErrorContains(t, err, "syntax error")
				srv.OnPrepare(func(context.Context, *fakedriver.Conn, string) error { return nil })
			}},
		{"a statement that gets too many arguments", hidingIsValid(func(c conn) conn { return counted{skipping{c}} }),
			func(t *testing.T, _ *fakedriver.Server, db *sql.DB) {
				_, err := db.ExecContext(t.Context(), "q", 1, 2)
				assert.ErrorContains(t, err, "expected 1 arguments, got 2")
			}},
		{"a ping by a query", hidingIsValid(func(c conn) conn { return asking{c} }), func(t *testing.T, _ *fakedriver.Server, db *sql.DB) {
			assert.NoError(t, db.PingContext(t.Context()))
		}},
		{"a statement run as a query", hidingIsValid(func(c conn) conn { return asking{c} }), func(t *testing.T, _ *fakedriver.Server, db *sql.DB) {
			_, err := db.ExecContext(t.Context(), "INSERT")
			assert.NoError(t, err)
		}},
		{"the first time that the library goes on", hidingIsValid(func(c conn) conn { return auditing{c} }),
			func(t *testing.T, _ *fakedriver.Server, db *sql.DB) {
				_, err := db.ExecContext(t.Context(), "INSERT")
				assert.NoError(t, err)
			}},
		{"a library that goes on late", hidingIsValid(pausing(300 * time.Millisecond)),
			func(t *testing.T, _ *fakedriver.Server, db *sql.DB) {
				for range 5 {
					_, err := db.ExecContext(t.Context(), "INSERT")
					assert.NoError(t, err)
				}
			}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := fakedriver.New()
				db, pool := openVeiled(t, srv, tt.veiled, lifeguard.WithConnectionLimit(1), lifeguard.WithPoolTimeout(2*time.Second),
					lifeguard.WithSocketTimeout(time.Minute))
				beside := openBeside(t, pool)
				for range 3 {
					exec(t, db)
				}
				tt.last(t, srv, db)
				exec(t, beside)
				assert.Zero(t, pool.Stats().InUse)
			})
		})
	}
}

// The time is over while a statement is being closed.
func TestUnseenWhileAStatementCloses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := fakedriver.New()
		name := fmt.Sprint("slowtoclose", pooltest.Number())
		lifeguard.Register(name, slowDriver{srv.Driver()}, lifeguard.WithPoolName(name), pooltest.Quiet, lifeguard.WithStatementCacheSize(0),
			lifeguard.WithConnectionLimit(1), lifeguard.WithPoolTimeout(2*time.Second))
		watch, err := sql.Open(name, "server")
		require.NoError(t, err)
		c, err := watch.Driver().(driver.DriverContext).OpenConnector("server")
		require.NoError(t, err)
		db := sql.OpenDB(veiled{c, hidingIsValid(func(c conn) conn { return talkative{c} })})
		defer func() {
			assert.NoError(t, db.Close())
			assert.NoError(t, watch.Close())
		}()
		exec(t, db)
		exec(t, db)
		_, err = db.ExecContext(t.Context(), "q", 1)
		require.NoError(t, err)
		exec(t, watch)
	})
}

// Callers of one handle that have waited before two of its queries met their deadline.
func TestUnseenDeadlines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := fakedriver.New()
		db, _ := openVeiled(t, srv, veils["IsValid"], lifeguard.WithConnectionLimit(2), lifeguard.WithPoolTimeout(5*time.Second),
			lifeguard.WithSocketTimeout(time.Minute))
		srv.OnQuery(func(ctx context.Context, _ *fakedriver.Conn, query string, _ []driver.NamedValue) error {
			if query == "slow" {
				<-ctx.Done()
				return ctx.Err()
			}
			return nil
		})
		for range 3 {
			exec(t, db)
		}
		var calls sync.WaitGroup
		for range 2 {
			calls.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				_, err := db.ExecContext(ctx, "slow")
				assert.ErrorIs(t, err, context.DeadlineExceeded)
			})
		}
		synctest.Wait()
		for range 2 {
			calls.Go(func() { exec(t, db) })
		}
		calls.Wait()
	})
}

// Impatient callers whose driver gives up the connection at a deadline, as MySQL's does, cost their own and no other.
func TestUnseenDeadlinesAreNoBreak(t *testing.T) {
	for name, veil := range map[string]func(conn) driver.Conn{
		"hidden, and goes on": hidingIsValid(func(c conn) conn { return talkative{c} }),
		"hidden":              veils["IsValid"],
		"shown, and goes on":  hidingNothing(func(c conn) conn { return talkative{c} }),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := fakedriver.New()
				db, _ := openVeiled(t, srv, veil, lifeguard.WithConnectionLimit(6))
				db.SetMaxIdleConns(6)
				srv.OnQuery(func(ctx context.Context, c *fakedriver.Conn, query string, _ []driver.NamedValue) error {
					switch query {
					case "q":
						time.Sleep(10 * time.Millisecond)
					case "slow":
						<-ctx.Done()
						c.Kill()
						return ctx.Err()
					}
					return nil
				})
				crowd := func() {
					var calls sync.WaitGroup
					for range 6 {
						calls.Go(func() { exec(t, db) })
					}
					calls.Wait()
				}
				exec(t, db)
				exec(t, db)
				crowd()
				crowd()
				time.Sleep(2 * time.Second)
				before := srv.Closed()
				var calls sync.WaitGroup
				for range 2 {
					calls.Go(func() {
						ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
						defer cancel()
						_, err := db.ExecContext(ctx, "slow")
						assert.ErrorIs(t, err, context.DeadlineExceeded)
					})
				}
				calls.Wait()
				time.Sleep(100 * time.Millisecond)
				crowd()
				time.Sleep(time.Second)
				assert.Equal(t, 2, srv.Closed()-before)
			})
		})
	}
}

// What lies down counts among the idle connections that a pool may have.
func TestUnseenIdleAreBounded(t *testing.T) {
	for name, veil := range map[string]func(conn) driver.Conn{
		"goes on":  hidingIsValid(func(c conn) conn { return talkative{c} }),
		"does not": veils["IsValid"],
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := fakedriver.New()
				cfg := lifeguard.DefaultConfig()
				cfg.ConnectionLimit, cfg.MaxIdleConnections = 4, 1
				db, _ := openVeiled(t, srv, veil, lifeguard.WithConfig(cfg))
				db.SetMaxIdleConns(4)
				exec(t, db)
				exec(t, db)
				var queries atomic.Int64
				srv.OnQuery(func(context.Context, *fakedriver.Conn, string, []driver.NamedValue) error {
					time.Sleep(time.Duration(queries.Add(1)%16) * 10 * time.Millisecond) // none end at one time
					return nil
				})
				for range 3 {
					var calls sync.WaitGroup
					for range 4 {
						calls.Go(func() { exec(t, db) })
					}
					calls.Wait()
					time.Sleep(time.Second)
					assert.LessOrEqual(t, srv.Open(), 1)
				}
			})
		})
	}
}

// slow is an argument that takes its time.
type slow time.Duration

func (v slow) Value() (driver.Value, error) {
	time.Sleep(time.Duration(v))
	return "slow", nil
}

// A first argument that takes long shows nothing of the library, whatever that hides.
func TestSlowFirstArgument(t *testing.T) {
	for name, veil := range veils {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := fakedriver.New()
				db, _ := openVeiled(t, srv, veil, lifeguard.WithConnectionLimit(1), lifeguard.WithPoolTimeout(2*time.Minute))
				for range 3 {
					_, err := db.ExecContext(t.Context(), "q", slow(time.Minute))
					assert.NoError(t, err)
				}
				for range 10 {
					exec(t, db)
				}
				assert.Equal(t, 1, srv.Dials())
			})
		})
	}
}
