package handle

import (
	"context"
	"database/sql/driver"
	"sync/atomic"
	"time"

	"github.com/go-lifeguard/lifeguard/internal/callsite"
	"github.com/go-lifeguard/lifeguard/internal/leak"
	"github.com/go-lifeguard/lifeguard/internal/observe"
	"github.com/go-lifeguard/lifeguard/internal/pool"
	"github.com/go-lifeguard/lifeguard/internal/session"
)

// Config is what the handles of one pool need.
type Config struct {
	Pool     *pool.Pool[*session.Session]
	Observer *observe.Observer
	Janitor  *leak.Janitor // nil without a leak_threshold

	Now      func() int64 // the pool clock
	Reclaims bool         // connections are taken back from holders
	// Ready makes a session usable that was acquired for a caller that waits since then. False: it was not alive, and its
	// slot is no longer the caller's.
	Ready      func(ctx context.Context, s *pool.Slot[*session.Session], since int64) bool
	WaitFailed func(error) error // makes the error of a wait from the pool's
	Closed     func() error      // is called when the last handle has closed
}

// Shared is what the handles of one pool share. It is safe for concurrent use.
type Shared struct {
	cfg      Config
	pool     *pool.Pool[*session.Session]
	observer *observe.Observer
	janitor  *leak.Janitor
	stacks   callsite.Budget
	acquired atomic.Uint64 // checkouts
	limit    int64         // ns; a successful operation that is shorter is not shown
}

// NewShared makes what the handles of a pool are made from.
func NewShared(cfg Config) *Shared {
	return &Shared{
		cfg: cfg, pool: cfg.Pool, observer: cfg.Observer, janitor: cfg.Janitor, limit: int64(cfg.Observer.Limit()),
	}
}

// Connector makes the connector of a handle that is a client of the pool. d is what the handle shows as its driver.
func (p *Shared) Connector(client *pool.Client[*session.Session], d driver.Driver) *Connector {
	return &Connector{pool: p, client: client, driver: d}
}

func (p *Shared) Acquired() uint64 { return p.acquired.Load() }

// connectEnded shows how a wait ended.
func (p *Shared) connectEnded(ctx context.Context, took time.Duration, err error) {
	if err != nil || p.observer.Timed(ctx) {
		p.observer.Waited(ctx, took, err)
	}
	if err != nil || int64(took) >= p.limit {
		p.observer.Ended(ctx, &observe.Operation{Kind: observe.Connect, Took: took, Waited: took, At: time.Now(), Err: err})
	}
}
