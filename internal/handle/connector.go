package handle

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-lifeguard/lifeguard/internal/observe"
	"github.com/go-lifeguard/lifeguard/internal/pool"
	"github.com/go-lifeguard/lifeguard/internal/session"
)

// Connector stands between one handle and its pool.
type Connector struct {
	pool   *Pool
	client *pool.Client[*session.Session]
	driver driver.Driver

	shut atomic.Bool // no lease may be given any more; set before the leases that there are are looked at

	forcing sync.Mutex
	late    error // guarded by forcing; of the shutdown that had to end before all was back

	mu sync.Mutex
	db *sql.DB // guarded by mu; nil for handles that sql.Open made, which never shows them
}

var (
	_ driver.Connector = (*Connector)(nil)
	_ io.Closer        = (*Connector)(nil)
)

// Pool is the pool of the handle.
func (c *Connector) Pool() *Pool { return c.pool }

// Driver is what the handle shows as its driver.
func (c *Connector) Driver() driver.Driver { return c.driver }

// Handle makes the *sql.DB of a connector that lifeguard opens itself. It keeps as many idle leases as the pool allows.
func (c *Connector) Handle() *sql.DB {
	db := sql.OpenDB(c)
	c.mu.Lock()
	c.db = db
	c.mu.Unlock()
	limit, _ := c.pool.pool.Limit()
	c.keepIdle(limit)
	return db
}

func (c *Connector) keepIdle(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.db != nil {
		c.db.SetMaxIdleConns(n)
	}
}

// Close is called by sql.DB.Close. The last handle closes the pool. As from the plain driver, the last error is told.
func (c *Connector) Close() error {
	c.shut.Store(true)
	last, err := c.client.Leave()
	if !last {
		return err
	}
	if e := c.pool.closed(); e != nil {
		return e
	}
	return err
}

// Connect gives the handle a lease. All waiting happens here.
func (c *Connector) Connect(ctx context.Context) (driver.Conn, error) {
	p := c.pool
	began := p.cfg.Now()
	l := &lease{conn: c}
	turn := pool.Turn{Hint: func() { l.noteWhere(began) }}
	for {
		s, err := c.client.Acquire(ctx, l, &turn)
		if err != nil {
			err = p.waitFailed(err)
			p.connectEnded(ctx, time.Duration(p.cfg.Now()-began), err)
			return nil, err
		}
		if !p.ready(ctx, s, turn.Since) {
			continue // it was dead: the caller waits on, in its place
		}
		now := p.cfg.Now()
		l.noteWhere(now)
		l.attach(ctx, s, now, now-began)
		if c.shut.Load() {
			// The handle was closed too late to stop Acquire, and too soon to see the lease.
			if l.take(nil) != taken {
				s.Release(0)
			}
			return nil, pool.ErrClosed
		}
		p.connectEnded(ctx, time.Duration(now-began), nil)
		return l.asConn(), nil
	}
}

// noteWhere captures the stack of a caller in Connect, once: while it waits, if it does.
func (l *lease) noteWhere(now int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.stack.Empty() && l.conn.pool.stacks.Take(now) {
		l.stack.Capture(2)
	}
}

// ready makes a session that was acquired usable. False: it was not alive, and its slot is no longer the caller's.
func (p *Pool) ready(ctx context.Context, s *slot, since int64) (ready bool) {
	ours := true
	defer func() {
		if !ready && ours {
			_ = recover() // a driver that panics in ResetSession has a dead connection, as far as the caller can know
			s.Spoil()
			s.Discard()
		}
	}()
	now := p.cfg.Now()
	if suspect := s.Suspect(); suspect || s.Restless(now) {
		switch {
		case s.Resource.CanPing():
			if !s.Probe(ctx, p.patience(since, now)) {
				ours = false
				return false
			}
		case suspect:
			return false
		}
	}
	s.Resource.Takeover()
	if s.Used() {
		if err := s.Resource.Reset(ctx); err != nil {
			s.Broke()
			return false
		}
	}
	return true
}

// patience is half of the time that is left to a caller: the other half is for what follows a connection that does not
// answer.
func (p *Pool) patience(since, now int64) time.Duration {
	if p.cfg.PoolTimeout <= 0 {
		return 0
	}
	return max(p.cfg.PoolTimeout-time.Duration(now-since), time.Millisecond) / 2
}

// connectEnded shows how a wait ended.
func (p *Pool) connectEnded(ctx context.Context, took time.Duration, err error) {
	if err != nil || p.observer.Timed(ctx) {
		p.observer.Waited(ctx, took, err)
	}
	if err != nil || int64(took) >= p.limit {
		p.observer.Ended(ctx, &observe.Operation{Kind: observe.Connect, Took: took, Waited: took, At: time.Now(), Err: err})
	}
}

// waitFailed is the error of a wait as the caller gets it.
func (p *Pool) waitFailed(err error) error {
	var timeout *pool.TimeoutError
	switch {
	case errors.As(err, &timeout):
		timeout.Dial = p.dialError(timeout.Dial)
		return p.cfg.Timeout(timeout, p.Holds())
	case err == pool.ErrClosed || err == pool.ErrTooManyWaiting || err == context.Canceled || err == context.DeadlineExceeded:
		return err
	}
	return p.dialError(err)
}
