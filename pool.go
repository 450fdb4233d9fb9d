package lifeguard

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-lifeguard/lifeguard/internal/dsn"
	"github.com/go-lifeguard/lifeguard/internal/sqltext"
	"github.com/ngrok/sqlmw"
	"go.opentelemetry.io/otel/trace"
)

// leaseLifetime is how long a lease may stay with its handle. An idle lease keeps its connection from the inner pool,
// whose rules for idle and old connections must go on working; once a second per connection costs nothing.
const leaseLifetime = int64(time.Second)

// Pool is the pool behind one handle, or behind several that were opened with the same pool_name and DSN.
// All its methods are safe for concurrent use.
//
// A place is the right to one physical connection outside of the inner pool's idle list: every lease has one, every
// dial under way, and every connection on its way between them. There are never more places than connection_limit
// (until, after SetConnectionLimit made it smaller, those above it have come back), so the inner pool, whose own
// limit is the same, never has to make anybody wait.
type Pool struct {
	name             string
	target           dsn.Target
	dialect          sqltext.Dialect
	log              *slog.Logger
	cfg              Config          // as it was at the start; the limits of today are limit and maxIdle
	epoch            time.Time       // the pool clock counts nanoseconds from here
	inner            *sql.DB         // the pool of physical connections
	ctx              context.Context // ends when the pool closes
	stop             context.CancelFunc
	redactor         dsn.Redactor
	binaryParameters bool // lib/pq's binary_parameters=yes is in the DSN
	tracers          trace.TracerProvider
	janitor          *janitor   // nil without a leak_threshold
	reclaims         bool       // connections are taken back from holders
	sharedAs         *sharedKey // nil if the pool is not shared under a pool_name

	interceptors []sqlmw.Interceptor
	observer     *observer
	metrics      *metrics

	// waiting mirrors queue.len for returners, who must not take the lock: a waiter raises it before it looks for an
	// idle lease, a returner makes its lease idle before it reads it, so one of the two always sees the other.
	waiting  atomic.Int32
	resets   atomic.Int64 // counts Reset; connections of an earlier count are closed at their return
	recalls  atomic.Int64 // counts Reset and SetConnectionLimit; leases of an earlier count end at their return
	leases   atomic.Uint64
	breaks   atomic.Int64 // counts connections that broke; those idle since before the last are pinged before their use
	schema   atomic.Int64 // counts changes of result types that statements met; those prepared before are prepared again
	pooler   atomic.Int32 // poolerState: what was found out about a pooler that stands before the server
	limitNow atomic.Int64 // mirrors limit for Stats
	idleNow  atomic.Int64 // mirrors maxIdle for metrics
	sessions atomic.Pointer[[]*session]
	counters counters
	moves    moves
	told     struct{ acquired, hits, misses highest } // by Stats
	capture  siteBudget                               // for the places from which checkouts come
	tick     *clockTick
	waiters  sync.Pool                  // *waiter; of this pool only, for the sake of testing/synctest
	late     siteBudget                 // for holders who got nothing out of capture and turn out to stay
	learn    siteBudget                 // for places that were not met before
	lost     atomic.Pointer[lostTicket] // rows that the garbage collector found, linked

	resizing sync.Mutex // before mu; held by SetConnectionLimit, so that the inner pool's limit is that of the last one

	mu       sync.Mutex // guards everything below; never held during a call into a driver or the inner pool
	limit    int
	maxIdle  int
	places   int // places taken
	idle     int // sessions stored in the inner pool
	out      int // sum of connector.out
	queue    queue
	dialing  dialing
	handles  map[*connector]struct{}
	closed   bool
	leaving  map[*connector]struct{} // handles that were closed before all they had was back
	sweeping bool                    // sweepTimer is armed
	timers   struct{ sweep, keepMin *time.Timer }
}

// newPool makes the pool and its inner pool, and starts to open min_connections.
func newPool(parent driver.Connector, name string, t dsn.Target, driverDSN string, cfg Config, o *options) *Pool {
	ctx, stop := context.WithCancel(context.Background())
	p := &Pool{
		name:             name,
		target:           t,
		dialect:          dialectOf(t),
		log:              o.logger(),
		epoch:            time.Now(),
		ctx:              ctx,
		stop:             stop,
		redactor:         dsn.NewRedactor(driverDSN),
		binaryParameters: strings.Contains(driverDSN, "binary_parameters=yes"),
		tracers:          o.tracers(),
		reclaims:         cfg.LeakReclaimAfter > 0,
		cfg:              cfg,
		limit:            cfg.ConnectionLimit,
		maxIdle:          cfg.MaxIdleConnections,
		handles:          map[*connector]struct{}{},
		leaving:          map[*connector]struct{}{},
		interceptors:     o.interceptors,
	}
	p.cfg.PoolName = name
	p.limitNow.Store(int64(p.limit))
	p.idleNow.Store(int64(p.maxIdle))
	p.sessions.Store(new([]*session))
	p.dialing.window = firstDials
	p.observer = newObserver(p, o)
	p.capture.most, p.late.most, p.learn.most = findsPerTick(), learnsPerTick, learnsPerTick
	p.metrics = newMetrics(p, o)
	p.tick = newClockTick()
	p.inner = sql.OpenDB(&innerConnector{pool: p, parent: parent})
	p.inner.SetMaxOpenConns(cfg.ConnectionLimit)
	p.setMaxIdle(cfg.MaxIdleConnections)
	p.inner.SetConnMaxLifetime(cfg.MaxConnectionLifetime)
	p.inner.SetConnMaxIdleTime(cfg.MaxIdleConnectionLifetime)
	p.mu.Lock()
	p.dialLocked()
	p.mu.Unlock()
	p.keepMinimum()
	p.startJanitor(o.leakHandler)
	return p
}

// setMaxIdle bridges the one difference in meaning: in database/sql 0 stands for its default of 2.
func (p *Pool) setMaxIdle(n int) {
	if n == 0 {
		n = -1
	}
	p.inner.SetMaxIdleConns(n)
}

// now is the pool clock in nanoseconds. A difference to a fixed time is one read of the monotonic clock, half of what
// time.Now costs.
func (p *Pool) now() int64 { return int64(time.Since(p.epoch)) }

func (p *Pool) timeOf(clock int64) time.Time { return p.epoch.Add(time.Duration(clock)) }

// revokeIdle takes an idle lease away from its handle, nil if there is none that match agrees to (nil: any). The
// caller owns the lease's session then. Needs no lock: whoever wins the compare-and-swap has the lease.
func (p *Pool) revokeIdle(match func(*lease) bool) *lease {
	for _, s := range *p.sessions.Load() {
		l := s.lease.Load()
		if l != nil && l.state.load() == leaseIdle && (match == nil || match(l)) && l.state.move(leaseIdle, leaseGone) {
			return l
		}
	}
	return nil
}

// recall ends idle leases that match agrees to.
func (p *Pool) recall(match func(*lease) bool) {
	for l := p.revokeIdle(match); l != nil; l = p.revokeIdle(match) {
		l.strip(notHeld)
	}
}

// takeIdle takes a connection out of the inner pool without opening one (see innerConnector.Connect); the caller has a
// place for it. It returns nil if there is none, or if ctx is over.
func (p *Pool) takeIdle(ctx context.Context) *session {
	c, err := p.inner.Conn(ctx)
	if err != nil {
		return nil
	}
	s, _ := p.adopt(c)
	return s
}

// adopt notes that the session under c is no longer idle in the inner pool, and says whether it is a new one.
func (p *Pool) adopt(c *sql.Conn) (s *session, first bool) {
	// Raw fails only on a connection that was returned already, and this one has just been taken.
	_ = c.Raw(func(dc any) error { s = dc.(*session); return nil })
	p.mu.Lock()
	defer p.mu.Unlock()
	first = !s.adopted
	s.taken, s.adopted = c, true
	if s.stored.Load() {
		s.stored.Store(false)
		p.idle--
	}
	return s, first
}

// notHeld is given to release for a session that nobody has worked with, so that it says nothing about holds.
const notHeld = -1

// release gives up a session: to the waiter whose turn it is, else to the inner pool. The caller owned it, a holder had
// it for held nanoseconds, and what h had of it ends; h is nil if it was not leased.
func (p *Pool) release(s *session, held int64, h *connector) {
	now := p.now()
	p.mu.Lock()
	if p.queue.len > 0 {
		if held > 0 {
			p.queue.holds.observe(held)
		}
		if s.fit(now) && !p.closed && p.places <= p.limit && p.grantLocked(s, now) {
			if h != nil {
				p.exitLocked(h)
			}
			p.mu.Unlock()
			return
		}
	}
	p.mu.Unlock()
	p.store(s)
	if h != nil {
		p.exit(h)
	}
}

// grantLocked hands s to the waiter whose turn it is, if there is one.
func (p *Pool) grantLocked(s *session, now int64) bool {
	w := p.queue.next(now)
	p.waiting.Store(int32(p.queue.len))
	if w == nil {
		return false
	}
	w.ready <- grant{session: s}
	return true
}

// store returns a session to the inner pool, which keeps it or closes it by its rules, and frees its place.
func (p *Pool) store(s *session) {
	c := s.taken
	p.mu.Lock()
	s.stored.Store(true)
	p.idle++
	p.mu.Unlock()
	_ = c.Close() // the error is the driver's from closing a connection that is not kept; nobody can act on it
	p.freePlace()
}

// discard has the inner pool close a session, and frees its place.
func (p *Pool) discard(s *session) {
	s.cancels.abandon()
	_ = s.taken.Raw(func(any) error { return driver.ErrBadConn })
	p.freePlace()
}

func (p *Pool) freePlace() {
	p.mu.Lock()
	p.places--
	p.serveLocked()
	p.mu.Unlock()
}

// serveLocked gives what has come free to who waits: connections that are idle in the inner pool, else new ones.
// It releases p.mu while it takes a connection from the inner pool.
func (p *Pool) serveLocked() {
	for p.queue.len > 0 && p.idle > 0 && p.places < p.limit && !p.closed {
		p.places++
		p.mu.Unlock()
		s := p.takeIdle(context.Background())
		now := p.now()
		var fit bool
		if s != nil {
			fit = s.fit(now)
		}
		p.mu.Lock()
		if s == nil {
			// Another caller was faster, or the inner pool is just closing that one.
			p.places--
			break
		}
		if !fit || p.closed || !p.grantLocked(s, now) {
			p.mu.Unlock()
			p.store(s) // serves whoever came meanwhile
			p.mu.Lock()
			return
		}
	}
	p.dialLocked()
}

// sweep takes back leases that have been idle in their handles for longer than leaseLifetime, so that the inner pool's
// rules apply to their connections. It runs once a second, as long as there are leases.
func (p *Pool) sweep() {
	now := p.now()
	p.recall(func(l *lease) bool { return now-l.born.Load() > leaseLifetime })
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sweeping = false
	if p.closed {
		return
	}
	if p.out > 0 {
		p.armSweepLocked()
	}
}

func (p *Pool) armSweepLocked() {
	if p.sweeping || p.closed {
		return
	}
	p.sweeping = true
	if p.timers.sweep == nil {
		p.timers.sweep = time.AfterFunc(time.Duration(leaseLifetime), p.sweep)
	} else {
		p.timers.sweep.Reset(time.Duration(leaseLifetime))
	}
}

// keepMinimum keeps min_connections from being closed as idle: twice within max_idle_connection_lifetime it takes that
// many idle connections out of the inner pool and returns them, which makes them the most recently used.
func (p *Pool) keepMinimum() {
	if p.cfg.MinConnections == 0 || p.cfg.MaxIdleConnectionLifetime == 0 {
		return
	}
	every := p.cfg.MaxIdleConnectionLifetime / 2
	touch := func() {
		for _, s := range slices.Backward(p.takeIdles(p.cfg.MinConnections)) {
			p.release(s, notHeld, nil)
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		if !p.closed {
			p.timers.keepMin.Reset(every)
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.timers.keepMin = time.AfterFunc(every, touch)
}

// takeIdles takes up to n idle connections out of the inner pool, the most recently used first.
func (p *Pool) takeIdles(n int) []*session {
	var taken []*session
	for len(taken) < n {
		p.mu.Lock()
		room := p.idle > 0 && p.places < p.limit && !p.closed
		if room {
			p.places++
		}
		p.mu.Unlock()
		if !room {
			break
		}
		s := p.takeIdle(p.ctx)
		if s == nil {
			p.freePlace()
			break
		}
		taken = append(taken, s)
	}
	return taken
}

// join adds a handle.
func (p *Pool) join(h *connector) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.handles[h] = struct{}{}
}

// leave takes a handle out; the last one to leave closes the pool.
func (p *Pool) leave(h *connector) error {
	last, left := p.closeHandle(h)
	if !left {
		return nil
	}
	p.recall(func(l *lease) bool { return l.handle == h })
	if !last {
		return nil
	}
	p.metrics.unregister()
	return p.inner.Close()
}

// closeHandle is the part of leave that others may not see half done; false if the handle has left already.
func (p *Pool) closeHandle(h *connector) (last, left bool) {
	h.shut.Store(true)
	if p.sharedAs != nil {
		// Before p.mu, as in sharedPools.open, which must not join a pool that closes.
		shared.mu.Lock()
		defer shared.mu.Unlock()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if h.closed {
		return false, false
	}
	h.closed = true
	delete(p.handles, h)
	if h.out > 0 {
		p.leaving[h] = struct{}{}
	}
	last = len(p.handles) == 0
	p.queue.fail(ErrPoolClosed, func(w *waiter) bool { return last || w.handle == h })
	p.waiting.Store(int32(p.queue.len))
	if last {
		p.closeLocked()
	}
	return last, true
}

// closeLocked refuses new work and ends the timers and dials; connections in use close as they come back. A pool that
// is shared is closed with shared.mu held as well.
func (p *Pool) closeLocked() {
	p.closed = true
	if p.sharedAs != nil {
		shared.forgetLocked(p)
	}
	p.stop()
	p.dialing.stopLocked()
	p.tick.timer.Stop()
	if p.timers.sweep != nil {
		p.timers.sweep.Stop()
	}
	if p.timers.keepMin != nil {
		p.timers.keepMin.Stop()
	}
}

// Config returns the settings the pool works with; ConnectionLimit is the present one, and PoolName the name in use,
// also where it was derived from the DSN.
func (p *Pool) Config() Config {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.configLocked()
}

func (p *Pool) configLocked() Config {
	cfg := p.cfg
	cfg.ConnectionLimit, cfg.MaxIdleConnections = p.limit, p.maxIdle
	return cfg
}

// SetConnectionLimit changes connection_limit at run time. n must be at least 1 and not less than min_connections; the
// idle limit follows if it was equal to the limit, and is cut to n otherwise. When n is smaller than before, idle
// connections above it close at once and those in use as they come back; nothing under way is cut, and nobody who
// waits is dropped.
func (p *Pool) SetConnectionLimit(n int) error {
	p.resizing.Lock()
	defer p.resizing.Unlock()
	p.mu.Lock()
	cfg := p.configLocked()
	if cfg.MaxIdleConnections == cfg.ConnectionLimit {
		cfg.MaxIdleConnections = n
	}
	cfg.MaxIdleConnections = min(cfg.MaxIdleConnections, n)
	cfg.ConnectionLimit = n
	if err := cfg.validate(); err != nil {
		p.mu.Unlock()
		return err
	}
	p.limit, p.maxIdle = n, cfg.MaxIdleConnections
	p.limitNow.Store(int64(n))
	p.idleNow.Store(int64(p.maxIdle))
	handles := make([]*connector, 0, len(p.handles))
	for h := range p.handles {
		handles = append(handles, h)
	}
	p.mu.Unlock()

	p.inner.SetMaxOpenConns(n)
	p.setMaxIdle(cfg.MaxIdleConnections)
	for _, h := range handles {
		h.keepIdle(n)
	}
	// Leases above the limit would otherwise stay with their handles.
	p.recalls.Add(1)
	p.recall(func(*lease) bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.places > p.limit
	})
	p.mu.Lock()
	p.serveLocked()
	p.mu.Unlock()
	return nil
}

// Reset closes every connection that was opened before now instead of using it again: idle ones at once, those in use
// when they come back. Use it after something changed on the server that old connections do not know about.
func (p *Pool) Reset() {
	p.resets.Add(1)
	p.recalls.Add(1)
	p.recall(nil)
	// The inner pool asks each of them whether it is valid, and closes those that are not.
	for _, s := range p.takeIdles(math.MaxInt) {
		p.release(s, notHeld, nil)
	}
}

// driverPanic carries a panic of the wrapped driver from the goroutine that dialled to the caller it dialled for.
type driverPanic struct {
	value any
	stack []byte
}

func (e *driverPanic) Error() string {
	return fmt.Sprintf("lifeguard: the driver panicked while it opened a connection: %v", e.value)
}
