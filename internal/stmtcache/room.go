package stmtcache

import (
	"context"
	"database/sql/driver"
	"sync/atomic"
	"time"

	"github.com/go-lifeguard/lifeguard/internal/libpq"
)

// room bounds what a pool keeps on a MySQL server, which bounds the prepared statements of all its clients together
// (max_prepared_stmt_count). It is safe for concurrent use.
//
// All pools leave half of the server's places alone: a program that keeps nothing needs one for each query. Below that, a pool
// takes a quarter of what is left; above, it gives back as much as its part of the excess.
type room struct {
	now    func() int64
	kept   atomic.Int64 // statements that the pool's sessions keep
	budget atomic.Int64 // how many they may keep
	asked  atomic.Int64 // when the server was asked last; 0: never
}

// asking is how often a pool that prepares asks the server how full it is.
const asking = time.Second

// full says whether the pool keeps as many statements as it may, and as many more.
func (r *room) full(more int64) bool {
	return r.asked.Load() != 0 && r.kept.Load() >= r.budget.Load()+more
}

// due says whether the caller is to ask the server.
func (r *room) due() bool {
	now, asked := r.now(), r.asked.Load()
	return (asked == 0 || now-asked >= int64(asking)) && r.asked.CompareAndSwap(asked, now)
}

// set takes the server's answer: how many statements it has, and how many it can have.
func (r *room) set(has, most int64) {
	kept := r.kept.Load()
	if half := most / 2; has > half {
		r.budget.Store(kept * half / has)
	} else {
		r.budget.Store(kept + (half-has)/4)
	}
}

// survey has c ask the server how full it is, if that is due. If it does not say, nothing more is kept.
func (r *room) survey(ctx context.Context, c *Cache) {
	if !r.due() {
		return
	}
	most, err := c.ask(ctx, "SELECT @@max_prepared_stmt_count")
	has, err2 := c.ask(ctx, "SHOW GLOBAL STATUS LIKE 'Prepared_stmt_count'")
	if err != nil || err2 != nil {
		r.budget.Store(0)
		return
	}
	r.set(has, most)
}

// clear prepares query on c, after MySQL had no room for it. The pool gives up what it keeps: this session at once, the others at
// their next operations, for which it waits as long as that frees a place, for a second at most.
func (r *room) clear(ctx context.Context, c *Cache, query string, full error) (driver.Stmt, error) {
	r.asked.Store(r.now())
	r.budget.Store(0)
	for c.dropOldest() {
	}
	for range 100 {
		st, err := c.conn.Prepare(ctx, query)
		if err == nil || libpq.Code(err) != libpq.Code(full) || r.kept.Load() == 0 {
			return st, err
		}
		select {
		case <-ctx.Done():
			return nil, full
		case <-time.After(10 * time.Millisecond):
		}
	}
	return nil, full
}
