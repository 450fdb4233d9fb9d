package pool

import (
	"context"
	"errors"
	"time"

	"github.com/go-lifeguard/lifeguard/internal/account"
	"github.com/go-lifeguard/lifeguard/internal/waitq"
)

type waiter[R any] = waitq.Waiter[request[R]]

// request is what a waiter asks for. Its channel has room for one: whoever takes the waiter out of the queue sends to
// it exactly once.
type request[R any] struct {
	ready  chan grant[R]
	timer  *time.Timer // stopped while nobody waits; nil until the first timeout
	client *Client[R]
	lease  Lease
	ctx    context.Context
	dialed bool   // a dial in flight began for this request
	id     uint64 // of the request, for dials; 0 until one begins for it
}

// grant is what a waiter gets: a slot, or the reason why there will be none.
type grant[R any] struct {
	slot *Slot[R]
	err  error
}

// Turn is a caller's place in the queue. It keeps that place when the slot it got turns out to be dead.
type Turn struct {
	Since int64  // pool clock; when the caller arrived, 0 before the first Acquire
	Hint  func() // called once when the caller begins to wait, on its goroutine; may be nil
}

// TimeoutError is why a wait ended in vain.
type TimeoutError = account.TimeoutError

// errTimeout marks a wait that ended with the pool's own timeout.
var errTimeout = errors.New("no connection within pool_timeout")

// ErrTooManyWaiting is returned by Acquire where MaxWaiting callers wait already.
var ErrTooManyWaiting = errors.New("lifeguard: too many callers wait for a connection (max_waiting)")

// Acquire gives the caller a slot for its lease. It waits until there is one, until ctx ends, or for the pool's Timeout
// counted from turn.Since. Errors: ErrClosed, ErrTooManyWaiting, a *TimeoutError, context.Canceled, or that of a dial.
func (c *Client[R]) Acquire(ctx context.Context, l Lease, turn *Turn) (*Slot[R], error) {
	p := c.pool
	now := p.now()
	p.mu.Lock()
	again := turn.Since != 0
	if err := c.refusalLocked(ctx); err != nil {
		if again {
			err = p.explainLocked(err, turn, now)
		}
		p.mu.Unlock()
		return nil, err
	}
	if !again {
		turn.Since = now
	}
	c.out++
	if s := p.takeLocked(now, c); s != nil {
		p.lendLocked(s, c, l)
		p.mu.Unlock()
		return s, nil
	}
	err := p.dialling.down
	if p.cfg.MaxWaiting > 0 && p.queue.Len() >= p.cfg.MaxWaiting && !again {
		err = ErrTooManyWaiting
	}
	if err != nil {
		c.leaveLocked()
		p.updateWantedLocked()
		p.mu.Unlock()
		return nil, err
	}
	w := p.waiters.Get().(*waiter[R])
	w.Value.client, w.Value.lease, w.Value.ctx, w.Value.dialed, w.Value.id = c, l, ctx, false, 0
	w.Since, w.Deadline = turn.Since, 0
	until := int64(0)
	if p.cfg.Timeout > 0 {
		until = turn.Since + int64(p.cfg.Timeout)
		w.Deadline = until
	}
	if t, ok := ctx.Deadline(); ok {
		if d := now + int64(time.Until(t)); w.Deadline == 0 || d < w.Deadline {
			w.Deadline = d
		}
	}
	if again {
		p.queue.PushBack(w)
	} else {
		p.queue.Push(w)
		p.counts.Waits++
	}
	p.updateWantedLocked()
	p.dialling.dialLocked(now)
	if p.cfg.Events.Waiting != nil {
		p.cfg.Events.Waiting()
	}
	p.mu.Unlock()
	if turn.Hint != nil {
		turn.Hint() // while the caller waits anyway
	}
	return c.wait(ctx, w, now, until, turn)
}

// takeLocked takes an idle resource, of the pool or of a lease, unless others wait for one.
func (p *Pool[R]) takeLocked(now int64, c *Client[R]) *Slot[R] {
	if p.queue.Len() > 0 {
		return nil
	}
	if s := p.popIdleLocked(now); s != nil {
		return s
	}
	p.wanted.Add(1) // before the look: see wanted
	if len(p.slots) > p.limit {
		return nil
	}
	s := p.takeLeaseLocked(now, c)
	if s != nil {
		p.updateWantedLocked()
	}
	return s
}

func (c *Client[R]) wait(ctx context.Context, w *waiter[R], now, until int64, turn *Turn) (*Slot[R], error) {
	p, r := c.pool, &w.Value
	var timeout <-chan time.Time
	if until != 0 {
		if r.timer == nil {
			r.timer = time.NewTimer(time.Duration(until - now))
		} else {
			r.timer.Reset(time.Duration(until - now))
		}
		timeout = r.timer.C
	}
	var g grant[R]
	select {
	case g = <-r.ready:
	case <-ctx.Done():
		g = p.abandon(w, ctx.Err())
	case <-timeout:
		err := errTimeout
		if w.Deadline < until && ctx.Err() != nil {
			err = ctx.Err() // the context ended sooner, and this goroutine ran late
		}
		g = p.abandon(w, err)
	}
	if until != 0 {
		r.timer.Stop() // since Go 1.23 nothing stays in the channel
	}
	r.client, r.lease, r.ctx = nil, nil, nil // no request outlives its use
	p.waiters.Put(w)
	end := p.now()
	late := ctx.Err() // the slot and the end of the context may come together
	if late != nil && g.slot != nil {
		g.slot.Release(0, 0) // takes the caller out of the client's count, too
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.counts.WaitTime += time.Duration(end - now)
	p.waits.Add(time.Duration(end - now))
	switch {
	case g.err != nil:
		c.leaveLocked()
		return nil, p.explainLocked(g.err, turn, end)
	case late != nil:
		return nil, p.explainLocked(late, turn, end)
	}
	return g.slot, nil
}

// abandon takes w out of the queue. If another goroutine was faster, its grant is what the caller gets.
func (p *Pool[R]) abandon(w *waiter[R], err error) grant[R] {
	p.mu.Lock()
	if p.queue.Remove(w) {
		p.updateWantedLocked()
		p.mu.Unlock()
		return grant[R]{err: err}
	}
	p.mu.Unlock()
	return <-w.Value.ready
}

// failLocked tells waiters for which match is true that there will be no slot.
func (p *Pool[R]) failLocked(err error, match func(*waiter[R]) bool) {
	for w := range p.queue.All() {
		if match(w) {
			p.queue.Remove(w)
			w.Value.ready <- grant[R]{err: err}
		}
	}
	p.updateWantedLocked()
}

// explainLocked says of a wait that ran out what the pool was doing. Other errors are handed on as they are.
func (p *Pool[R]) explainLocked(err error, turn *Turn, now int64) error {
	e := &TimeoutError{}
	switch err {
	case errTimeout:
		p.counts.Timeouts++
	case context.DeadlineExceeded:
		p.counts.Canceled++
		e.Context = err
	case context.Canceled:
		p.counts.Canceled++
		return err
	default:
		return err
	}
	e.Waited = time.Duration(now - turn.Since)
	st := p.statsLocked()
	e.Limit, e.InUse, e.Waiting = st.Limit, st.InUse, st.Waiting
	if st.Open < p.limit { // else the pool was simply full
		e.Short = p.dialling.missing > 0
		e.Dial = p.dialling.pace.Trouble(p.dialling.oldest(), turn.Since, now)
	}
	if e.Dial == nil && st.InUse > 0 && p.probing >= st.InUse {
		e.Dial = &account.SilentError{Open: st.InUse} // nobody holds anything, so there is nobody to name
	}
	return e
}
