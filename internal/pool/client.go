package pool

import (
	"context"
	"errors"
	"sync/atomic"
)

// ErrClosed is returned by Acquire from a pool that is closed, and from a client that is closed or draining.
var ErrClosed = errors.New("lifeguard: the pool is closed")

// A Client is one of those who share a pool: a handle. The last one to leave closes the pool.
type Client[R any] struct {
	pool    *Pool[R]
	refuses atomic.Bool // no slot is given any more; written under pool.mu, before idle leases are looked at

	// Guarded by pool.mu.
	out     int           // callers in Acquire, and slots not returned
	left    bool          // it is no longer one of the pool's clients
	drained chan struct{} // closed when out is 0 after Drain; nil before Drain
}

func (c *Client[R]) leaveLocked() {
	c.out--
	if c.out == 0 && c.drained != nil {
		close(c.drained)
	}
}

// Refuses says whether the client is closed or draining, without a lock. A lease that becomes idle then must not stay.
func (c *Client[R]) Refuses() bool { return c.refuses.Load() }

// Drain refuses new callers and those who wait. Slots in use go on, and are closed at their return if no other client
// could use them. The channel is closed when the last is back, and what lay idle is closed.
func (c *Client[R]) Drain() <-chan struct{} {
	p := c.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	if c.drained == nil {
		c.drained = make(chan struct{})
		c.out++
		gone := c.refuseLocked()
		go func() { // ends with the resources' Closes; a Drain whose caller has no time must not wait for them
			_ = p.closeAll(gone)
			p.mu.Lock()
			defer p.mu.Unlock()
			c.leaveLocked()
		}()
	}
	return c.drained
}

// refuseLocked gives the resources that nobody may use any more. The caller closes them.
func (c *Client[R]) refuseLocked() (gone []*Slot[R]) {
	p := c.pool
	c.refuses.Store(true)
	p.failLocked(ErrClosed, func(w *waiter[R]) bool { return w.Value.client == c })
	alone := true
	for other := range p.clients {
		alone = alone && other.refuses.Load()
	}
	if alone {
		p.eras.Retire() // no client is left that an idle connection could serve
	}
	return p.recallLocked(func(_ Lease, of *Client[R]) bool { return of == c })
}

// Leave closes the client: Acquire refuses from now on. It says whether that closed the pool. Then it returns when idle
// resources are closed, with the last error of that, and resources in use are closed at their return.
func (c *Client[R]) Leave() (last bool, err error) {
	p := c.pool
	p.mu.Lock()
	if c.left {
		p.mu.Unlock()
		return false, nil
	}
	c.left = true
	delete(p.clients, c)
	last = len(p.clients) == 0
	if last {
		p.closed = true
		p.stop()
		p.dialling.alarm.Stop()
		p.upkeep.alarm.Stop()
	}
	gone := c.refuseLocked()
	p.mu.Unlock()
	return last, p.closeAll(gone)
}

// Out says how many slots and callers the client has not given back.
func (c *Client[R]) Out() int {
	c.pool.mu.Lock()
	defer c.pool.mu.Unlock()
	return c.out
}

// refusalLocked says why a caller cannot even begin to wait.
func (c *Client[R]) refusalLocked(ctx context.Context) error {
	if c.refuses.Load() || c.pool.closed {
		return ErrClosed
	}
	return ctx.Err()
}
