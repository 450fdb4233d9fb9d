package lifeguard

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"reflect"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	// firstDials is how many connections are opened at once when demand comes up. Each success while somebody still
	// waits doubles the number, as slow start does in TCP: a burst of short queries is over before the second round,
	// and a pool that is really needed is full after a few.
	firstDials = 2

	// stalledAfter is how long a dial may take before it no longer counts against that number: one that vanished in
	// the network must not keep others from trying.
	stalledAfter = time.Second

	// After a dial that failed the next begins no sooner than dialBackoff after that one began, doubled with each further
	// failure up to maxDialBackoff, so that a dead server sees a few attempts a second and one that is back is found
	// soon. It does not count from the end: several that were lost would end one after another, and keep on putting off
	// the one that could succeed.
	dialBackoff    = 100 * time.Millisecond
	maxDialBackoff = 500 * time.Millisecond
)

// dialing is how the pool opens connections, guarded by Pool.mu. Dials run in goroutines of the pool and not in the
// callers': a caller takes whatever comes first, a connection that is returned or one that is opened, and a dial
// nobody needs any more becomes an idle connection.
type dialing struct {
	inFlight  []*dial // oldest first
	stalled   int     // those of inFlight that take longer than stalledAfter
	patience  int64   // how old the only one in flight may become where there is no place for another
	window    int     // most that may be in flight without being stalled
	failures  int     // since the last success
	notBefore int64   // pool clock; when the next may begin
	err       error   // of the last one that failed, or of a connection that turned out to be dead
	erredAt   int64   // pool clock; when that was
	silence   int64   // pool clock; when the first of those began that were replaced since there was an answer; 0 if none was
	later     *time.Timer
	laterSet  bool
}

// dial is one that is in flight. All but the first two are guarded by Pool.mu.
type dial struct {
	started  int64 // pool clock
	cancel   context.CancelFunc
	over     bool
	stalled  bool
	replaced bool // it was given up for another
}

// dialKey marks the context of a dial that the pool itself asked for; its value is a *dialRequest.
type dialKey struct{}

type dialRequest struct {
	pool  *Pool
	ctx   context.Context
	spare []*session // idle connections the inner pool offered instead of dialling

	mu     sync.Mutex
	socket net.Conn // guarded by mu; the one that was opened last, where the pool opens them itself
	stop   func() bool
}

// opened notes the socket of the dial. From now on it ends with the request's context: lib/pq listens to that while the
// socket opens, and no longer while it waits for the server to answer on it.
func (r *dialRequest) opened(c net.Conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stop != nil {
		r.stop() // an attempt before this one, on another address
	}
	r.socket = c
	r.stop = context.AfterFunc(r.ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
}

// settled gives the socket of a dial that has succeeded; false if the context ended all the same.
func (r *dialRequest) settled() (net.Conn, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.socket, r.stop == nil || r.stop()
}

// hangUp closes the socket of a dial that has failed. A driver that panicked has left it open, and nobody would count it.
func (r *dialRequest) hangUp() {
	if socket, _ := r.settled(); socket != nil {
		_ = socket.Close()
	}
}

// giveBack returns the spare connections, as soon as the inner pool has turned to dialling.
func (r *dialRequest) giveBack() {
	for _, s := range r.spare {
		r.pool.release(s, notHeld, nil)
	}
	r.spare = nil
}

// errNoDial answers every other attempt of the inner pool to open a connection.
var errNoDial = errors.New("lifeguard: no idle connection")

// innerConnector opens the physical connections of the inner pool.
type innerConnector struct {
	pool   *Pool
	parent driver.Connector
}

var (
	_ driver.Connector = (*innerConnector)(nil)
	_ io.Closer        = (*innerConnector)(nil)
)

// Connect opens a connection if the pool asked for one. The inner pool is also asked for whatever it has idle, and
// must not dial in that caller's time when it has nothing.
func (c *innerConnector) Connect(ctx context.Context) (_ driver.Conn, err error) {
	request, ok := ctx.Value(dialKey{}).(*dialRequest)
	if !ok || request.pool != c.pool {
		return nil, errNoDial
	}
	request.giveBack()
	// A panic must not pass through the inner pool, which would count the connection as open for ever.
	finished := false
	defer func() {
		if finished {
			return
		}
		v := recover()
		if v == nil {
			v = "runtime.Goexit was called"
		}
		request.hangUp()
		err = &driverPanic{value: v, stack: debug.Stack()}
	}()
	started := c.pool.now()
	conn, err := interceptedConnector{c.parent, c.pool.interceptors}.Connect(ctx)
	finished = true
	socket, ok := request.settled()
	if err == nil && !ok {
		_ = conn.Close()
		err = ctx.Err()
	}
	if err != nil {
		request.hangUp()
		// The inner pool would answer ErrBadConn with two more dials of its own.
		return nil, hideBadConn(sentNothing(err))
	}
	c.pool.metrics.created(ctx, c.pool.now()-started)
	s := newSession(c.pool, conn, socket)
	c.pool.opened(s)
	return s, nil
}

func (c *innerConnector) Driver() driver.Driver { return c.parent.Driver() }

// Close is called once, by the inner pool's Close.
func (c *innerConnector) Close() error {
	if closer, ok := c.parent.(io.Closer); ok {
		return closer.Close()
	}
	return nil
}

// opened and closedSession keep the list of physical connections. It is copied at each change, so that Stats and the
// search for idle leases read it without a lock; connections come and go rarely.
func (p *Pool) opened(s *session) {
	p.mu.Lock()
	defer p.mu.Unlock()
	next := append(slices.Clip(*p.sessions.Load()), s)
	p.sessions.Store(&next)
	p.counters.opened.Add(1)
}

func (p *Pool) closedSession(s *session) {
	p.mu.Lock()
	defer p.mu.Unlock()
	next := slices.DeleteFunc(slices.Clone(*p.sessions.Load()), func(x *session) bool { return x == s })
	p.moves.begin()
	p.sessions.Store(&next)
	p.counters.closed.Add(1)
	p.counters.hits.Add(s.hits.Load())
	p.counters.misses.Add(s.misses.Load())
	p.moves.end()
	if s.stored.Load() {
		s.stored.Store(false)
		p.idle--
	}
	p.dialLocked() // min_connections
}

// dialLocked starts the dials that the queue and min_connections need.
func (p *Pool) dialLocked() {
	d := &p.dialing
	if p.closed {
		return
	}
	for {
		open := len(*p.sessions.Load())
		trying := len(d.inFlight) - d.stalled
		wanted := max(p.queue.len, p.cfg.MinConnections-open)
		if wanted <= trying || trying >= d.window {
			return
		}
		if p.places >= p.limit {
			if p.queue.len > 0 && trying == 0 {
				d.replaceLocked(p.now(), int64(p.stallTime()))
			}
			return
		}
		now := p.now()
		if wait := d.notBefore - now; wait > 0 {
			if !d.laterSet {
				d.laterSet = true
				d.later = time.AfterFunc(time.Duration(wait), func() {
					p.mu.Lock()
					defer p.mu.Unlock()
					d.laterSet = false
					p.dialLocked()
				})
			}
			return
		}
		ctx, cancel := context.WithCancel(p.dialContextLocked(trying))
		one := &dial{started: now, cancel: cancel}
		p.places++
		d.inFlight = append(d.inFlight, one)
		// Ends with the driver's Connect, whose context ends with pool_timeout and with the pool.
		go p.dial(ctx, one, p.queue.len <= trying)
	}
}

// replaceLocked makes room for another dial where those that have stalled leave none. What they wait for may have been
// lost with a network or a server that is back by now, and would never come; or the server is slow. So it is the
// newest that has to go, and the older ones keep the time they have; if there is only one, it has longer each time.
func (d *dialing) replaceLocked(now, enough int64) {
	if d.stalled == 0 {
		return
	}
	newest := d.inFlight[len(d.inFlight)-1]
	if newest.replaced {
		return // its place is about to come free
	}
	if len(d.inFlight) == 1 {
		enough = max(enough, d.patience)
	}
	if now-newest.started < enough {
		return // it looks again
	}
	if len(d.inFlight) == 1 {
		d.patience = 2 * enough
	}
	if d.silence == 0 {
		d.silence = newest.started
	}
	newest.replaced = true
	newest.cancel()
}

// stallTime is stalledAfter, or less where callers have so little patience that others have to be tried sooner.
func (p *Pool) stallTime() time.Duration {
	if p.cfg.PoolTimeout <= 0 {
		return stalledAfter
	}
	return min(stalledAfter, max(p.cfg.PoolTimeout/3, 2*dialBackoff))
}

// dialContextLocked is the context of a dial beside which others are under way, each for a waiter of its own: it has
// the values of the next waiter's, but goes on when that ends.
func (p *Pool) dialContextLocked(others int) context.Context {
	w := p.queue.head
	for ; w != nil && others > 0; others-- {
		w = w.next
	}
	if w == nil {
		return p.ctx
	}
	return context.WithoutCancel(w.ctx)
}

func (d *dialing) stopLocked() {
	if d.later != nil {
		d.later.Stop()
	}
}

// dial opens a connection on the pool's behalf, in a place of its own. One that is to serve a waiter takes what has
// come free in the inner pool meanwhile; one for min_connections has to be new.
func (p *Pool) dial(ctx context.Context, one *dial, fresh bool) {
	defer one.cancel()
	var watch *time.Timer
	p.mu.Lock() // for watch
	watch = time.AfterFunc(p.stallTime(), func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if one.over {
			return
		}
		if !one.stalled {
			one.stalled = true
			p.dialing.stalled++
		}
		p.dialLocked()
		watch.Reset(p.stallTime()) // others may come to wait, or to stall
	})
	p.mu.Unlock()
	s, err := p.connect(ctx, one, fresh)
	watch.Stop()

	p.mu.Lock()
	d := &p.dialing
	one.over = true
	if one.stalled {
		d.stalled--
	}
	i := slices.Index(d.inFlight, one)
	d.inFlight = slices.Delete(d.inFlight, i, i+1)
	if err != nil {
		p.places--
		p.dialFailedLocked(one, err)
		p.mu.Unlock()
		return
	}
	recovered := d.failures > 0
	d.failures, d.notBefore, d.patience, d.silence = 0, 0, 0, 0
	granted := !p.closed && p.places <= p.limit && p.grantLocked(s, p.now())
	if p.queue.len > 0 {
		d.window = min(2*d.window, p.limit)
	} else {
		d.window = firstDials
	}
	if granted {
		p.dialLocked()
	}
	p.mu.Unlock()
	if recovered {
		p.log.Info("lifeguard: connecting works again", slog.String("pool", p.name))
	}
	if !granted {
		p.store(s)
	}
}

func (p *Pool) connect(ctx context.Context, one *dial, fresh bool) (*session, error) {
	request := &dialRequest{pool: p}
	defer request.giveBack()
	ctx = context.WithValue(ctx, dialKey{}, request)
	defer context.AfterFunc(p.ctx, one.cancel)()
	if limit := p.cfg.PoolTimeout; limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, limit)
		defer cancel()
	}
	request.ctx = ctx
	for {
		c, err := p.inner.Conn(ctx)
		switch {
		case err == nil:
			s, first := p.adopt(c)
			if first || !fresh {
				return s, nil
			}
			p.mu.Lock()
			p.places++ // its own, until it is given back
			p.mu.Unlock()
			request.spare = append(request.spare, s)
		case errors.Is(err, errNoDial):
			// The inner pool's own opener answered, in place of a connection that was just being closed.
		case ctx.Err() != nil && p.ctx.Err() == nil:
			return nil, &connectError{
				text: fmt.Sprintf("connecting to %s was given up after %s: %v",
					p.target.PoolName(), readableDuration(time.Duration(p.now()-one.started)), err),
				err: err,
			}
		default:
			return nil, err
		}
	}
}

// dialFailedLocked decides what a failed dial means to those who wait.
func (p *Pool) dialFailedLocked(one *dial, err error) {
	d := &p.dialing
	if p.closed {
		return
	}
	now, told := p.now(), p.unfinished(one.started)
	if !one.replaced { // else the next one has waited for long enough
		told = p.redactor.Error(err)
		d.err, d.erredAt, d.silence = told, now, 0
		d.window = 1
		backoff := min(dialBackoff<<min(d.failures, 8), maxDialBackoff)
		backoff -= time.Duration(rand.Int64N(int64(backoff / 5))) // so that many services do not come in step
		d.notBefore = max(d.notBefore, one.started+int64(backoff))
	}
	d.failures++
	if d.failures == 1 {
		// Once for each time it begins; who waits gets the error of his own attempt.
		go p.log.Warn("lifeguard: cannot open a connection", slog.String("pool", p.name), slog.Any("error", told))
	}
	var crash *driverPanic
	switch {
	case errors.As(err, &crash):
		if w := p.queue.next(p.now()); w != nil {
			w.ready <- grant{err: err}
		} else {
			go p.log.Error("lifeguard: the driver panicked while it opened a connection", slog.String("pool", p.name),
				slog.Any("panic", told), slog.String("stack", string(crash.stack)))
		}
	case !one.replaced && !temporary(err) && len(*p.sessions.Load()) == 0:
		// Waiting cannot help: no connection will be returned, and the next dial would fail like this one.
		p.queue.fail(told, func(*waiter) bool { return true })
	}
	p.waiting.Store(int32(p.queue.len))
	p.dialLocked()
}

// silent notes that a connection which was open has turned out to be dead after a caller had waited for it.
func (p *Pool) silent(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.dialing.err, p.dialing.erredAt = err, p.now()
}

// troubleLocked is what a caller who has waited in vain since then is told about the dials; nil if the pool was simply
// full.
func (d *dialing) troubleLocked(p *Pool, room bool, since int64) error {
	if !room {
		return nil
	}
	began := d.silence
	if len(d.inFlight) > 0 && (began == 0 || d.inFlight[0].started < began) {
		began = d.inFlight[0].started
	}
	trying := began != 0 || len(d.inFlight) > 0
	erred := d.err != nil && (d.failures > 0 || d.erredAt >= since)
	stalled := p.now()-began >= int64(p.stallTime())
	switch {
	case erred && !(trying && stalled && began > d.erredAt):
		return d.err
	case trying:
		return p.unfinished(began)
	}
	return nil
}

func (p *Pool) unfinished(began int64) error {
	return &connectError{text: fmt.Sprintf("connecting to %s has not finished after %s",
		p.target.PoolName(), readableDuration(time.Duration(p.now()-began)))}
}

// sentNothing gives what lib/pq has put into a mark of its own, which does not unwrap, for errors met before anything
// was sent.
func sentNothing(err error) error {
	v := reflect.Indirect(reflect.ValueOf(err))
	if v.Kind() != reflect.Struct || v.Type().PkgPath() != "github.com/lib/pq" || v.Type().Name() != "safeRetryError" {
		return err
	}
	if inner, ok := v.FieldByName("Err").Interface().(error); ok {
		return inner
	}
	return err
}

// temporary says whether a dial that failed with err may well succeed a little later: the server is down, starting,
// full, or out of reach. Everything else (a wrong password, a database that does not exist, a name that cannot be
// resolved) is told to the caller at once, as the plain driver does.
func temporary(err error) bool {
	var dns *net.DNSError
	if errors.As(err, &dns) && dns.IsNotFound {
		return false
	}
	switch code := serverCode(err); {
	case code == "":
	case strings.HasPrefix(code, "08"), strings.HasPrefix(code, "53"), strings.HasPrefix(code, "57P"):
		return true // connection exception, insufficient resources, server going down or coming up
	case code == "1040", code == "1203", code == "1053":
		return true // too many connections, too many of this user, shutdown in progress
	default:
		return false
	}
	var bad *connectError
	var netErr net.Error
	var errno syscall.Errno
	return errors.As(err, &bad) || errors.As(err, &netErr) || errors.As(err, &errno) ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) ||
		errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded)
}

// connectHint says what to change when a server refuses connections because it has too many.
func connectHint(err error, limit int) string {
	switch serverCode(err) {
	case "53300", "1040", "1203":
		return fmt.Sprintf("the server has no room for this pool of up to %d connections: lower connection_limit, "+
			"or raise max_connections on the server", limit)
	}
	return ""
}
