package account

import (
	"fmt"
	"time"
)

// Counts count from the opening of the pool.
type Counts struct {
	Waits, Timeouts, Canceled, Opened, Closed, DialErrors uint64

	// Of Closed: more were idle than MaxIdle, idle for MaxIdleTime, older than MaxLifetime.
	SurplusClosed, IdleClosed, ExpiredClosed uint64

	WaitTime time.Duration // sum of all waits
}

// Stats is the state of a pool at one moment.
type Stats struct {
	Counts
	Limit, MaxIdle int
	Open           int // resources: InUse + Idle
	InUse, Idle    int
	Closing        int // resources whose close has not returned; they take up slots
	Dialling       int
	Missing        int // dials that would begin if the budget had tokens for them
	Waiting        int
	LongestWait    time.Duration
	NewestFirst    bool // the order in force
}

// Waiter is a caller in the queue.
type Waiter struct {
	Since, Deadline int64 // Deadline is 0 for never
	Lease           any   // of the handle
}

// Picture is a pool at one moment, slot by slot. Times are of the pool clock.
type Picture[R any] struct {
	Stats
	Slots   []Pictured[R]
	Dials   []int64 // when each dial in flight began
	Waiters []Waiter
}

// Pictured is a slot in a picture.
type Pictured[R any] struct {
	Resource     R // for what anybody may ask
	Serial       uint64
	Born, IdleAt int64 // opened, and last used
	Lease        any   // of the handle; nil while the pool has the slot
	Idle         bool  // nobody uses it, here or in its handle
}

// TimeoutError is why a wait ended in vain.
type TimeoutError struct {
	Waited                time.Duration
	Limit, InUse, Waiting int
	Dial                  error // why no connection could be opened, or none that is open be used; nil if the pool was full
	Short                 bool  // no connection was opened because the budget had no token
	Context               error // the caller's context.DeadlineExceeded; nil if the pool's timeout ended the wait
}

func (e *TimeoutError) Error() string { return "pool: timeout" }

// SilentError says that a pool is full of connections that do not answer.
type SilentError struct{ Open int }

func (e *SilentError) Error() string {
	return fmt.Sprintf("none of %d open connections has answered a ping", e.Open)
}
