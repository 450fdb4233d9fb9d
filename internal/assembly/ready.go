package assembly

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/go-lifeguard/lifeguard/internal/pool"
	"github.com/go-lifeguard/lifeguard/internal/session"
)

// visitor stands for a lease while the pool uses a session itself.
type visitor struct{}

func (visitor) Idle() (int64, bool)     { return 0, false }
func (visitor) TakeIdle() (int64, bool) { return 0, false }

// Ready returns when min_connections, at least one, are open, and those that nobody uses have answered a ping. An error
// says how many were missing, and why.
func (p *Pool) Ready(ctx context.Context) error {
	client := p.pool.Join()
	if client == nil {
		return pool.ErrClosed
	}
	defer func() {
		if last, _ := client.Leave(); last { // every handle has left meanwhile
			_ = p.closed()
		}
	}()
	want := max(p.cfg.MinOpen, 1)
	var visited []*pool.Slot[*session.Session]
	defer func() {
		for _, s := range visited {
			s.Release(0, 0)
		}
	}()
	for {
		inUse := p.pool.Stats().InUse // visited ones included
		if len(visited) > 0 && inUse >= want {
			return nil
		}
		s, err := p.visit(ctx, client)
		if err != nil {
			return fmt.Errorf("lifeguard: pool %q is not ready, %d of %d connections have answered: %w",
				p.cfg.Name, max(inUse, len(visited)), want, err)
		}
		visited = append(visited, s)
	}
}

// visit acquires a session that has just answered.
func (p *Pool) visit(ctx context.Context, client *pool.Client[*session.Session]) (*pool.Slot[*session.Session], error) {
	var turn pool.Turn
	for {
		s, err := client.Acquire(ctx, visitor{}, &turn)
		if err != nil {
			return nil, p.visitFailed(err)
		}
		if !s.Resource.CanPing() || s.Probe(ctx, 0, nil) {
			return s, nil
		}
	}
}

// visitFailed is why no session could be acquired, without the holders.
func (p *Pool) visitFailed(err error) error {
	var timeout *pool.TimeoutError
	if !errors.As(err, &timeout) {
		return p.waitFailed(err)
	}
	ended := timeout.Context
	if ended == nil {
		ended = errors.New("no connection within pool_timeout")
	}
	if dial := p.dialError(timeout.Dial); dial != nil {
		return fmt.Errorf("%w: %w", ended, dial)
	}
	return ended
}

// makeReady makes a session that was acquired usable. False: it was not alive, and its slot is no longer the caller's.
func (p *Pool) makeReady(ctx context.Context, s *pool.Slot[*session.Session], since int64) (ready bool) {
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
			if !s.Probe(ctx, p.patience(since, now), nil) {
				ours = false
				return false
			}
		case suspect:
			return false
		}
	}
	s.Resource.Takeover()
	if s.Resource.Spoiled() {
		return false
	}
	if s.Used() {
		if err := s.Resource.Reset(ctx); err != nil {
			s.Broke(ctx.Err() != nil)
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
