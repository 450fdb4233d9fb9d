package handle_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/go-lifeguard/lifeguard"
	"github.com/go-lifeguard/lifeguard/internal/fakedriver"
	"github.com/go-lifeguard/lifeguard/internal/pooltest"
)

// What libraries that wrap a driver show of a connection.
type (
	conn interface {
		driver.Conn
		driver.Pinger
		driver.ExecerContext
		driver.QueryerContext
		driver.ConnPrepareContext
		driver.ConnBeginTx
		driver.NamedValueChecker
	}
	shown       struct{ conn }
	noValidator struct {
		conn
		driver.SessionResetter
	}
	noResetter struct {
		conn
		driver.Validator
	}
	// talkative runs an operation of its own before each of its user's.
	talkative struct{ conn }
)

func (c talkative) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	if _, err := c.conn.ExecContext(ctx, "own", nil); err != nil {
		return nil, err
	}
	return c.conn.ExecContext(ctx, query, args)
}

var veils = map[string]func(conn) driver.Conn{
	"IsValid":             func(c conn) driver.Conn { return noValidator{c, c.(driver.SessionResetter)} },
	"ResetSession":        func(c conn) driver.Conn { return noResetter{c, c.(driver.Validator)} },
	"both":                func(c conn) driver.Conn { return shown{c} },
	"both, and talks":     func(c conn) driver.Conn { return talkative{c} },
	"nothing, and passes": func(c conn) driver.Conn { return c },
}

// veiled is a connector behind such a library.
type veiled struct {
	driver.Connector
	veil func(conn) driver.Conn
}

func (v veiled) Connect(ctx context.Context) (driver.Conn, error) {
	c, err := v.Connector.Connect(ctx)
	if err != nil {
		return nil, err
	}
	return v.veil(c.(conn)), nil
}

func (v veiled) Close() error { return v.Connector.(interface{ Close() error }).Close() }

// openVeiled opens a handle behind a library that hides something, and gives the pool, too.
func openVeiled(t *testing.T, srv *fakedriver.Server, veil func(conn) driver.Conn, opts ...lifeguard.Option) (*sql.DB, *lifeguard.Pool) {
	t.Helper()
	name := fmt.Sprint("veiled", pooltest.Number())
	opts = append(opts, lifeguard.WithPoolName(name), pooltest.Quiet)
	lifeguard.Register(name, srv.Driver(), opts...)
	watch, err := sql.Open(name, "server")
	require.NoError(t, err)
	pool, ok := lifeguard.PoolOf(watch)
	require.True(t, ok)
	c, err := watch.Driver().(driver.DriverContext).OpenConnector("server")
	require.NoError(t, err)
	db := sql.OpenDB(veiled{c, veil})
	t.Cleanup(func() {
		assert.NoError(t, db.Close())
		assert.NoError(t, watch.Close())
		pooltest.Eventually(t, "none is left open", func() bool { return srv.Open() == 0 }) // a dial may have been under way
		assert.Empty(t, srv.Violations())
	})
	return db, pool
}

func exec(t *testing.T, db *sql.DB) {
	t.Helper()
	_, err := db.ExecContext(t.Context(), "q")
	assert.NoError(t, err)
}

// A hidden method costs no dial for each checkout.
func TestVeiledKeepsConnections(t *testing.T) {
	for name, veil := range veils {
		t.Run(name, func(t *testing.T) {
			srv := fakedriver.New()
			db, _ := openVeiled(t, srv, veil)
			for range 100 {
				exec(t, db)
				tx, err := db.Begin()
				require.NoError(t, err)
				_, err = tx.Exec("q")
				require.NoError(t, err)
				require.NoError(t, tx.Commit())
				rows, err := db.Query("q")
				require.NoError(t, err)
				require.NoError(t, rows.Close())
				conn := pooltest.Take(t, db)
				_, err = conn.ExecContext(t.Context(), "q")
				require.NoError(t, err)
				require.NoError(t, conn.Close())
			}
			assert.LessOrEqual(t, srv.Dials(), 2)
		})
	}
}

// A waiter is served when the connection comes back, though the handle keeps it and says nothing.
func TestVeiledServesWaiters(t *testing.T) {
	for name, veil := range veils {
		for _, used := range []bool{false, true} {
			t.Run(fmt.Sprint(name, ", used before: ", used), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					srv := fakedriver.New()
					db, pool := openVeiled(t, srv, veil, lifeguard.WithConnectionLimit(1))
					if name == "both, and talks" || name == "both" && used {
						db.SetMaxIdleConns(-1) // that library makes each checkout look like the one before
					}
					if used {
						exec(t, db)
						exec(t, db)
					}
					srv.OnQuery(func(_ context.Context, _ *fakedriver.Conn, query string, _ []driver.NamedValue) error {
						if query == "q" {
							time.Sleep(time.Second) // virtual
						}
						return nil
					})
					began := time.Now()
					var calls sync.WaitGroup
					for range 3 { // nobody comes later
						calls.Go(func() { exec(t, db) })
					}
					calls.Wait()
					if took := time.Since(began); name != "both, and talks" {
						assert.InDelta(t, 3, took.Seconds(), 0.11) // each return that nobody tells of may take veil.Rest
					}
					assert.LessOrEqual(t, srv.MaxOpen(), 1)
					if name != "both" && name != "both, and talks" {
						assert.Zero(t, pool.Stats().InUse, "nobody has it")
					}
				})
			})
		}
	}
}

// What a sql.Conn or a transaction holds is never given away, whatever is hidden.
func TestVeiledGivesNothingAway(t *testing.T) {
	for name, veil := range veils {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := fakedriver.New()
				srv.Rows(100)
				db, _ := openVeiled(t, srv, veil, lifeguard.WithConnectionLimit(1), lifeguard.WithPoolTimeout(time.Second))
				for range 3 {
					exec(t, db) // so that it is known what is hidden
				}
				hold := map[string]func() (use func() error, end func() error){
					"conn": func() (func() error, func() error) {
						c := pooltest.Take(t, db)
						return func() error { _, err := c.ExecContext(t.Context(), "held"); return err }, c.Close
					},
					"tx": func() (func() error, func() error) {
						tx, err := db.BeginTx(t.Context(), nil)
						require.NoError(t, err)
						return func() error { _, err := tx.ExecContext(t.Context(), "held"); return err }, tx.Commit
					},
					"rows": func() (func() error, func() error) {
						rows, err := db.QueryContext(t.Context(), "held")
						require.NoError(t, err)
						return func() error { rows.Next(); return rows.Err() }, rows.Close
					},
				}
				for what, begin := range hold {
					use, end := begin()
					for range 2 {
						assert.NoError(t, use(), what)
						_, err := db.ExecContext(t.Context(), "q")
						assert.ErrorIs(t, err, lifeguard.ErrPoolTimeout, what)
						assert.NoError(t, use(), what)
					}
					assert.NoError(t, end(), what)
					exec(t, db)
				}
				assert.LessOrEqual(t, srv.MaxOpen(), 1)
			})
		})
	}
}

// No connection has two users, none is lost, and nothing fails.
func TestVeiledStress(t *testing.T) {
	for name, veil := range veils {
		t.Run(name, func(t *testing.T) {
			seed := pooltest.Seed(t).Uint64()
			srv := fakedriver.New()
			var mu sync.Mutex
			busy := map[*fakedriver.Conn]bool{}
			srv.OnQuery(func(_ context.Context, c *fakedriver.Conn, _ string, _ []driver.NamedValue) error {
				mu.Lock()
				assert.False(t, busy[c], "two users of a connection")
				busy[c] = true
				mu.Unlock()
				time.Sleep(10 * time.Microsecond)
				mu.Lock()
				busy[c] = false
				mu.Unlock()
				return nil
			})
			db, pool := openVeiled(t, srv, veil, lifeguard.WithConnectionLimit(4), lifeguard.WithPoolTimeout(20*time.Second))
			idle, kinds := int(seed%6)-1, 4
			switch name {
			case "both", "both, and talks":
				idle = -1 // else a waiter may wait beside what the handle keeps
			case "IsValid":
				if idle >= 0 {
					kinds = 3 // the last sql.Conn comes back unseen, and a waiter may wait beside it
				}
			}
			db.SetMaxIdleConns(idle)
			if name == "ResetSession" {
				exec(t, db)
				exec(t, db) // it is known from now on; before, a sql.Conn may lose its connection
			}
			var calls sync.WaitGroup
			for g := range 12 {
				calls.Go(func() {
					rnd := rand.New(rand.NewPCG(seed, uint64(g)))
					for range 150 {
						switch rnd.IntN(kinds) {
						case 0:
							exec(t, db)
						case 1:
							rows, err := db.QueryContext(t.Context(), "rows")
							if assert.NoError(t, err) {
								assert.NoError(t, rows.Close())
							}
						case 2:
							tx, err := db.BeginTx(t.Context(), nil)
							if assert.NoError(t, err) {
								_, err = tx.ExecContext(t.Context(), "in tx")
								assert.NoError(t, err)
								assert.NoError(t, tx.Rollback())
							}
						case 3:
							c, err := db.Conn(t.Context())
							if assert.NoError(t, err) {
								for range 3 {
									_, err = c.ExecContext(t.Context(), "on conn")
									assert.NoError(t, err)
								}
								assert.NoError(t, c.Close())
							}
						}
					}
				})
			}
			calls.Wait()
			assert.LessOrEqual(t, srv.MaxOpen(), 4)
			assert.LessOrEqual(t, pool.Stats().InUse, 4)
			t.Logf("%d dials", srv.Dials())
		})
	}
}

// A driver.Conn that somebody has kept does nothing once its connection is returned.
func TestKeptFromRaw(t *testing.T) {
	srv := fakedriver.New()
	db, pool := openVeiled(t, srv, veils["nothing, and passes"], lifeguard.WithConnectionLimit(1))
	exec(t, db)
	exec(t, db)
	c := pooltest.Take(t, db)
	var kept driver.ExecerContext
	require.NoError(t, c.Raw(func(dc any) error { kept = dc.(driver.ExecerContext); return nil }))
	require.NoError(t, c.Close())
	_, err := kept.ExecContext(t.Context(), "q", nil)
	assert.ErrorIs(t, err, driver.ErrBadConn)
	assert.Zero(t, pool.Stats().InUse)
	exec(t, db)
}

// What comes back unseen is closed where the handle keeps nothing: a connection of a sql.Conn, and of a statement.
func TestVeiledWithoutIdleConnections(t *testing.T) {
	srv := fakedriver.New()
	db, pool := openVeiled(t, srv, veils["IsValid"], lifeguard.WithConnectionLimit(1))
	db.SetMaxIdleConns(-1)
	exec(t, db)
	exec(t, db)
	assert.Equal(t, 1, srv.Dials(), "the pool keeps it")
	require.NoError(t, pooltest.Take(t, db).Close())
	assert.Zero(t, srv.Open())
	st, err := db.PrepareContext(t.Context(), "q")
	require.NoError(t, err)
	assert.Zero(t, srv.Open())
	_, err = st.ExecContext(t.Context())
	require.NoError(t, err)
	assert.Zero(t, srv.Open())
	require.NoError(t, st.Close())
	assert.Zero(t, pool.Stats().InUse)
}
