package assembly

import (
	"cmp"
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ngrok/sqlmw"

	"github.com/go-lifeguard/lifeguard/internal/callsite"
	"github.com/go-lifeguard/lifeguard/internal/fleet"
	"github.com/go-lifeguard/lifeguard/internal/handle"
	"github.com/go-lifeguard/lifeguard/internal/leak"
	"github.com/go-lifeguard/lifeguard/internal/look"
	"github.com/go-lifeguard/lifeguard/internal/observe"
	"github.com/go-lifeguard/lifeguard/internal/pace"
	"github.com/go-lifeguard/lifeguard/internal/pool"
	"github.com/go-lifeguard/lifeguard/internal/session"
	"github.com/go-lifeguard/lifeguard/internal/stmtcache"
)

// Config is what a pool and its handles are made of. Zero durations and counts mean none.
type Config struct {
	Name   string
	Target string // names the server in errors

	Limit, MaxIdle, MinOpen     int
	PoolTimeout                 time.Duration
	MaxLifetime, MaxIdleTime    time.Duration
	SocketTimeout               time.Duration
	StatementCacheSize          int
	PgBouncer, AtMostOnce       bool
	LeakThreshold, ReclaimAfter time.Duration
	MaxWaiting                  int
	Keepalive                   time.Duration

	Parent       driver.Connector
	DSN          string // the wrapped driver's, "" if it is not known
	Interceptors []sqlmw.Interceptor
	AfterConnect session.AfterConnect
	Fleet        Fleet
	Log          *slog.Logger
	Observe      observe.Config

	Now     func() int64                                // the pool clock
	Redact  func(error) error                           // withholds secrets in an error of the driver's Connect
	Timeout func(*pool.TimeoutError, []leak.Hold) error // makes the error of a wait that ran out
	Leaked  func(leak.Report)                           // tells of a leak
}

// Pool is a pool of sessions with what watches over it.
type Pool struct {
	cfg        Config
	opener     *session.Opener
	pool       *pool.Pool[*session.Session]
	statements *stmtcache.Shared
	observer   *observe.Observer
	janitor    *leak.Janitor // nil without a leak_threshold
	shared     *handle.Shared
	look       *look.Pool
	fleet      *fleet.Fleet    // nil for none
	done       context.Context // ends with the pool
	stop       context.CancelFunc
	over       atomic.Bool
	warned     atomic.Bool // of a handle's own limit

	handles struct {
		sync.Mutex
		list []*handle.Connector // guarded
	}

	logging struct {
		sync.Mutex
		after time.Duration // guarded; the next reminder of an outage is due so long after its first failure
	}
}

// NewPool makes a pool without handles.
func NewPool(cfg Config) *Pool {
	p := &Pool{cfg: cfg}
	p.done, p.stop = context.WithCancel(context.Background())
	p.observer = observe.New(cfg.Observe)
	p.look = look.New(look.Config{
		Observer: p.observer, Dialect: cfg.Observe.Dialect, Skip: cfg.Observe.Skip, Now: cfg.Now, Done: p.done.Done(),
		Fleet: p.Fleet,
	})
	p.statements = stmtcache.NewShared(stmtcache.Config{
		Size: cfg.StatementCacheSize, PgBouncer: cfg.PgBouncer, Name: cfg.Name, Log: cfg.Log, Now: cfg.Now,
	})
	made := make(chan struct{})
	defer close(made)
	budget := p.join(made)
	var admit session.Admit
	if budget != nil {
		admit = p.admit
	}
	p.opener = session.NewOpener(session.Config{
		Parent: cfg.Parent, Interceptors: cfg.Interceptors, SocketTimeout: cfg.SocketTimeout, Statements: p.statements,
		DSN: cfg.DSN, Name: cfg.Name, Log: cfg.Log, AtMostOnce: cfg.AtMostOnce, AfterConnect: cfg.AfterConnect,
		Patience: cfg.PoolTimeout, Admit: admit,
	}, cfg.Limit)
	p.janitor = leak.New(leak.Config{
		Threshold: cfg.LeakThreshold, ReclaimAfter: cfg.ReclaimAfter, Now: cfg.Now,
		Leases: p.leases, Waiting: p.waiting, Owned: callsite.OwnedByDBQuery, Tell: p.leaked, Panicked: p.panicked, Done: p.done.Done(),
	})
	p.pool = pool.New(pool.Config[*session.Session]{
		Limit: cfg.Limit, MaxIdle: cfg.MaxIdle, MinOpen: cfg.MinOpen,
		Timeout: cfg.PoolTimeout, MaxLifetime: cfg.MaxLifetime, MaxIdleTime: cfg.MaxIdleTime, Now: cfg.Now,
		MaxWaiting: cfg.MaxWaiting, Keepalive: cfg.Keepalive,
		Open: p.opener.Open, Close: p.opener.CloseSession, Ping: func(ctx context.Context, s *session.Session) error { return s.Probe(ctx) },
		Retryable: retryable, Resize: p.opener.Resize, Budget: budget,
		Events: pool.Events{Waiting: p.janitor.Alert, DialFailed: p.dialFailed, Dialled: p.dialled},
	})
	p.look.At(p.pool)
	p.shared = handle.NewShared(handle.Config{
		Pool: p.pool, Observer: p.observer, Janitor: p.janitor, Now: cfg.Now,
		Reclaims: cfg.ReclaimAfter > 0 && cfg.LeakThreshold > 0, Ready: p.makeReady, WaitFailed: p.waitFailed, Closed: p.closed,
	})
	p.observer.Watch(p.counts)
	return p
}

// Join makes the connector of another handle; nil if the pool is closed.
func (p *Pool) Join(d driver.Driver) *handle.Connector {
	client := p.pool.Join()
	if client == nil {
		return nil
	}
	c := p.shared.Connector(client, d)
	p.handles.Lock()
	defer p.handles.Unlock()
	p.handles.list = append(slices.DeleteFunc(p.handles.list, (*handle.Connector).Over), c)
	return c
}

// Handles gives the connectors of the handles that have not closed, and of those that have and still hold connections.
func (p *Pool) Handles() []*handle.Connector {
	p.handles.Lock()
	defer p.handles.Unlock()
	return slices.Clone(p.handles.list)
}

// Closed says whether the last handle has left.
func (p *Pool) Closed() bool { return p.over.Load() }

// ShowLeak makes a span of a leak.
func (p *Pool) ShowLeak(l observe.LeakSpan) { p.observer.Leak(l) }

// closed ends what belongs to a pool whose last handle has left.
func (p *Pool) closed() error {
	p.over.Store(true)
	p.stop()
	if p.fleet != nil {
		p.fleet.Close()
	}
	p.observer.Close()
	return p.opener.Close()
}

// Look is how the pool is looked at.
func (p *Pool) Look() *look.Pool { return p.look }

// Reset closes every connection that was opened before now instead of using it again.
func (p *Pool) Reset() {
	p.look.Note(look.WasReset, "no connection opened before is used again")
	p.pool.Reset()
}

// SetLimit changes the limits.
func (p *Pool) SetLimit(limit, maxIdle int) {
	before, _ := p.pool.Limit()
	p.look.Note(look.LimitSet, fmt.Sprintf("connection_limit from %d to %d", before, limit))
	p.pool.SetLimit(limit, maxIdle)
	for _, c := range p.Handles() {
		c.KeepIdle(limit)
	}
}

// Limit gives the present limits.
func (p *Pool) Limit() (limit, maxIdle int) { return p.pool.Limit() }

// Stats is what Pool.Stats shows.
type Stats struct {
	pool.Stats
	Acquired, SlowQueries                 uint64
	Leaks, LostRows, LostLater, Reclaimed uint64
	Hits, Misses, Retries                 uint64
	Fleet                                 fleet.Snapshot // the zero one without a fleet
}

// Stats reads the counters.
func (p *Pool) Stats() Stats {
	st := Stats{Acquired: p.shared.Acquired(), SlowQueries: p.observer.SlowQueries()}
	st.Leaks, st.LostRows, st.LostLater, st.Reclaimed = p.janitor.Counts()
	st.Hits, st.Misses, st.Retries = p.statements.Counts()
	st.Stats, st.Fleet = p.pool.Stats(), p.Fleet()
	return st
}

func (p *Pool) counts() observe.Counts {
	st := p.Stats()
	return observe.Counts{
		Idle: st.Idle, InUse: st.InUse, Limit: st.Limit, MaxIdle: st.MaxIdle, MinIdle: p.cfg.MinOpen, Waiting: st.Waiting,
		Timeouts: st.Timeouts, Leaks: st.Leaks + st.LostRows - st.LostLater, Reclaimed: st.Reclaimed,
		StatementHits: st.Hits, StatementMisses: st.Misses, StatementRetries: st.Retries,
		FleetLimit: st.Fleet.Limit, FleetProcesses: len(st.Fleet.Peers), FleetHeld: st.Fleet.Held, FleetWanted: st.Fleet.Wanted,
	}
}

// Holds copies the records of all that hold a connection, longest first.
func (p *Pool) Holds() []leak.Hold {
	leases := p.pool.Leases(nil)
	holds := make([]leak.Hold, 0, len(leases))
	for _, of := range leases {
		if l, ok := of.(leak.Lease); ok {
			if h, ok := l.Hold(); ok {
				holds = append(holds, h)
			}
		}
	}
	slices.SortFunc(holds, func(a, b leak.Hold) int { return cmp.Compare(a.Since, b.Since) })
	return holds
}

// leaked, leases, waiting and panicked are for the janitor.

func (p *Pool) leaked(r leak.Report) {
	p.look.Leaked(r)
	p.cfg.Leaked(r)
}

func (p *Pool) panicked(value any, stack []byte) {
	p.cfg.Log.Error("lifeguard: the leak handler panicked", slog.String("pool", p.cfg.Name),
		slog.Any("panic", value), slog.String("stack", string(stack)))
}

func (p *Pool) leases(yield func(leak.Lease) bool) {
	for _, of := range p.pool.Leases(nil) {
		if l, ok := of.(leak.Lease); ok && !yield(l) {
			return
		}
	}
}

func (p *Pool) waiting() (waiting, full, leased bool) {
	p.lookAtSetters()
	st := p.pool.Stats()
	return st.Waiting > 0, st.Open+st.Closing >= st.Limit, st.InUse > 0
}

// waitFailed is the error of a wait as the caller gets it.
func (p *Pool) waitFailed(err error) error {
	var timeout *pool.TimeoutError
	switch {
	case errors.As(err, &timeout):
		timeout.Dial = p.dialError(timeout.Dial)
		return p.cfg.Timeout(timeout, p.Holds())
	case err == pool.ErrClosed || err == pool.ErrTooManyWaiting || err == context.Canceled || err == context.DeadlineExceeded:
		return err
	}
	return p.dialError(err)
}

// lookAtSetters warns once of a limit that a handle's own setter has put below the pool's: callers wait in database/sql
// then, in no order and without a timeout.
func (p *Pool) lookAtSetters() {
	limit, _ := p.pool.Limit()
	for _, c := range p.Handles() {
		if set := c.MaxOpen(); set > 0 && set < limit && !p.warned.Swap(true) {
			p.cfg.Log.Warn("lifeguard: SetMaxOpenConns of a handle is below connection_limit, so callers wait without pool_timeout: "+
				"set connection_limit instead", slog.String("pool", p.cfg.Name),
				slog.Int("SetMaxOpenConns", set), slog.Int("connection_limit", limit))
		}
	}
}

// dialError is an error of a dial as it may be shown.
func (p *Pool) dialError(err error) error {
	var unfinished *pace.UnfinishedError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &unfinished):
		text := fmt.Sprintf("connecting to %s has not finished after %s", p.cfg.Target, Readable(unfinished.For))
		if hang := (*session.HangError)(nil); errors.As(err, &hang) {
			text += fmt.Sprintf(", because the hook of %s has not returned", hang.Hook)
		}
		return &connectError{text: text, err: p.dialError(unfinished.Err)}
	case errors.Is(err, driver.ErrBadConn):
		// Its chain ends here: database/sql would answer a match with two more waits of the caller.
		return &connectError{text: fmt.Sprintf("the driver could not open a connection: %v", p.cfg.Redact(err))}
	}
	return p.cfg.Redact(err)
}

// connectError has a text of its own.
type connectError struct {
	text string
	err  error
}

func (e *connectError) Error() string { return e.text }
func (e *connectError) Unwrap() error { return e.err }

// dialFailed and dialled are told by the pool.

func (p *Pool) dialFailed(err error, since time.Duration) {
	err = p.dialError(err)
	p.observer.DialFailed(context.Background(), err)
	p.look.Note(look.DialFailed, err.Error())
	p.logging.Lock()
	due := since >= p.logging.after
	if due { // reminders come after 1, 2, 4, 8 s and so on
		for p.logging.after = max(p.logging.after, time.Second); p.logging.after <= since; {
			p.logging.after *= 2
		}
	}
	p.logging.Unlock()
	if !due {
		return
	}
	attrs := []any{slog.String("pool", p.cfg.Name), slog.Any("error", err)}
	if crash := new(session.PanicError); errors.As(err, &crash) {
		attrs = append(attrs, slog.String("stack", string(crash.Stack)))
	}
	if since > 0 {
		attrs = append(attrs, slog.String("since", Readable(since)))
	}
	p.cfg.Log.Warn("lifeguard: cannot open a connection", attrs...)
}

func (p *Pool) dialled(took, outage time.Duration) {
	p.observer.Created(context.Background(), took)
	p.logging.Lock()
	p.logging.after = 0
	p.logging.Unlock()
	if outage > 0 {
		p.look.Note(look.Recovered, "after "+Readable(outage))
		p.cfg.Log.Info("lifeguard: connecting works again", slog.String("pool", p.cfg.Name), slog.String("after", Readable(outage)))
	}
}
