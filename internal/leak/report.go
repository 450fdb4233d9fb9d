package leak

import (
	"time"

	"go.opentelemetry.io/otel/trace"
)

// Hold is what the record of a lease says about its present checkout. Times are on the pool clock.
type Hold struct {
	// Checkout must differ between all checkouts of the leases that one ticket can give. 0 stands for none.
	Checkout uint64

	Since int64 // the checkout
	Began int64 // begin of the last operation; 0: none

	// Touched is when last an operation ended, a row was fetched, or a result or statement was closed. It decides how long
	// the connection has been unused. While an operation runs it is not read.
	Touched int64

	Operations int               // begun so far
	Query      string            // of the last operation, with its literals
	Running    bool              // an operation is in progress
	InTx       bool              // in a transaction
	Raw        bool              // the driver's own connection was handed out, and its use cannot be seen
	Endless    bool              // the last operation gave rows, and its context can never end
	Leaked     bool              // it was reported
	Stack      []uintptr         // of the checkout
	Span       trace.SpanContext // of the checkout's context
}

// quiet is how long nothing was done with the connection. It says nothing while an operation runs.
func (h *Hold) quiet(now int64) int64 { return now - max(h.Since, h.Began, h.Touched) }

// Lease is the record of one lease. It is safe for concurrent use, and compared by identity.
type Lease interface {
	// Hold copies the record while somebody holds the lease.
	Hold() (Hold, bool)

	// MarkLeaked notes that the checkout was reported. It ignores a checkout that is over.
	MarkLeaked(checkout uint64)

	// Reclaim takes the connection from its holder and has it closed, without waiting for the close. It declines if another
	// checkout holds the lease, an operation runs or has begun since number operations, or the lease is Raw.
	Reclaim(checkout uint64, operations int) bool
}

// Kind says how a leak was found.
type Kind uint8

const (
	Held     Kind = iota // held for longer than the threshold
	LostRows             // rows were dropped without Close
)

// Report is one report about a checkout. All but StillRunning are about a leak. The last report about a leak says
// Reclaimed or Returned, unless the pool ends before.
type Report struct {
	Hold
	Held         time.Duration // since the checkout
	Kind         Kind
	First        bool // the first report of this checkout as a leak
	Again        bool // the same as the report before, after twice the time
	Reclaimed    bool // the connection was taken back
	Returned     bool // it was returned after all, at most a tick before Held
	StillRunning bool // no leak: an operation has had the connection for longer than the threshold
}
