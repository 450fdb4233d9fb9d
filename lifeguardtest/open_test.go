package lifeguardtest_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-lifeguard/lifeguard"
	"github.com/go-lifeguard/lifeguard/internal/fakedriver"
	"github.com/go-lifeguard/lifeguard/internal/pooltest"
)

// onlyOpen is a library that knows a driver's Open and nothing else.
type onlyOpen struct{ of driver.Driver }

func (d onlyOpen) Open(dsn string) (driver.Conn, error) { return d.of.Open(dsn) }

// openOnly registers a driver over lifeguard by its Open, and gives the name.
func openOnly(t *testing.T, srv *fakedriver.Server, opts ...lifeguard.Option) string {
	t.Helper()
	name := fmt.Sprint("only-open-", pooltest.Number())
	lifeguard.Register(name, srv.Driver(), append(opts, pooltest.Quiet)...)
	db, err := sql.Open(name, "")
	if err != nil {
		t.Fatal(err)
	}
	sql.Register("over-"+name, onlyOpen{db.Driver()})
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	return "over-" + name
}

// A library that knows only Open gets the pool: the limit, pool_timeout, the driver's own DSN.
func TestOpenGoesThroughThePool(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := fakedriver.New()
		name := openOnly(t, srv)
		db, err := sql.Open(name, "server?x=1&connection_limit=2&pool_timeout=3")
		if err != nil {
			t.Fatal(err)
		}
		for range 10 {
			leaveNothing(db)
		}
		ends := []func(){leaveConn(db), leaveTx(db)}
		began := time.Now()
		var timeout *lifeguard.PoolTimeoutError
		if _, err := db.Exec("waits"); !errors.As(err, &timeout) || time.Since(began) != 3*time.Second {
			t.Errorf("after %v: %v, want pool_timeout", time.Since(began), err)
		}
		for _, end := range ends {
			end()
		}
		leaveNothing(db)
		if srv.Dials() != 2 || srv.MaxOpen() != 2 {
			t.Errorf("%d dials and %d at once, want 2", srv.Dials(), srv.MaxOpen())
		}
		if got := srv.DSNs(); slices.ContainsFunc(got, func(dsn string) bool { return dsn != "server?x=1" }) {
			t.Errorf("the driver got %q", got)
		}
		if err := db.Close(); err != nil || srv.Open() != 0 {
			t.Errorf("after Close: %v, %d connections open", err, srv.Open())
		}
		leaveConnOf := func() error { _, err := db.Conn(context.Background()); return err }
		if err := leaveConnOf(); err == nil {
			t.Error("a closed handle connects")
		}
	})
}

// Handles of one DSN share a pool, which begins anew after the last connection of all. Another DSN is another pool.
func TestOpenSharesByDSN(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := fakedriver.New()
		name := openOnly(t, srv, lifeguard.WithConnectionLimit(1), lifeguard.WithPoolTimeout(time.Second))
		open := func(dsn string) *sql.DB {
			db, err := sql.Open(name, dsn)
			if err != nil {
				t.Fatal(err)
			}
			return db
		}
		a, b, other := open("one"), open("one"), open("other")
		end := leaveConn(a)
		if _, err := b.Exec("waits"); !errors.Is(err, lifeguard.ErrPoolTimeout) {
			t.Errorf("two handles of one DSN: %v", err)
		}
		leaveNothing(other)
		end()
		leaveNothing(b)
		for _, db := range []*sql.DB{a, b, other} {
			if err := db.Close(); err != nil {
				t.Error(err)
			}
		}
		if srv.Open() != 0 {
			t.Errorf("%d connections are open after all handles", srv.Open())
		}
		again := open("one")
		leaveNothing(again)
		_ = again.Close()
		if srv.MaxOpen() != 2 || srv.Open() != 0 {
			t.Errorf("at most %d at once, %d left", srv.MaxOpen(), srv.Open())
		}
	})
}

// The errors of Open are those of sql.Open, and cost no slot.
func TestOpenErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := fakedriver.New()
		name := openOnly(t, srv, lifeguard.WithConnectionLimit(1))
		db, err := sql.Open(name, "server?password=hunter2&connection_limit=many")
		if err != nil {
			t.Fatal(err)
		}
		if err := db.Ping(); err == nil || !strings.Contains(err.Error(), "connection_limit") || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("a bad parameter: %v", err)
		}
		_ = db.Close()
		db, err = sql.Open(name, "server")
		if err != nil {
			t.Fatal(err)
		}
		refused := errors.New("refused")
		srv.OnDial(func(context.Context) error { return refused })
		for range 3 {
			if err := db.Ping(); !errors.Is(err, refused) {
				t.Errorf("the driver's error: %v", err)
			}
		}
		srv.OnDial(func(context.Context) error { return nil })
		leaveNothing(db)
		_ = db.Close()
		if srv.Open() != 0 {
			t.Errorf("%d connections left", srv.Open())
		}
	})
}

// Whatever is opened and closed at once, never more connections than the limit are open, and none is left.
func TestOpenStress(t *testing.T) {
	seed := pooltest.Seed(t).Uint64()
	srv := fakedriver.New()
	name := openOnly(t, srv, lifeguard.WithConnectionLimit(3), lifeguard.WithPoolTimeout(20*time.Second))
	var calls sync.WaitGroup
	for g := range 8 {
		calls.Go(func() {
			rnd := rand.New(rand.NewPCG(seed, uint64(g)))
			for range 30 {
				db, err := sql.Open(name, "one")
				if err != nil {
					t.Error(err)
					return
				}
				db.SetMaxIdleConns(rnd.IntN(3) - 1)
				for range rnd.IntN(5) {
					if _, err := db.Exec("q"); err != nil {
						t.Error(err)
					}
				}
				if err := db.Close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	calls.Wait()
	if srv.MaxOpen() > 3 || srv.Open() != 0 {
		t.Errorf("at most %d at once, %d left, want at most 3 and 0", srv.MaxOpen(), srv.Open())
	}
}
