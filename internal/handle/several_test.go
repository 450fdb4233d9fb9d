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
	"github.com/go-lifeguard/lifeguard/internal/veil"
)

// auditing runs a statement of its own after some of its user's, as libraries for row-level security and audits do.
type auditing struct{ conn }

func (c auditing) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	res, err := c.conn.ExecContext(ctx, query, args)
	if err == nil && query == "INSERT" {
		_, err = c.conn.ExecContext(ctx, "AUDIT", args)
	}
	return res, err
}

func (c auditing) IsValid() bool { return c.conn.(driver.Validator).IsValid() }

func (c auditing) ResetSession(ctx context.Context) error {
	return c.conn.(driver.SessionResetter).ResetSession(ctx)
}

// Several operations of a library in one that database/sql knows run on one connection, without another caller's in
// between, and none runs twice, though somebody waits: whether the library hides IsValid or not, and whether that is known.
func TestSeveralOperationsInOne(t *testing.T) {
	type hiding struct {
		conn
		driver.SessionResetter
	}
	for name, veiled := range map[string]func(conn) driver.Conn{
		"nothing hidden": func(c conn) driver.Conn { return auditing{c} },
		"IsValid hidden": func(c conn) driver.Conn { return hiding{auditing{c}, c.(driver.SessionResetter)} },
	} {
		for before, queries := range map[string][]string{
			"the first":              nil,
			"after the same":         {"INSERT", "INSERT"},
			"after one alone":        {"UPDATE"},
			"after three alone":      {"UPDATE", "UPDATE", "UPDATE"}, // of a new connection, and of one that lay in the handle
			"after one of each kind": {"INSERT", "UPDATE"},
			"after a ping":           {"ping"},
			"after a transaction":    {"transaction"},
		} {
			t.Run(name+", "+before, func(t *testing.T) {
				srv := fakedriver.New()
				db, pool := openVeiled(t, srv, veiled, lifeguard.WithConnectionLimit(1))
				for _, query := range queries {
					switch query {
					case "ping":
						require.NoError(t, db.PingContext(t.Context()))
					case "transaction":
						tx, err := db.BeginTx(t.Context(), nil)
						require.NoError(t, err)
						require.NoError(t, tx.Commit())
					default:
						_, err := db.ExecContext(t.Context(), query)
						require.NoError(t, err)
					}
				}
				beside, err := sql.Open(pool.Config().PoolName, "server")
				require.NoError(t, err)
				t.Cleanup(func() { assert.NoError(t, beside.Close()) })
				var mu sync.Mutex
				var log []string
				var once sync.Once
				other := make(chan error, 1)
				srv.OnQuery(func(_ context.Context, _ *fakedriver.Conn, query string, _ []driver.NamedValue) error {
					mu.Lock()
					log = append(log, query)
					mu.Unlock()
					if query == "INSERT" {
						once.Do(func() {
							go func() {
								_, err := beside.ExecContext(t.Context(), "OTHER")
								other <- err
							}()
							pooltest.Eventually(t, "another caller waits", func() bool { return pool.Stats().Waiting == 1 })
						})
					}
					return nil
				})
				_, err = db.ExecContext(t.Context(), "INSERT")
				if name == "IsValid hidden" && before == "after three alone" { // nothing else is known of the library
					require.ErrorIs(t, err, veil.ErrGoesOn)
					require.NoError(t, <-other)
					assert.Equal(t, []string{"INSERT", "OTHER"}, log, "nothing ran twice")
					return
				}
				require.NoError(t, err)
				exec(t, db) // so that the first is known to be over
				require.NoError(t, <-other)
				assert.Equal(t, []string{"INSERT", "AUDIT", "OTHER"}, without(log, "q"))
			})
		}
	}
}

// Callers of a library that goes on after some operations and not after others: each of its pairs runs once, on one
// connection and in its order, and nobody waits beside a connection that came back unseen.
func TestSeveralOperationsStress(t *testing.T) {
	type hiding struct {
		conn
		driver.SessionResetter
	}
	rnd := pooltest.Seed(t)
	for range 10 {
		srv := fakedriver.New()
		db, pool := openVeiled(t, srv, func(c conn) driver.Conn {
			return hiding{auditing{c}, c.(driver.SessionResetter)}
		}, lifeguard.WithConnectionLimit(2), lifeguard.WithPoolTimeout(10*time.Second))
		var mu sync.Mutex
		ran := map[*fakedriver.Conn][]string{}
		times := map[string]int{}
		srv.OnQuery(func(_ context.Context, c *fakedriver.Conn, query string, args []driver.NamedValue) error {
			mu.Lock()
			defer mu.Unlock()
			ran[c] = append(ran[c], fmt.Sprint(query, args[0].Value))
			times[fmt.Sprint(query, args[0].Value)]++
			return nil
		})
		done := map[int64]bool{}
		var calls sync.WaitGroup
		for g := range 6 {
			seed := rnd.Uint64()
			calls.Go(func() {
				rnd := rand.New(rand.NewPCG(seed, 0))
				for i := range 20 {
					id, query := int64(g*100+i), "UPDATE"
					if rnd.IntN(2) == 0 {
						query = "INSERT"
					}
					_, err := db.ExecContext(t.Context(), query, id)
					if err != nil {
						assert.ErrorIs(t, err, veil.ErrGoesOn)
					} else if query == "INSERT" {
						mu.Lock()
						done[id] = true
						mu.Unlock()
					}
				}
			})
		}
		calls.Wait()
		assert.Zero(t, pool.Stats().Timeouts)
		for text, n := range times {
			assert.Equal(t, 1, n, text)
		}
		assert.LessOrEqual(t, srv.MaxOpen(), 2)
		for _, log := range ran {
			for i, text := range log {
				var id int64
				if n, _ := fmt.Sscanf(text, "AUDIT%d", &id); n == 1 {
					if assert.Positive(t, i, text) {
						assert.Equal(t, fmt.Sprint("INSERT", id), log[i-1], "directly before its %s", text)
					}
					delete(done, id)
				}
			}
		}
		assert.Empty(t, done, "pairs that were acknowledged, and whose second part did not run")
	}
}

func without(log []string, query string) (rest []string) {
	for _, q := range log {
		if q != query {
			rest = append(rest, q)
		}
	}
	return rest
}

// heard calls back before the handle hears that its connection may stay.
type heard struct {
	conn
	driver.SessionResetter
	back func()
}

func (c heard) IsValid() bool {
	ok := c.conn.(driver.Validator).IsValid()
	c.back()
	return ok
}

// What a sql.Conn gives back is on its way to the handle, however long it lay unused in its holder's hands: it is not taken
// at once for a caller of that handle.
func TestUnusedConnInTransit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := fakedriver.New()
		back := func() {}
		db, pool := openVeiled(t, srv, func(c conn) driver.Conn {
			return heard{c, c.(driver.SessionResetter), func() { back() }}
		}, lifeguard.WithConnectionLimit(1))
		c := pooltest.Take(t, db)
		time.Sleep(time.Minute)
		served := make(chan error, 1)
		back = func() {
			back = func() {}
			go func() {
				_, err := db.ExecContext(context.Background(), "q")
				served <- err
			}()
			synctest.Wait()
			assert.Equal(t, 1, pool.Stats().Waiting, "it was taken from what is on its way")
		}
		require.NoError(t, c.Close())
		require.NoError(t, <-served)
	})
}
