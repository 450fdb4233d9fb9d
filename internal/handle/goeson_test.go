package handle_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/go-lifeguard/lifeguard"
	"github.com/go-lifeguard/lifeguard/internal/fakedriver"
	"github.com/go-lifeguard/lifeguard/internal/pooltest"
	"github.com/go-lifeguard/lifeguard/internal/veil"
)

// A library that goes on costs no dial for each checkout where the handle keeps nothing, which veil.ErrGoesOn tells it to
// write; but what it could not undo is not lent to others.
func TestGoesOnWithoutIdleConnections(t *testing.T) {
	srv := fakedriver.New()
	db, _ := openVeiled(t, srv, hidingIsValid(func(c conn) conn { return resetting{c} }))
	db.SetMaxIdleConns(-1)
	for range 20 {
		exec(t, db)
	}
	assert.Equal(t, 1, srv.Dials())
	srv.OnQuery(func(_ context.Context, _ *fakedriver.Conn, query string, _ []driver.NamedValue) error {
		if query == "RESET" {
			return errors.New("out of memory")
		}
		return nil
	})
	_, err := db.ExecContext(t.Context(), "q")
	assert.Error(t, err)
	pooltest.Eventually(t, "what could not be undone is closed", func() bool { return srv.Open() == 0 })
}

// ignoring runs something first, whose error is of no interest to it.
type ignoring struct{ conn }

func (c ignoring) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	_, _ = c.conn.ExecContext(ctx, "SET", nil)
	return c.conn.ExecContext(ctx, query, args)
}

// A dead connection costs its caller nothing, though a library ignores that its own first statement found it so.
func TestGoesOnOnADeadConnection(t *testing.T) {
	srv := fakedriver.New()
	db, _ := openVeiled(t, srv, hidingIsValid(func(c conn) conn { return ignoring{c} }), lifeguard.WithConnectionLimit(1))
	exec(t, db)
	exec(t, db)
	var once sync.Once
	srv.OnQuery(func(_ context.Context, c *fakedriver.Conn, query string, _ []driver.NamedValue) (err error) {
		if query == "SET" {
			once.Do(func() { c.Kill(); err = driver.ErrBadConn })
		}
		return err
	})
	exec(t, db)
}

// resetting has a setting around its user's statements, and the connection closed if it cannot be undone.
type resetting struct{ conn }

func (c resetting) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	if _, err := c.conn.ExecContext(ctx, "SET", nil); err != nil {
		return nil, err
	}
	res, err := c.conn.ExecContext(ctx, query, args)
	if _, undone := c.conn.ExecContext(ctx, "RESET", nil); undone != nil {
		return nil, fmt.Errorf("%w: %v", driver.ErrBadConn, undone)
	}
	return res, err
}

// Nothing runs twice though a library pauses for longer than a lease waits for it, when nothing is known yet: not even
// that it hides nothing.
func TestGoesOnLateAtFirst(t *testing.T) {
	for name, veiled := range map[string]func(conn) driver.Conn{
		"IsValid hidden": hidingIsValid(pausing(100 * time.Millisecond)),
		"nothing hidden": hidingNothing(pausing(100 * time.Millisecond)),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := fakedriver.New()
				log := logged(srv)
				db, _ := openVeiled(t, srv, veiled, lifeguard.WithConnectionLimit(1))
				var calls sync.WaitGroup
				calls.Go(func() {
					_, err := db.ExecContext(t.Context(), "INSERT")
					assert.ErrorIs(t, err, veil.ErrGoesOn)
				})
				synctest.Wait()
				_, err := db.ExecContext(t.Context(), "OTHER")
				assert.NoError(t, err)
				calls.Wait()
				assert.Equal(t, []string{"INSERT", "OTHER"}, log())
			})
		})
	}
}

// One that is known to go on, or to hide nothing, may pause for longer.
func TestGoesOnLateAndIsKnown(t *testing.T) {
	for name, veiled := range map[string]func(conn) driver.Conn{
		"IsValid hidden": hidingIsValid(pausing(100 * time.Millisecond)),
		"nothing hidden": hidingNothing(pausing(time.Minute)),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := fakedriver.New()
				db, pool := openVeiled(t, srv, veiled, lifeguard.WithConnectionLimit(1), lifeguard.WithPoolTimeout(2*time.Minute))
				beside := openBeside(t, pool)
				for range 3 {
					_, err := db.ExecContext(t.Context(), "INSERT")
					require.NoError(t, err)
				}
				log := logged(srv)
				var calls sync.WaitGroup
				calls.Go(func() {
					_, err := db.ExecContext(t.Context(), "INSERT")
					assert.NoError(t, err)
				})
				synctest.Wait()
				_, err := beside.ExecContext(t.Context(), "OTHER")
				assert.NoError(t, err)
				calls.Wait()
				assert.Equal(t, []string{"INSERT", "AUDIT", "OTHER"}, log())
			})
		})
	}
}

// Another's return shows that nothing is hidden while a lease waits for its library.
func TestAskedMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := fakedriver.New()
		db, _ := openVeiled(t, srv, hidingNothing(pausing(100*time.Millisecond)), lifeguard.WithConnectionLimit(2))
		srv.OnQuery(func(_ context.Context, _ *fakedriver.Conn, query string, _ []driver.NamedValue) error {
			if query == "long" {
				time.Sleep(time.Second)
			}
			return nil
		})
		var calls sync.WaitGroup
		calls.Go(func() {
			_, err := db.ExecContext(t.Context(), "INSERT")
			assert.NoError(t, err)
		})
		synctest.Wait()
		exec(t, db)
		exec(t, db)
		for range 2 {
			calls.Go(func() {
				_, err := db.ExecContext(t.Context(), "long")
				assert.NoError(t, err)
			})
		}
		calls.Wait()
	})
}

// settings sets something whenever a connection is checked out, which ResetSession is for.
type settings struct{ conn }

func (c settings) ResetSession(ctx context.Context) error {
	if err := c.conn.(driver.SessionResetter).ResetSession(ctx); err != nil {
		return err
	}
	_, err := c.conn.ExecContext(ctx, "SET", nil)
	return err
}

// hooked sets something on each connection that it opens.
type hooked struct{ veiled }

func (h hooked) Connect(ctx context.Context) (driver.Conn, error) {
	c, err := h.veiled.Connect(ctx)
	if err != nil {
		return nil, err
	}
	_, err = c.(driver.ExecerContext).ExecContext(ctx, "SET", nil)
	return c, err
}

// What a library does to a connection that it opens, or checks out, is not taken for its user's operation, though others of
// that kind came back unseen.
func TestOperationsAtTheCheckout(t *testing.T) {
	for name, open := range map[string]func(*testing.T, *fakedriver.Server) *sql.DB{
		"in ResetSession": func(t *testing.T, srv *fakedriver.Server) *sql.DB {
			db, _ := openVeiled(t, srv, func(c conn) driver.Conn { return settings{c} }, lifeguard.WithConnectionLimit(2))
			return db
		},
		"in Connect": func(t *testing.T, srv *fakedriver.Server) *sql.DB {
			name := fmt.Sprint("hooked", pooltest.Number())
			lifeguard.Register(name, srv.Driver(), lifeguard.WithPoolName(name), lifeguard.WithConnectionLimit(2), pooltest.Quiet)
			watch, err := sql.Open(name, "server")
			require.NoError(t, err)
			c, err := watch.Driver().(driver.DriverContext).OpenConnector("server")
			require.NoError(t, err)
			db := sql.OpenDB(hooked{veiled{c, veils["IsValid"]}})
			t.Cleanup(func() {
				assert.NoError(t, db.Close())
				assert.NoError(t, watch.Close())
			})
			return db
		},
	} {
		for _, first := range []string{"a query", "a sql.Conn"} {
			t.Run(name+", first "+first, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					srv := fakedriver.New()
					db := open(t, srv)
					if first == "a sql.Conn" { // a migration
						c := pooltest.Take(t, db)
						_, err := c.ExecContext(t.Context(), "migrate")
						require.NoError(t, err)
						require.NoError(t, c.Close())
					}
					exec(t, db)
					exec(t, db)
					srv.OnQuery(func(context.Context, *fakedriver.Conn, string, []driver.NamedValue) error {
						time.Sleep(10 * time.Millisecond)
						return nil
					})
					var calls sync.WaitGroup
					for range 8 {
						calls.Go(func() { exec(t, db) })
					}
					calls.Wait()
				})
			})
		}
	}
}

// textTx begins transactions by a text, as some libraries do on SQLite.
type (
	textTx  struct{ conn }
	textEnd struct{ conn }
)

func (c textTx) BeginTx(ctx context.Context, _ driver.TxOptions) (driver.Tx, error) {
	_, err := c.conn.ExecContext(ctx, "BEGIN IMMEDIATE", nil)
	return textEnd(c), err
}

func (e textEnd) Commit() error   { return e.run("COMMIT") }
func (e textEnd) Rollback() error { return e.run("ROLLBACK") }

func (e textEnd) run(query string) error {
	_, err := e.conn.ExecContext(context.Background(), query, nil)
	return err
}

// Nobody else's statement runs in a transaction that a library begins by a text, however long that takes.
func TestBegunByText(t *testing.T) {
	for _, known := range []bool{true, false} {
		t.Run(fmt.Sprint("known: ", known), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := fakedriver.New()
				db, pool := openVeiled(t, srv, hidingIsValid(func(c conn) conn { return textTx{c} }), lifeguard.WithConnectionLimit(1))
				beside := openBeside(t, pool)
				if known {
					exec(t, db)
					tx, err := db.BeginTx(t.Context(), nil)
					require.NoError(t, err)
					_, err = tx.ExecContext(t.Context(), "q")
					require.NoError(t, err)
					require.NoError(t, tx.Commit())
					exec(t, db)
				}
				log := logged(srv)
				tx, err := db.BeginTx(t.Context(), nil)
				require.NoError(t, err)
				var calls sync.WaitGroup
				calls.Go(func() {
					_, err := beside.ExecContext(t.Context(), "OTHER")
					assert.NoError(t, err)
				})
				time.Sleep(5 * time.Second)
				_, err = tx.ExecContext(t.Context(), "mine")
				assert.NoError(t, err)
				assert.NoError(t, tx.Commit())
				exec(t, db) // so that the end is known
				calls.Wait()
				assert.Equal(t, []string{"BEGIN IMMEDIATE", "mine", "COMMIT", "OTHER"}, without(log(), "q"))
			})
		})
	}
}
