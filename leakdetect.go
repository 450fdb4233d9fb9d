package lifeguard

import (
	"cmp"
	"context"
	"runtime"
	"slices"
	"sync/atomic"
	"time"

	"github.com/go-lifeguard/lifeguard/internal/callsite"
	"github.com/go-lifeguard/lifeguard/internal/sqltext"
	"go.opentelemetry.io/otel/trace"
)

const (
	// stackDepth is how many frames of a checkout are kept. The dozen of database/sql and lifeguard are among them.
	stackDepth = 32

	// capturesPerTick bounds how many stacks are taken per tick of 2^captureTick nanoseconds, about 8 ms: 10,000 a
	// second. One costs about a microsecond: at rates above, most checkouts are over before anybody could ask.
	capturesPerTick = 84
	captureTick     = 23

	// holdersInError is how many holders a PoolTimeoutError carries. In an overload there are many such errors.
	holdersInError = 5
)

// Holder is who has a connection at the moment.
type Holder struct {
	Since       time.Time         // when it was checked out
	Held        time.Duration     // how long ago that was
	LastQuery   string            // the last statement it ran, sanitised: without literals
	LastUsed    time.Time         // when its last operation began
	Operations  int               // how many it ran
	InTx        bool              // it is in a transaction
	Busy        bool              // an operation is running: slow rather than forgotten
	Stack       []runtime.Frame   // of the checkout, from the first frame outside database/sql and lifeguard
	SpanContext trace.SpanContext // of the context of the checkout
	Leaked      bool              // it was reported as a leak
}

// caller is the application's frame that took the connection.
func (h *Holder) caller() (runtime.Frame, bool) {
	if len(h.Stack) == 0 {
		return runtime.Frame{}, false
	}
	return h.Stack[0], true
}

// Holders lists every connection that is checked out now, longest first. It does not stop the pool: what it lists is
// read one after another.
func (p *Pool) Holders() []Holder { return p.holders(0) }

// holders lists those that have held longest, at most n of them; 0 for all.
func (p *Pool) holders(n int) []Holder {
	var list []holdSnapshot
	for _, s := range *p.sessions.Load() {
		if h, ok := s.holder(); ok {
			list = append(list, h)
		}
	}
	slices.SortFunc(list, func(a, b holdSnapshot) int { return cmp.Compare(a.since, b.since) })
	if n > 0 && len(list) > n {
		list = list[:n]
	}
	now := p.now()
	holders := make([]Holder, len(list))
	for i := range list {
		holders[i] = list[i].describe(p, now)
	}
	return holders
}

// stack is where a checkout came from, as program counters: names and lines are looked up when somebody asks.
type stack struct {
	n   int
	pcs [stackDepth]uintptr
}

// capture takes the stack of the checkout that is under way, as long as the budget lasts.
func (s *stack) capture(b *captureBudget, now int64) {
	s.n = 0
	if b.take(now) {
		s.n = runtime.Callers(4, s.pcs[:]) // below runtime.Callers, capture, prepareHold and its caller
	}
}

// captureBudget bounds the stacks taken per tick. It may let a few more through when a tick begins on several
// processors at once; a lock would cost more than they do.
type captureBudget struct{ tick, taken atomic.Int64 }

func (b *captureBudget) take(now int64) bool {
	if tick := now >> captureTick; b.tick.Load() != tick {
		b.tick.Store(tick)
		b.taken.Store(0)
	}
	return b.taken.Load() < capturesPerTick && b.taken.Add(1) <= capturesPerTick
}

// holdSnapshot is a copy of a hold, so that names and lines are looked up without its lock.
type holdSnapshot struct {
	since int64
	ctx   context.Context
	stack stack
	activity
	inTx, busy bool
}

// holder copies what is known about who holds s; false if nobody does.
func (s *session) holder() (holdSnapshot, bool) {
	l := s.lease.Load()
	if l == nil {
		return holdSnapshot{}, false
	}
	word, ok := l.state.lock()
	if !ok {
		return holdSnapshot{}, false
	}
	snapshot := holdSnapshot{
		since: l.hold.since, ctx: l.hold.ctx, stack: l.hold.stack,
		activity: l.hold.activity[word/leaseActivity&1],
		inTx:     l.inTx.Load(), busy: word&leaseStates == leaseBusy,
	}
	l.state.unlock(word)
	return snapshot, true
}

func (h *holdSnapshot) describe(p *Pool, now int64) Holder {
	return Holder{
		Since:       p.timeOf(h.since),
		Held:        time.Duration(now - h.since),
		LastQuery:   sqltext.Sanitize(p.dialect, h.query),
		LastUsed:    p.timeOf(h.began),
		Operations:  h.operations,
		InTx:        h.inTx,
		Busy:        h.busy,
		Stack:       callsite.Stack(h.stack.pcs[:h.stack.n], p.observer.skip),
		SpanContext: trace.SpanContextFromContext(h.ctx),
	}
}

// dialect is how queries for the target are read when they are sanitised.
func (t target) dialect() sqltext.Dialect {
	switch t.system {
	case "postgresql":
		return sqltext.PostgreSQL
	case "mysql":
		return sqltext.MySQL
	case "sqlite":
		return sqltext.SQLite
	default:
		return sqltext.Other
	}
}
