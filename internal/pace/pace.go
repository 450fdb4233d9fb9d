package pace

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"time"
)

const (
	// firstDials may be in flight at once when demand comes up, and twice as many for each Step that the longest waiter
	// has waited. A burst of short queries is over before the second step; a pool that is needed fills in a few.
	firstDials = 2

	// Step is how long a waiter waits until the window for dials grows.
	Step = int64(100 * time.Millisecond)

	// After a dial that failed, the next begins no sooner than this after that one began, and twice as long after each
	// further failure, up to maxBackoff. A dead server sees a few attempts a second, and one that is back is found soon.
	// The time does not count from the end of a dial: lost ones end one after another, and each would put off the next.
	firstBackoff = 100 * time.Millisecond
	maxBackoff   = 500 * time.Millisecond

	// lostAfter is the age of a dial from which on it may be lost in the network, so that others may be tried beside it.
	lostAfter = time.Second

	// outage is how long a server that does not answer is bridged. Callers that wait after it get the last error.
	outage = int64(20 * time.Second)
)

// Pace is that of one pool. The zero Pace is that of a pool that has never connected. Times are of the user's clock, in
// nanoseconds, and never 0.
type Pace struct {
	connected bool  // a dial has succeeded once
	usual     int64 // how long the last successful dial took
	failures  int   // in a row
	failing   int64 // when the first of them began
	notBefore int64 // when the next dial may begin
	silent    int64 // start of the first dial without an answer while nothing was open; 0 for none
	err       error // of the last dial that failed
	erredAt   int64
	gaveUp    error // with which the last dial that was given up ended; nil if only because it was
}

// UnfinishedError says that a dial got no answer.
type UnfinishedError struct {
	For time.Duration
	Err error // how the dial was ended; while it goes on, what kept the one before it
}

func (e *UnfinishedError) Error() string {
	return fmt.Sprintf("connecting has not finished after %v", e.For.Round(time.Millisecond))
}

// Unwrap gives the error with which the dial was ended.
func (e *UnfinishedError) Unwrap() error { return e.Err }

// Connected says whether a dial has ever succeeded.
func (p *Pace) Connected() bool { return p.connected }

// Usual is how long the last successful dial took.
func (p *Pace) Usual() time.Duration { return time.Duration(p.usual) }

// Failing is when the first dial began of those that failed in a row; 0 if the last one succeeded.
func (p *Pace) Failing() int64 { return p.failing }

// NotBefore is when the next dial may begin.
func (p *Pace) NotBefore() int64 { return p.notBefore }

// Began notes that a dial begins while nothing is open.
func (p *Pace) Began(now int64) {
	if p.silent == 0 {
		p.silent = now
	}
}

// Open notes that something is open.
func (p *Pace) Open() { p.silent = 0 }

// Succeeded notes a dial that took so long.
func (p *Pace) Succeeded(took int64) {
	*p = Pace{connected: true, usual: took, err: p.err, erredAt: p.erredAt} // the error explains waits during which it came
}

// GaveUp notes a dial that was ended in favour of another, which may begin at once: it has waited for long enough. err
// is kept if it says more than that.
func (p *Pace) GaveUp(started int64, err error) {
	if errors.Is(err, context.Canceled) {
		err = nil
	}
	p.gaveUp = err
	if p.failures == 0 {
		p.failing = max(started, 1)
	}
	p.failures++
}

// Failed notes a dial that failed. If the server itself has answered, earlier failures do not count.
func (p *Pace) Failed(err error, started, now int64, answered bool) {
	p.GaveUp(started, nil)
	if answered {
		p.failures = 1
	}
	p.err, p.erredAt = err, now
	backoff := min(firstBackoff<<min(p.failures-1, 8), maxBackoff)
	backoff -= rand.N(backoff / 5) // many services must not come in step
	p.notBefore = max(p.notBefore, started+int64(backoff))
}

// OneByOne says whether only one dial may be in flight: the last one failed.
func (p *Pace) OneByOne() bool { return p.failures > 0 && p.connected }

// Window is how many dials may be in flight for so many waiters, the longest of whom has waited for longest, beside open
// connections that are held for hold at a time; 0 if that is not known.
func (p *Pace) Window(waiting int, longest int64, open int, hold int64) int {
	if p.OneByOne() {
		return 1
	}
	window := firstDials << min(max(longest, 0)/Step, 20)
	if hold > 0 && open > 0 {
		// Those that the open connections will not have served within a step.
		window = max(window, waiting-int(int64(open)*Step/hold))
	}
	return window
}

// Lost is the age from which on a dial may be lost, less where callers have so little patience that others have to be
// tried sooner, and more where dials are known to take longer. patience is 0 if it has no end.
func (p *Pace) Lost(patience time.Duration) int64 {
	if !p.connected {
		return math.MaxInt64 // it cannot tell lost from slow
	}
	lost := int64(lostAfter)
	if patience > 0 {
		lost = min(lost, max(int64(patience)/3, 2*int64(firstBackoff)))
	}
	return max(lost, 2*p.usual)
}

// Outage is when a server that does not answer counts as down; 0 if it answers, or never has.
func (p *Pace) Outage() int64 {
	if p.silent == 0 || !p.connected {
		return 0
	}
	return p.silent + outage
}

// Down is the error of a server that counts as down.
func (p *Pace) Down(oldest, now int64) error { return p.Trouble(oldest, p.silent, now) }

// Trouble is what a caller that has waited in vain since then is told about dials, of which the oldest in flight began at
// oldest, 0 for none; nil if there is nothing to tell.
func (p *Pace) Trouble(oldest, since, now int64) error {
	if p.err != nil && (p.erredAt >= since || p.failures > 0 && p.erredAt >= p.failing) {
		return p.err // while the caller waited, or nothing has succeeded since
	}
	for _, began := range [...]int64{p.silent, p.failing} { // before it, dials may have been given up for others
		if began != 0 && (oldest == 0 || began < oldest) {
			oldest = began
		}
	}
	if oldest != 0 {
		return &UnfinishedError{For: time.Duration(now - oldest), Err: p.gaveUp}
	}
	return nil
}
