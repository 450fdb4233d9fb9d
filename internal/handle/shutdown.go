package handle

import (
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/go-lifeguard/lifeguard/internal/leak"
	"github.com/go-lifeguard/lifeguard/internal/pool"
)

// handles are those of a pool that have not closed, and those that have and still hold connections.
type handles struct {
	mu   sync.Mutex
	list []*Connector // guarded by mu
}

func (h *handles) add(c *Connector) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.list = append(slices.DeleteFunc(h.list, func(old *Connector) bool { return old.shut.Load() && old.client.Out() == 0 }), c)
}

func (h *handles) all() []*Connector {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.list)
}

// Drain refuses new callers and those who wait.
func (c *Connector) Drain() { c.client.Drain() }

// Await returns when everything that the handle had is back, or closes what is left at the end of ctx, and leaves the
// pool. late makes the error about that.
func (c *Connector) Await(ctx context.Context, late func(held []leak.Hold, cause error) error) error {
	var err error
	drained := c.client.Drain()
	select {
	case <-drained:
	default:
		select {
		case <-drained:
		case <-ctx.Done():
			err = c.force(ctx.Err(), late)
		}
	}
	return errors.Join(err, c.Close())
}

// force closes what a handle still holds. A later shutdown whose time is up is told the same as long as any of it goes
// on.
func (c *Connector) force(cause error, late func([]leak.Hold, error) error) error {
	c.forcing.Lock() // another must not find everything doomed already, and nothing said about it
	defer c.forcing.Unlock()
	c.shut.Store(true)
	var held []pool.Lease
	var holds []leak.Hold
	for _, of := range c.client.Leases() {
		l := of.(*lease)
		h, ok := l.Hold()
		if !ok || !l.doom(pool.ErrClosed) {
			continue
		}
		held, holds = append(held, l), append(holds, h)
	}
	for _, l := range held {
		l.(*lease).s.Cut() // where the pool has the socket, what runs ends now; else at the holder's next step
	}
	if len(holds) > 0 {
		c.late = late(holds, cause)
	} else if c.client.Out() == 0 {
		return nil
	}
	return c.late
}

// Handles gives the connectors of a pool's handles.
func (p *Pool) Handles() []*Connector { return p.handles.all() }
