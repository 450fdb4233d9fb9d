package stmtcache

import (
	"context"
	"database/sql/driver"

	"github.com/go-lifeguard/lifeguard/internal/fallback"
)

// Statement is a statement on a session: one that is kept, the program's own, or a text. It belongs to the session's owner.
type Statement struct {
	cache  *Cache
	text   string
	parent driver.Stmt // nil if it is not prepared: it runs its text

	does       effect // what running it does to others; nothing if it is kept
	kept       bool   // it is in the cache
	copying    bool   // it is lib/pq's COPY: while it is open, the connection can do nothing else
	holder     holder // other than the cache
	uses       int32  // since it was prepared
	generation uint64 // Cache.generation when it was prepared
	at         int64  // when it was prepared
	checked    int64  // when it was last prepared anew because it might be stale
}

// holder is who has a statement open besides the cache. Queries run only on those that nobody has.
type holder uint8

const (
	nobody  holder = iota
	left           // nobody, and the lease before had it open to its end
	lent           // the program, whose Prepare found it kept
	program        // the program, for which it was prepared
)

func (h holder) open() bool { return h >= lent }

// fresh says whether k may be used where the driver would prepare its text now.
func (k *Statement) fresh() bool { return k.generation == k.cache.generation && !k.expired() }

func (k *Statement) expired() bool { return k.cache.shared.Now()-k.at >= int64(validity) }

// renew prepares a lent statement anew before it is used for longer than a kept one may be.
func (k *Statement) renew(ctx context.Context) {
	c := k.cache
	if k.holder != lent || !k.expired() || c.open > 0 || c.behind() {
		return
	}
	c.follow()
	generation, now := c.generation, c.shared.Now()
	if fresh, err := c.prepare(ctx, k.text); err == nil {
		k.replace(fresh, generation, now)
	}
}

// replace makes k run on fresh, which was prepared in that generation at that time.
func (k *Statement) replace(fresh driver.Stmt, generation uint64, now int64) {
	_ = k.parent.Close() // the server may not know it any more
	k.parent, k.generation, k.at, k.uses = fresh, generation, now, 0
	k.cache.eldest = nil // which may be k
	if k.holder == lent {
		k.holder = program
	}
}

// Exec runs the statement. After an error that says that it is stale, it runs once more.
func (k *Statement) Exec(ctx context.Context, args []driver.NamedValue) (res driver.Result, err error) {
	err = k.run(ctx, func() (err error) {
		if k.parent == nil {
			res, err = k.cache.conn.Exec(ctx, k.text, args)
		} else {
			res, err = fallback.Stmt{Stmt: k.parent}.ExecContext(ctx, args)
		}
		return err
	})
	k.cache.end(k.does)
	return res, k.cache.Explain(err)
}

// Query is Exec for a query.
func (k *Statement) Query(ctx context.Context, args []driver.NamedValue) (rows driver.Rows, err error) {
	err = k.run(ctx, func() (err error) {
		if k.parent == nil {
			rows, err = k.cache.conn.Query(ctx, k.text, args)
		} else {
			rows, err = fallback.Stmt{Stmt: k.parent}.QueryContext(ctx, args)
		}
		return err
	})
	k.cache.endQuery(k.does, err)
	return rows, k.cache.Explain(err)
}

func (k *Statement) run(ctx context.Context, operation func() error) error {
	k.renew(ctx)
	k.uses++
	k.cache.begin(k.does)
	err := operation()
	if err != nil {
		var again bool
		if again, err = k.heal(ctx, err); again {
			err = operation()
		}
	}
	return err
}

// NumInput is that of the driver's statement, or -1 if it is not known.
func (k *Statement) NumInput() int {
	if k.parent == nil {
		return -1
	}
	return k.parent.NumInput()
}

// Driver gives the driver's statement, nil if there is none. After the next operation it may be another.
func (k *Statement) Driver() driver.Stmt { return k.parent }

// Copying says whether it is lib/pq's COPY, which is not cancelled like a query.
func (k *Statement) Copying() bool { return k.copying }

// Close ends the program's use of the statement. It closes the driver's if that is not kept.
func (k *Statement) Close() error {
	k.holder = nobody
	if k.cache.leaving {
		k.holder = left
	}
	if k.kept || k.parent == nil {
		return nil
	}
	if k.copying {
		k.copying = false
		defer k.cache.Closed(nil)
		return k.parent.Close()
	}
	return k.cache.closeStmt(k.parent)
}
