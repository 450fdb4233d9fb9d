package pool

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-lifeguard/lifeguard/internal/account"
	"github.com/go-lifeguard/lifeguard/internal/alarm"
	"github.com/go-lifeguard/lifeguard/internal/era"
	"github.com/go-lifeguard/lifeguard/internal/histogram"
	"github.com/go-lifeguard/lifeguard/internal/waitq"
)

// Config is fixed for the life of a pool, but for the limits. Zero means none.
type Config[R any] struct {
	Limit   int // most resources open at once
	MaxIdle int // most of them kept idle
	MinOpen int // fewest kept open

	MaxWaiting int // callers that may wait at once

	Timeout     time.Duration // longest wait
	MaxLifetime time.Duration // age at which a resource is replaced, less up to a tenth at random
	MaxIdleTime time.Duration // idle time after which a resource is closed
	Keepalive   time.Duration // time without an answer after which an idle resource is pinged

	Now func() int64 // the pool clock, in nanoseconds; never 0; called with the pool's lock held, too

	Open      func(context.Context) (R, error) // dials
	Close     func(R) error                    // returns when the resource is closed; does not panic
	Ping      func(context.Context, R) error
	Retryable func(error) bool // a dial that failed with this error may succeed later; called with the pool's lock held
	Resize    func(limit int)  // tells the guard behind Open the limit; called with the pool's lock held

	Budget *Budget[R] // nil for none
	Events Events
}

// Events are calls of the pool to whoever watches it. None may block; nil functions are left out.
type Events struct {
	Waiting    func()                               // a caller begins to wait; with the pool's lock held
	DialFailed func(err error, since time.Duration) // since the first failure in a row; on the dial's goroutine
	Dialled    func(took, outage time.Duration)     // outage since the first failure in a row, 0 if there was none
}

// Pool is safe for concurrent use.
type Pool[R any] struct {
	cfg     Config[R]
	ctx     context.Context // ends when the pool closes
	stop    context.CancelFunc
	waiters sync.Pool // *waiter[R]

	// wanted is above 0 while the pool wants leases back: for waiters, or because more are open than the limit. A caller
	// that finds the pool full raises it before it looks for idle leases; a returner makes its lease idle before it reads
	// it. One of the two sees the other, so nobody waits beside an idle connection.
	wanted atomic.Int32

	eras era.Eras // of breaks and resets; resources of a retired one are not lent again

	mu       sync.Mutex // guards everything below; never held during a call into a resource
	limit    int
	maxIdle  int
	guard    int        // what Resize was last told
	open     int        // resources, those that are just closing included
	idle     []*Slot[R] // most recently used last
	slots    []*Slot[R] // all that are open, without those that are closing
	probing  int        // slots whose resource is pinged for a caller, who may have left
	queue    waitq.Queue[request[R]]
	dialling dialling[R]
	clients  map[*Client[R]]struct{}
	closed   bool
	upkeep   upkeep[R]
	counts   account.Counts
	waits    histogram.Histogram // of all waits that have ended
}

// New makes a pool without clients. It opens MinOpen resources in the background.
func New[R any](cfg Config[R]) *Pool[R] {
	p := &Pool[R]{cfg: cfg, limit: cfg.Limit, maxIdle: cfg.MaxIdle, guard: cfg.Limit, clients: map[*Client[R]]struct{}{}}
	p.ctx, p.stop = context.WithCancel(context.Background())
	p.waiters.New = func() any { return &waiter[R]{Value: request[R]{ready: make(chan grant[R], 1)}} }
	p.dialling.pool, p.dialling.alarm = p, alarm.New(p.dialling.dialAgain)
	p.upkeep.pool, p.upkeep.alarm = p, alarm.New(p.upkeep.maintain)
	p.cfg.Budget = cfg.Budget.of(p)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.dialling.dialLocked(p.now())
	return p
}

func (p *Pool[R]) now() int64 { return p.cfg.Now() }

// Wanted says whether the pool wants leases back, without a lock.
func (p *Pool[R]) Wanted() bool { return p.wanted.Load() > 0 }

func (p *Pool[R]) updateWantedLocked() {
	p.wanted.Store(int32(p.queue.Len() + max(0, len(p.slots)-p.limit) + p.cfg.Budget.owed + len(p.cfg.Budget.doomed)))
}

// returnLocked takes the slot from its client.
func (p *Pool[R]) returnLocked(s *Slot[R]) {
	if s.client != nil {
		s.client.leaveLocked()
	}
	s.client, s.lease, s.used = nil, nil, true
}

// keepLocked gives a slot that the caller owns to the next waiter, or to the idle list. False: it has to be closed.
func (p *Pool[R]) keepLocked(s *Slot[R], now int64) bool {
	if p.closed || len(p.slots) > p.limit || !s.Fit(now) || p.cfg.Budget.owesLocked(s) {
		if s.expires != 0 && now >= s.expires {
			p.counts.ExpiredClosed++
		}
		return false
	}
	if w := p.queue.Next(now); w != nil {
		p.updateWantedLocked()
		p.lendLocked(s, w.Value.client, w.Value.lease)
		w.Value.ready <- grant[R]{slot: s}
		return true
	}
	if p.maxIdle < p.limit && p.idleLocked() >= p.maxIdle {
		p.counts.SurplusClosed++
		return false
	}
	p.idle = append(p.idle, s)
	return true
}

func (p *Pool[R]) lendLocked(s *Slot[R], c *Client[R], l Lease) { s.client, s.lease = c, l }

// idleLocked counts the resources that nobody uses, those in leases of the handles included.
func (p *Pool[R]) idleLocked() int {
	n := len(p.idle)
	for _, s := range p.slots {
		if s.lease != nil {
			if _, ok := s.lease.Idle(); ok {
				n++
			}
		}
	}
	return n
}

// MayStay says whether a lease that becomes idle may stay in its handle. Most pools keep as many as the limit, and take
// no lock for the answer.
func (p *Pool[R]) MayStay() bool {
	if p.Wanted() {
		return false
	}
	if p.cfg.MaxIdle >= p.cfg.Limit {
		return true // SetLimit keeps the two together
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.maxIdle >= p.limit || p.idleLocked() < p.maxIdle
}

// popIdleLocked takes the most recently used idle resource. Those that may not be used again are closed on the way.
func (p *Pool[R]) popIdleLocked(now int64) *Slot[R] {
	for n := len(p.idle); n > 0; n = len(p.idle) {
		s := p.idle[n-1]
		p.idle[n-1] = nil
		p.idle = p.idle[:n-1]
		if s.Fit(now) {
			return s
		}
		go p.close(s) // ends with the resource's Close
	}
	return nil
}

// transit is how long a lease that has come back is left to its own handle. A caller of that handle waits in Connect
// because nothing lay idle there, so the lease is on its way to another, and database/sql lets a caller lose one no more
// than twice. If it is not used by then, it lies idle after all.
const transit = time.Millisecond

// takeLeaseLocked takes the slot of an idle lease that may be lent again, for a caller of c; nil if there is none.
func (p *Pool[R]) takeLeaseLocked(now int64, c *Client[R]) *Slot[R] {
	for _, s := range p.slots {
		if s.client == c {
			if since, idle := s.lease.Idle(); idle && now-since < int64(transit) {
				p.dialling.lookAt = since + int64(transit)
				continue
			}
		}
		if !s.takeFromLeaseLocked() {
			continue
		}
		if s.Fit(now) {
			return s
		}
		go p.close(s) // ends with the resource's Close
	}
	return nil
}

// recallLocked takes idle resources from leases for which match is true, and gives those that may not be used again,
// with those of the idle list. The caller closes them.
func (p *Pool[R]) recallLocked(match func(Lease, *Client[R]) bool) (gone []*Slot[R]) {
	now := p.now()
	for _, s := range p.slots {
		if s.lease == nil || !match(s.lease, s.client) || !s.takeFromLeaseLocked() {
			continue
		}
		if !p.keepLocked(s, now) {
			gone = append(gone, s)
		}
	}
	p.idle = slices.DeleteFunc(p.idle, func(s *Slot[R]) bool {
		unfit := p.closed || !s.Fit(now)
		if unfit {
			gone = append(gone, s)
		}
		return unfit
	})
	return gone
}

// closeAll closes resources that the caller owns, none of which waits for another, and returns when that is done, with
// one of the errors.
func (p *Pool[R]) closeAll(gone []*Slot[R]) error {
	errs := make(chan error, len(gone))
	for _, s := range gone {
		go func() { errs <- p.close(s) }()
	}
	var err error
	for range gone {
		if e := <-errs; e != nil {
			err = e
		}
	}
	return err
}

// close closes a resource that the caller owns. Its slot comes free when that is done: never are more open than the
// limit.
func (p *Pool[R]) close(s *Slot[R]) error {
	p.mu.Lock()
	p.dropLocked(s)
	p.updateWantedLocked()
	p.mu.Unlock()
	err := p.cfg.Close(s.Resource)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.open--
	p.counts.Closed++
	p.cfg.Budget.Return(s.token)
	p.settleLocked(p.now())
	return err
}

// dropLocked takes a slot whose resource is to be closed out of those that are open.
func (p *Pool[R]) dropLocked(s *Slot[R]) {
	p.slots = slices.DeleteFunc(p.slots, func(other *Slot[R]) bool { return other == s })
}

// settleLocked is called when a slot has come free or a dial has ended.
func (p *Pool[R]) settleLocked(now int64) {
	p.updateWantedLocked()
	if p.guard > p.limit && p.open+len(p.dialling.inFlight) <= p.limit {
		p.guard = p.limit
		p.cfg.Resize(p.limit)
	}
	p.dialling.dialLocked(now)
}

// Join adds a client; nil if the pool is closed.
func (p *Pool[R]) Join() *Client[R] {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil
	}
	c := &Client[R]{pool: p}
	p.clients[c] = struct{}{}
	return c
}

// Leases gives the leases of all slots that are lent, to one client unless it is nil.
func (p *Pool[R]) Leases(of *Client[R]) []Lease {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := make([]Lease, 0, len(p.slots))
	for _, s := range p.slots {
		if s.lease != nil && (of == nil || s.client == of) {
			all = append(all, s.lease)
		}
	}
	return all
}

// SetLimit changes the limit and how many resources are kept idle. Below the number that is open, idle ones are closed
// at once and those in use at their return; no waiter is dropped.
func (p *Pool[R]) SetLimit(limit, maxIdle int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.now()
	if limit > p.guard {
		// The guard grows first: never does the pool ask it for more than it admits.
		p.guard = limit
		p.cfg.Resize(limit)
	}
	p.limit, p.maxIdle = limit, maxIdle
	p.updateWantedLocked() // before the look: see wanted
	for _, s := range slices.Clone(p.slots) {
		if len(p.slots) <= limit && (maxIdle >= limit || p.idleLocked() <= maxIdle) {
			break
		}
		if _, idle := s.idleSinceLocked(); idle && s.seizeLocked() {
			p.dropLocked(s)
			go p.close(s) // ends with the resource's Close
		}
	}
	p.settleLocked(now)
}

// Limit is the present limit, and MaxIdle how many resources are kept idle.
func (p *Pool[R]) Limit() (limit, maxIdle int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.limit, p.maxIdle
}

// Reset closes every resource that was opened before now instead of lending it again: idle ones at once, those in use at
// their return.
func (p *Pool[R]) Reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.retireLocked()
}

// retireLocked has no resource that is open now lent again.
func (p *Pool[R]) retireLocked() {
	p.eras.Retire()
	for _, s := range p.recallLocked(func(Lease, *Client[R]) bool { return true }) {
		go p.close(s) // ends with the resource's Close
	}
}

// Patience is how long a caller that has another attempt waits for a Probe: as long as a dial takes, so that an answer
// over a slow network has time to come.
func (p *Pool[R]) Patience() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return max(minPatience, min(p.dialling.pace.Usual(), probeTime))
}
