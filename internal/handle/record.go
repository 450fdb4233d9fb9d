package handle

import (
	"cmp"
	"context"
	"database/sql/driver"
	"slices"
	"sync"
	"sync/atomic"

	"go.opentelemetry.io/otel/trace"

	"github.com/go-lifeguard/lifeguard/internal/callsite"
	"github.com/go-lifeguard/lifeguard/internal/leak"
)

// state of a lease.
type state uint8

const (
	taken   state = iota // it has no session: not yet, or not any more
	idle                 // it lies in the handle
	held                 // a caller has it
	running              // a caller has it, and a call into the driver runs
)

type checkout = leak.Hold

// record says who has a lease and what runs. Only the holder's goroutine moves it between held and running; whoever
// moves it to taken owns the slot from then on.
type record struct {
	mu sync.Mutex // guards all but the atomics; the holder reads without it what only it writes. Never held during a call into a driver or the pool

	state  state
	why    error // what the holder is told after taken; nil for driver.ErrBadConn
	doomed bool  // the holder's goroutine has to close the connection at its next step

	checkout                  // the present one, without stack and span; Touched is Since if there was no operation
	ctx       context.Context // nil while idle: no request outlives its use
	stack     callsite.Stack  // empty while idle, and if there were too many to note them all
	back      int64           // pool clock; when it became idle
	over      bool            // its last operation seems to be the only one, see returnUnasked
	fresh     bool            // the present checkout is the first
	returning bool            // it is being returned, which is no operation of the holder's

	// stirred is set by the reading of rows, which takes no lock, and cleared by who looks at the record.
	stirred atomic.Bool

	// gone is true when the holder has lost the lease or has to close it. Reading rows looks at it without the lock.
	gone atomic.Bool
}

// beginLocked starts a checkout in state next.
func (r *record) beginLocked(ctx context.Context, number uint64, now int64, next state) {
	r.state, r.ctx, r.returning = next, ctx, false
	r.checkout = checkout{Checkout: number, Since: now, Began: now, Touched: now}
}

// restLocked has the lease lie idle: neither context nor query outlives its use.
func (r *record) restLocked(now int64) {
	r.state, r.back, r.ctx, r.Query = idle, now, nil, ""
	r.stack.Clear()
}

// settle ends a call into the driver: the time of a connection that lies unused counts from now. False: the lease is
// doomed, and the caller owns the slot, which it must discard.
func (r *record) settle(now int64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.settleLocked(now)
}

func (r *record) settleLocked(now int64) bool {
	r.Touched = max(r.Touched, now)
	if r.doomed && r.takeLocked(r.why) != taken {
		return false
	}
	if r.state == running {
		r.state = held
	}
	return true
}

// take moves the lease to taken, whatever its state, and gives the state before.
func (r *record) take(why error) state {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.takeLocked(why)
}

func (r *record) takeLocked(why error) state {
	before := r.state
	if before != taken {
		r.state, r.why = taken, why
		r.gone.Store(true)
		r.ctx, r.Query = nil, ""
	}
	return before
}

// Idle says since when the lease has lain idle, which is later than its last use.
func (r *record) Idle() (since int64, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.back, r.state == idle
}

// TakeIdle takes the slot from an idle lease that was last used then.
func (r *record) TakeIdle() (used int64, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.state != idle {
		return 0, false
	}
	r.takeLocked(nil)
	return r.Touched, true
}

// explain says why the lease is gone, unless that is known.
func (r *record) explain(why error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.why = cmp.Or(r.why, why)
}

// lost is what the holder of a lease that is gone is told.
func (r *record) lost() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return cmp.Or(r.why, driver.ErrBadConn)
}

func (r *record) hold(now int64) (leak.Hold, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.state != held && r.state != running {
		return leak.Hold{}, false
	}
	if r.stirred.Swap(false) {
		r.Touched = max(r.Touched, now)
	}
	h := r.checkout
	h.Running, h.Stack = r.state == running, slices.Clone(r.stack.PCs())
	if r.returning {
		h.Began = now // not slow: it has just begun, and ends the checkout
	}
	if r.ctx != nil {
		h.Span = trace.SpanContextFromContext(r.ctx)
	}
	return h, true
}

// Caller copies the stack of whoever waits with the lease, or has it; nil if it was not captured.
func (r *record) Caller() []uintptr {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.stack.PCs())
}

// MarkLeaked notes that a checkout was reported.
func (r *record) MarkLeaked(checkout uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.Leaked = r.Leaked || r.Checkout == checkout
}

// reclaim takes the lease from a holder that has done nothing since its operation number operations.
func (r *record) reclaim(checkout uint64, operations int, why error) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.state != held || r.Raw || r.Checkout != checkout || r.Operations != operations || r.stirred.Load() {
		return false
	}
	r.takeLocked(why)
	return true
}

// doom has the holder's goroutine close the connection at its next step; false if nobody has the lease.
func (r *record) doom(why error) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.state != held && r.state != running || r.doomed {
		return false
	}
	r.doomed, r.why = true, why
	r.gone.Store(true)
	return true
}
