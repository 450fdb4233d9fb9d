package lifeguard

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/go-lifeguard/lifeguard/internal/callsite"
)

// acquire gives the caller a session for itself, with the place that belongs to it.
func (p *Pool) acquire(ctx context.Context, h *connector, c *checkout) (*session, error) {
	p.mu.Lock()
	if err := p.refusalLocked(ctx, h); err != nil {
		p.mu.Unlock()
		return nil, err
	}
	if err := c.resumeLocked(h, ctx); err != nil {
		p.mu.Unlock()
		return nil, err
	}
	p.enterLocked(h)
	acquired := false
	defer func() {
		if !acquired {
			p.exit(h)
		}
	}()
	for {
		s, err := p.takeLocked(ctx, h, c)
		if err != nil {
			return nil, err
		}
		if c.brief && s.suspect() {
			h.waste()
			p.release(s, notHeld, nil)
			return nil, errNotSoon
		}
		if err := p.makeReady(ctx, s, c.start, h.lastAttempt(c.start)); err == nil {
			acquired = true
			return s, nil
		}
		// The connection died while it was idle. That is no reason to fail: the wait goes on from where it began.
		p.mu.Lock()
		if err := p.refusalLocked(ctx, h); err != nil {
			p.mu.Unlock()
			return nil, err
		}
	}
}

// checkout is what is noted on the way to a lease.
type checkout struct {
	start  int64  // pool clock
	ticket uint64 // waiter.ticket of an attempt before this one; 0 for none
	brief  bool   // the caller does not wait for long, as he has another way: see lease.takeAnother
	noted  bool   // site is known, or there was no budget for it
	site   *callsite.Site
}

// note looks where the checkout comes from, once: while a caller waits rather than when he has got a connection that
// others wait for.
func (c *checkout) note(p *Pool, now int64) {
	if !c.noted {
		c.noted = true
		var f callsite.Finder
		c.site = p.findSite(&f, now)
	}
}

// triesAgain says whether database/sql will make another attempt if this one comes to nothing.
func (c *checkout) triesAgain() bool {
	var line int
	if c.site != nil {
		line = c.site.Retry
	} else {
		var pcs [callsite.Depth]uintptr
		line = retryLine(pcs[:callsite.Capture(0, pcs[:])])
	}
	return leavesOthers(line)
}

const (
	// briefWait is the longest brief wait. Most take less: nobody begins one who has to expect more than half of it.
	briefWait = 10 * time.Millisecond

	// resumeWithin is how long the place of a caller is kept who comes again at once, if he does.
	resumeWithin = 100 * time.Millisecond

	// maxUnfinished is how many such places a handle keeps.
	maxUnfinished = 64
)

// errNotSoon ends a brief wait.
var errNotSoon = errors.New("lifeguard: no connection soon")

// unfinished is what is left of a caller's brief wait until he comes again. He is known by his context's channel: where
// two callers share that and come in the same moment, one may take the other's place.
type unfinished struct {
	done   <-chan struct{}
	start  int64
	ticket uint64
	err    error // what he is to be told
}

// interruptLocked keeps the place of a caller whose brief wait is over.
func (c *checkout) interruptLocked(h *connector, ctx context.Context, ticket uint64, err error) {
	now := h.pool.now()
	h.unfinished = slices.DeleteFunc(h.unfinished, func(u unfinished) bool { return now-u.start > int64(resumeWithin) })
	if len(h.unfinished) < maxUnfinished {
		h.unfinished = append(h.unfinished, unfinished{done: ctx.Done(), start: c.start, ticket: ticket, err: err})
	}
}

// resumeLocked gives the checkout the place of an attempt of the same caller's before it. An attempt that would have to
// be brief again leaves it for the next.
func (c *checkout) resumeLocked(h *connector, ctx context.Context) error {
	if len(h.unfinished) == 0 {
		return nil
	}
	i := slices.IndexFunc(h.unfinished, func(u unfinished) bool {
		return u.done == ctx.Done() && c.start-u.start <= int64(resumeWithin)
	})
	if i < 0 {
		return nil
	}
	if c.brief {
		return errNotSoon
	}
	u := h.unfinished[i]
	h.unfinished = slices.Delete(h.unfinished, i, i+1)
	c.start, c.ticket = u.start, u.ticket
	return u.err
}

// makeReady is session.makeReady for a session that nobody holds yet; if it fails, or the driver panics, the session and
// its place are given up.
func (p *Pool) makeReady(ctx context.Context, s *session, start int64, verify bool) error {
	ready := false
	defer func() {
		if !ready {
			p.discard(s)
		}
	}()
	err := s.makeReady(ctx, p.patience(start), verify)
	ready = err == nil
	return err
}

// patience is the end of pool_timeout on the pool clock for a wait that began at start, 0 if there is none.
func (p *Pool) patience(start int64) int64 {
	if p.cfg.PoolTimeout <= 0 {
		return 0
	}
	return start + int64(p.cfg.PoolTimeout)
}

// takeLocked takes a session: an idle one of the inner pool, an idle lease, or, after a wait, whichever comes first of a
// returned connection and a finished dial. It releases p.mu.
func (p *Pool) takeLocked(ctx context.Context, h *connector, c *checkout) (*session, error) {
	if p.queue.len == 0 {
		if p.idle > 0 && p.places < p.limit {
			p.places++
			p.mu.Unlock()
			if s := p.takeIdle(ctx); s != nil {
				return s, nil
			}
			p.mu.Lock()
			p.places--
			if err := p.refusalLocked(ctx, h); err != nil {
				p.serveLocked()
				p.mu.Unlock()
				return nil, err
			}
		}
		if p.queue.len == 0 && p.places <= p.limit {
			p.waiting.Store(1) // before the look: see Pool.waiting
			if l := p.revokeIdle(nil); l != nil {
				p.waiting.Store(0)
				p.exitLocked(l.handle)
				p.mu.Unlock()
				s := l.detach()
				l.becomeBare()
				return s, nil
			}
		}
	}
	return p.waitLocked(ctx, h, c)
}

// refusalLocked says why a checkout cannot even begin.
func (p *Pool) refusalLocked(ctx context.Context, h *connector) error {
	if p.closed || h.closed || h.drained != nil {
		return ErrPoolClosed
	}
	return ctx.Err()
}

// enterLocked and exit count what a handle has: callers who are acquiring, and leases.
func (p *Pool) enterLocked(h *connector) {
	h.out++
	p.out++
	p.armSweepLocked()
	p.janitor.wakeLocked()
}

func (p *Pool) exit(h *connector) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.exitLocked(h)
}

func (p *Pool) exitLocked(h *connector) {
	h.out--
	p.out--
	if h.out > 0 {
		return
	}
	delete(p.leaving, h)
	if h.drained != nil {
		close(h.drained)
	}
}

// waitLocked releases p.mu.
func (p *Pool) waitLocked(ctx context.Context, h *connector, c *checkout) (*session, error) {
	now := p.now()
	patience := p.patience(c.start)
	until := patience
	if c.brief {
		if p.queue.wait(now, p.limit) > int64(briefWait)/2 {
			p.waiting.Store(int32(p.queue.len)) // takeLocked has raised it
			p.mu.Unlock()
			return nil, errNotSoon
		}
		if brief := now + int64(briefWait); patience == 0 || brief < patience {
			until = brief
		}
	}
	w, _ := p.waiters.Get().(*waiter)
	if w == nil {
		w = &waiter{ready: make(chan grant, 1)}
	}
	w.handle, w.ctx, w.since, w.deadline = h, ctx, now, patience
	if t, ok := ctx.Deadline(); ok {
		if d := now + int64(time.Until(t)); w.deadline == 0 || d < w.deadline {
			w.deadline = d
		}
	}
	if c.ticket == 0 {
		p.queue.push(w)
		p.counters.waits.Add(1)
	} else {
		p.queue.pushBack(w, c.ticket)
	}
	p.waiting.Store(int32(p.queue.len))
	p.dialLocked()
	p.janitor.alertLocked()
	p.mu.Unlock()
	c.note(p, now)

	var timeout <-chan time.Time
	if until != 0 {
		if w.timer == nil {
			w.timer = time.NewTimer(time.Duration(until - now))
		} else {
			w.timer.Reset(time.Duration(until - now))
		}
		timeout = w.timer.C
	}
	var g grant
	select {
	case g = <-w.ready:
	case <-ctx.Done():
		g = p.abandon(w, ctx.Err())
	case <-timeout:
		err := ErrPoolTimeout
		if w.deadline != patience && ctx.Err() != nil {
			err = ctx.Err() // it was over sooner, and this goroutine late
		}
		g = p.abandon(w, err)
	}
	if until != 0 && !w.timer.Stop() {
		select {
		case <-w.timer.C: // only with GODEBUG=asynctimerchan=1 can it still be there
		default:
		}
	}
	ticket := w.ticket
	w.handle, w.ctx = nil, nil
	p.waiters.Put(w)
	if c.brief && g.err != nil && g.err != ctx.Err() && g.err != ErrPoolClosed {
		told := g.err
		if told == ErrPoolTimeout {
			told = nil // not before he has waited for the whole of it
		}
		p.mu.Lock()
		c.interruptLocked(h, ctx, ticket, told)
		p.mu.Unlock()
		return nil, errNotSoon
	}
	waited := p.now() - c.start
	p.counters.waited.Add(waited)
	if g.err == nil && ctx.Err() != nil {
		// The connection and the end of the context came together.
		p.release(g.session, notHeld, nil)
		g = grant{err: ctx.Err()}
	}
	switch {
	case g.err == nil:
		return g.session, nil
	case g.err == ErrPoolTimeout: // the sentinel of abandon
		p.counters.timeouts.Add(1)
		return nil, p.timeoutError(time.Duration(waited))
	case g.err == ctx.Err(): // a context's error is handed on as it is
		p.counters.canceled.Add(1)
	}
	return nil, g.err
}

// abandon takes w out of the queue. If somebody was faster, that is what the caller gets.
func (p *Pool) abandon(w *waiter, err error) grant {
	p.mu.Lock()
	if !w.queued {
		p.mu.Unlock()
		return <-w.ready
	}
	p.queue.remove(w)
	p.waiting.Store(int32(p.queue.len))
	p.mu.Unlock()
	return grant{err: err}
}

// timeoutError describes the pool to somebody who waited in vain.
func (p *Pool) timeoutError(waited time.Duration) *PoolTimeoutError {
	st := p.Stats()
	e := &PoolTimeoutError{
		Pool: p.name, Waited: waited, Limit: st.Limit, InUse: st.InUse, Waiting: st.Waiting,
		Holders: p.holders(holdersInError),
	}
	p.mu.Lock()
	e.Err = p.dialing.troubleLocked(p, st.Open < st.Limit, p.now()-int64(waited))
	p.mu.Unlock()
	return e
}
