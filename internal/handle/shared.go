package handle

import (
	"context"
	"database/sql/driver"
	"log/slog"
	"slices"
	"sync"
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

	Log         *slog.Logger
	Now         func() int64      // the pool clock
	PoolTimeout time.Duration     // 0 for none
	Reclaims    bool              // connections are taken back from holders
	WaitFailed  func(error) error // makes the error of a wait from the pool's
	Closed      func() error      // is called when the last handle has closed
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

	mu      sync.Mutex
	handles []*Connector // guarded by mu; those that have not closed, and those that have and still hold connections
}

// NewShared makes what the handles of a pool are made from.
func NewShared(cfg Config) *Shared {
	return &Shared{
		cfg: cfg, pool: cfg.Pool, observer: cfg.Observer, janitor: cfg.Janitor, limit: int64(cfg.Observer.Limit()),
	}
}

// Join makes the connector of another handle; nil if the pool is closed.
func (p *Shared) Join(d driver.Driver) *Connector {
	client := p.pool.Join()
	if client == nil {
		return nil
	}
	c := &Connector{pool: p, client: client, driver: d}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.handles = append(slices.DeleteFunc(p.handles, func(old *Connector) bool {
		return old.shut.Load() && old.client.Out() == 0
	}), c)
	return c
}

// All gives the connectors of all handles.
func (p *Shared) All() []*Connector {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.handles)
}

// Acquired counts the checkouts of all handles.
func (p *Shared) Acquired() uint64 { return p.acquired.Load() }

// ready makes a session that was acquired usable. False: it was not alive, and its slot is no longer the caller's.
func (p *Shared) ready(ctx context.Context, s *slot, since int64) (ready bool) {
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
func (p *Shared) patience(since, now int64) time.Duration {
	if p.cfg.PoolTimeout <= 0 {
		return 0
	}
	return max(p.cfg.PoolTimeout-time.Duration(now-since), time.Millisecond) / 2
}

// connectEnded shows how a wait ended.
func (p *Shared) connectEnded(ctx context.Context, took time.Duration, err error) {
	if err != nil || p.observer.Timed(ctx) {
		p.observer.Waited(ctx, took, err)
	}
	if err != nil || int64(took) >= p.limit {
		p.observer.Ended(ctx, &observe.Operation{Kind: observe.Connect, Took: took, Waited: took, At: time.Now(), Err: err})
	}
}
