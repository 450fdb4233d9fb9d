package look

import (
	"runtime"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/go-lifeguard/lifeguard/internal/account"
	"github.com/go-lifeguard/lifeguard/internal/callsite"
	"github.com/go-lifeguard/lifeguard/internal/fleet"
	"github.com/go-lifeguard/lifeguard/internal/histogram"
	"github.com/go-lifeguard/lifeguard/internal/leak"
	"github.com/go-lifeguard/lifeguard/internal/observe"
	"github.com/go-lifeguard/lifeguard/internal/pool"
	"github.com/go-lifeguard/lifeguard/internal/session"
	"github.com/go-lifeguard/lifeguard/internal/sqltext"
)

// Config is where a picture comes from.
type Config struct {
	Observer *observe.Observer
	Dialect  sqltext.Dialect
	Skip     []string        // packages that are no callers
	Now      func() int64    // the pool clock
	Done     <-chan struct{} // closed when the pool ends
	Fleet    func() fleet.Snapshot
}

// Pool is a pool that can be looked at. It is safe for concurrent use.
type Pool struct {
	cfg    Config
	pool   *pool.Pool[*session.Session]
	events events
	leaks  leaks
}

// New makes what keeps events of a pool, which may begin before the pool is there. At follows before the first look.
func New(cfg Config) *Pool { return &Pool{cfg: cfg} }

// At says which pool to look at. It is called once, before anybody looks.
func (p *Pool) At(of *pool.Pool[*session.Session]) { p.pool = of }

// Closed says whether the pool has ended.
func (p *Pool) Closed() bool {
	select {
	case <-p.cfg.Done:
		return true
	default:
		return false
	}
}

// State is what a slot does.
type State string

// The values of [State]. There may be others in time to come.
const (
	Idle     State = "idle"                  // nobody uses it
	Running  State = "running"               // an operation runs
	Held     State = "held"                  // a caller has it, and runs nothing
	IdleInTx State = "idle in a transaction" // the same, in a transaction
	Leaked   State = "leaked"                // it was reported as a leak
	Checking State = "checking"              // it is pinged or made ready, or changes hands
	Opening  State = "opening"               // a dial is in flight
	Closing  State = "closing"
	NoToken  State = "token missing" // a connection would be opened if the fleet had one left
)

// Holder is a caller that has a connection.
type Holder struct {
	Held, Unused time.Duration // since the checkout, and since its last operation began
	Query        string        // the last one, sanitised
	Operations   int
	InTx         bool
	Running      bool
	Leaked       bool
	Stack        []runtime.Frame
	Span         trace.SpanContext
}

// Slot is one connection, or one that is being opened.
type Slot struct {
	Serial uint64 // of the connection; 0 while there is none
	State  State
	For    time.Duration // how long it has been so; 0 if that is not known
	Age    time.Duration // since it was opened, or since its dial began
	PID    int64         // of the server's process; 0 if it is not known
	Holder *Holder       // nil while nobody has it
}

// Waiter is a caller in the queue.
type Waiter struct {
	Waited time.Duration
	Left   time.Duration // until it gives up; 0 for never
	Stack  []runtime.Frame
}

// Picture is a pool at one moment. The leases are read one after another.
type Picture struct {
	pool.Stats
	At      time.Time
	Slots   []Slot   // in the order in which they were opened, dials, closes and those without a token last
	Waiters []Waiter // the longest first, a hundred at most
	Shapes  []observe.Tally
	Leaks   []Leak  // the newest first
	Events  []Event // the newest first
	Fleet   fleet.Snapshot
}

// Glance is what a look a second keeps, for microseconds.
func (p *Pool) Glance() (pool.Stats, histogram.Histogram) { return p.pool.Waits() }

// Picture looks at everything.
func (p *Pool) Picture() Picture {
	now := p.cfg.Now()
	seen := p.pool.Picture()
	pic := Picture{
		Stats: seen.Stats, At: time.Now(),
		Shapes: p.cfg.Observer.Tallies(), Leaks: p.leaks.list(), Events: p.events.list(), Fleet: p.cfg.Fleet(),
	}
	for i := range seen.Slots {
		pic.Slots = append(pic.Slots, p.slot(&seen.Slots[i], now))
	}
	for _, began := range seen.Dials {
		since := time.Duration(max(now-began, 0))
		pic.Slots = append(pic.Slots, Slot{State: Opening, For: since, Age: since})
	}
	for range seen.Closing {
		pic.Slots = append(pic.Slots, Slot{State: Closing})
	}
	for range seen.Missing {
		pic.Slots = append(pic.Slots, Slot{State: NoToken})
	}
	for _, w := range seen.Waiters {
		one := Waiter{Waited: time.Duration(max(now-w.Since, 0))}
		if w.Deadline != 0 {
			one.Left = time.Duration(max(w.Deadline-now, 1))
		}
		if l, ok := w.Lease.(interface{ Caller() []uintptr }); ok {
			one.Stack = callsite.Frames(l.Caller(), p.cfg.Skip)
		}
		pic.Waiters = append(pic.Waiters, one)
	}
	return pic
}

func (p *Pool) slot(seen *account.Pictured[*session.Session], now int64) Slot {
	s := Slot{Serial: seen.Serial, State: Checking, Age: time.Duration(max(now-seen.Born, 0)), PID: seen.Resource.PID()}
	if seen.Idle {
		s.State, s.For = Idle, time.Duration(max(now-seen.IdleAt, 0))
		return s
	}
	l, ok := seen.Lease.(leak.Lease)
	if !ok {
		return s
	}
	h, ok := l.Hold()
	if !ok {
		return s
	}
	since := h.Touched
	switch {
	case h.Running:
		s.State, since = Running, h.Began
	case h.Leaked:
		s.State, since = Leaked, h.Since
	case h.InTx:
		s.State = IdleInTx
	default:
		s.State = Held
	}
	s.For = time.Duration(max(now-since, 0))
	holder := p.holder(&h, now)
	s.Holder = &holder
	return s
}

// holder resolves what is known of a hold, as it may be shown.
func (p *Pool) holder(h *leak.Hold, now int64) Holder {
	return Holder{
		Held: time.Duration(max(now-h.Since, 0)), Unused: time.Duration(max(now-h.Began, 0)),
		Query: sqltext.Sanitize(p.cfg.Dialect, h.Query), Operations: h.Operations,
		InTx: h.InTx, Running: h.Running, Leaked: h.Leaked, Stack: callsite.Frames(h.Stack, p.cfg.Skip), Span: h.Span,
	}
}
