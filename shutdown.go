package lifeguard

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"

	"github.com/go-lifeguard/lifeguard/internal/assembly"
	"github.com/go-lifeguard/lifeguard/internal/handle"
)

// Shutdown closes handles without dropping work. From the moment it is called, new checkouts and callers that wait get
// [ErrPoolClosed]. Transactions, rows and connections that are in use go on, and the idle ones close. When the last is
// back, the handles are closed as by [database/sql.DB.Close], and Shutdown returns nil.
//
// If ctx ends first, the rest is closed as well. The error lists the holders, and matches ctx.Err() with [errors.Is]. A
// connection of lib/pq or pgx is cut at once, because the pool reaches its socket. One of another driver closes as soon as
// the operation that runs on it ends, or its holder next touches it.
//
// A pool that several handles share stays for the others until the last one is closed. Shutdown may be called several
// times, and beside Close: each call waits for the end of the same work. A handle that was not opened through lifeguard
// is an error, and is left alone.
func Shutdown(ctx context.Context, dbs ...*sql.DB) error {
	var errs []error
	var handles []*handle.Connector
	for _, db := range dbs {
		c := connectorOf(db)
		if c == nil {
			errs = append(errs, errors.New("lifeguard: Shutdown was given a handle that was not opened through lifeguard"))
			continue
		}
		handles = append(handles, c)
		c.Drain()
	}
	for _, c := range handles {
		errs = append(errs, poolOf(c).await(ctx, c))
	}
	for _, db := range dbs {
		if connectorOf(db) != nil {
			errs = append(errs, db.Close()) // ends the handle's own goroutine; the pool has been left already
		}
	}
	return errors.Join(errs...)
}

// Shutdown is [Shutdown] for every handle of the pool, for programs that do not keep their handles. The handles
// themselves stay open, and every use of one gets [ErrPoolClosed].
func (p *Pool) Shutdown(ctx context.Context) error {
	handles := p.pool.Handles()
	for _, c := range handles {
		c.Drain()
	}
	var errs []error
	for _, c := range handles {
		errs = append(errs, p.await(ctx, c))
	}
	return errors.Join(errs...)
}

// await returns when everything that a handle had is back, or closes what is left at the end of ctx, and closes the
// handle's connector.
func (p *Pool) await(ctx context.Context, c *handle.Connector) error {
	var err error
	drained := c.Drain()
	select {
	case <-drained:
	case <-ctx.Done():
		select {
		case <-drained:
		default:
			err = p.force(c, ctx.Err())
		}
	}
	return errors.Join(err, c.Close())
}

// force closes what a handle still holds. A later shutdown whose time is up is told the same as long as any of it goes
// on.
func (p *Pool) force(c *handle.Connector, cause error) error {
	d := c.Driver().(*poolDriver)
	d.forcing.Lock() // another must not find everything closed already, and nothing said about it
	defer d.forcing.Unlock()
	held, left := c.Force()
	if len(held) > 0 {
		e := &shutdownError{pool: p.name, cause: cause}
		now := p.now()
		for i := range held {
			e.held = append(e.held, p.holder(&held[i], now))
		}
		d.late = e
	} else if !left {
		return nil
	}
	return d.late
}

// shutdownError lists what was still in use when a shutdown had to end.
type shutdownError struct {
	pool  string
	held  []Holder
	cause error
}

func (e *shutdownError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "lifeguard: shutdown of pool %q: %v, and these were still in use and have been closed:", e.pool, e.cause)
	for i := range e.held {
		if i > 0 {
			b.WriteString(";")
		}
		fmt.Fprintf(&b, " held %s", assembly.Readable(e.held[i].Held))
		e.held[i].writeTo(&b)
	}
	return b.String()
}

func (e *shutdownError) Unwrap() error { return e.cause }
