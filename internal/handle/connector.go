package handle

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"sync/atomic"
	"time"

	"github.com/go-lifeguard/lifeguard/internal/leak"
	"github.com/go-lifeguard/lifeguard/internal/pool"
	"github.com/go-lifeguard/lifeguard/internal/session"
	"github.com/go-lifeguard/lifeguard/internal/veil"
)

// Connector stands between one handle and its pool.
type Connector struct {
	pool   *Shared
	client *pool.Client[*session.Session]
	driver driver.Driver

	shut atomic.Bool // no lease may be given any more; set before the leases that there are are looked at

	library veil.Library

	db atomic.Pointer[sql.DB] // nil for handles that sql.Open made, which never shows them
}

// Over says whether the handle is closed and has nothing left.
func (c *Connector) Over() bool { return c.shut.Load() && c.client.Out() == 0 }

func (c *Connector) Driver() driver.Driver { return c.driver }

// Handle makes the *sql.DB of a connector that lifeguard opens itself. It keeps as many idle leases as the pool allows.
func (c *Connector) Handle() *sql.DB {
	db := sql.OpenDB(c)
	c.db.Store(db)
	limit, _ := c.pool.pool.Limit()
	c.KeepIdle(limit)
	return db
}

// KeepIdle has the handle keep up to n idle leases, if lifeguard opened it itself.
func (c *Connector) KeepIdle(n int) {
	if db := c.db.Load(); db != nil {
		db.SetMaxIdleConns(n)
	}
}

// Close is called by sql.DB.Close. The last handle closes the pool. As from the plain driver, the last error is told.
func (c *Connector) Close() error {
	c.shut.Store(true)
	last, err := c.client.Leave()
	if !last {
		return err
	}
	if e := c.pool.cfg.Closed(); e != nil {
		return e
	}
	return err
}

// MaxOpen is the limit that the handle's own setter has set; 0 for none, and where lifeguard does not hold the handle.
func (c *Connector) MaxOpen() int {
	if db := c.db.Load(); db != nil {
		return db.Stats().MaxOpenConnections
	}
	return 0
}

// Connect gives the handle a lease. All waiting happens here.
func (c *Connector) Connect(ctx context.Context) (driver.Conn, error) {
	return c.ConnectOnce(ctx, nil)
}

// ConnectOnce is Connect, with a function that the lease's Close calls; nil for none.
func (c *Connector) ConnectOnce(ctx context.Context, closed func()) (driver.Conn, error) {
	p := c.pool
	began := p.cfg.Now()
	l := &lease{conn: c, closed: closed}
	turn := pool.Turn{Hint: func() { l.noteWhere(began) }}
	for {
		s, err := c.client.Acquire(ctx, l, &turn)
		if err != nil {
			err = p.cfg.WaitFailed(err)
			p.connectEnded(ctx, time.Duration(p.cfg.Now()-began), err)
			return nil, err
		}
		if !p.cfg.Ready(ctx, s, turn.Since) {
			continue // it was dead: the caller waits on, in its place
		}
		now := p.cfg.Now()
		l.noteWhere(now)
		l.attach(ctx, s, now, now-began)
		if c.shut.Load() {
			// The handle was closed too late to stop Acquire, and too soon to see the lease.
			l.drop()
			return nil, pool.ErrClosed
		}
		p.connectEnded(ctx, time.Duration(now-began), nil)
		return l.asConn(), nil
	}
}

// Drain refuses new callers and those who wait. The channel is closed when everything that the handle had is back.
func (c *Connector) Drain() <-chan struct{} { return c.client.Drain() }

// Force closes what the handle still holds, and gives the records of it. left says that some of what an earlier call has
// closed has not ended yet.
func (c *Connector) Force() (ended []leak.Hold, left bool) {
	c.shut.Store(true)
	var doomed []*lease
	for _, of := range c.pool.pool.Leases(c.client) {
		l := of.(*lease)
		if h, ok := l.Hold(); ok && l.doom(pool.ErrClosed) {
			doomed, ended = append(doomed, l), append(ended, h)
		}
	}
	for _, l := range doomed {
		l.s.Cut() // where the pool has the socket, what runs ends now; else at the holder's next step
	}
	return ended, c.client.Out() > 0
}
