package pool

import (
	"cmp"
	"slices"
)

// A Slot is the right to one open resource. It has one owner at a time: the pool, while the resource is idle there; a
// client, from Acquire to Release or Discard; or whoever took it from an idle lease. Methods are for the owner.
type Slot[R any] struct {
	Resource R

	pool    *Pool[R]
	opened  int64 // era in which it was opened
	expires int64 // pool clock; 0 for never

	// Guarded by pool.mu.
	client  *Client[R] // nil while the pool owns the slot
	lease   Lease      // the client's; nil while the pool owns the slot
	askedAt int64      // pool clock; when it was last pinged while idle

	// The owner's.
	idleAt   int64 // pool clock; when it was last used, or returned; written under pool.mu
	answered int64 // era in which the resource last answered
	probed   bool  // it was pinged because others broke, and has done nothing since
	broken   bool
	used     bool // it was lent before

	// Fixed, and last: what each checkout reads stands together.
	serial uint64 // 1 for the first that the pool opened
	born   int64  // pool clock; when it was opened
	token  int    // of the budget
}

// Lease is what the pool knows of a lease: whether it lies idle in its handle. The pool asks with its lock held.
type Lease interface {
	// Idle says since when the lease has lain idle on the pool clock; false if a caller has it.
	Idle() (since int64, ok bool)
	// TakeIdle takes the slot from an idle lease that was last used then. True: the caller of TakeIdle owns the slot.
	TakeIdle() (used int64, ok bool)
}

// Used says whether the resource was lent to an earlier caller, so that it must be reset before the next.
func (s *Slot[R]) Used() bool { return s.used }

// Answered notes that the resource has just answered.
func (s *Slot[R]) Answered() { s.answered, s.probed = s.pool.eras.Now(), false }

// Suspect says whether the resource may be dead: another broke since this one last answered.
func (s *Slot[R]) Suspect() bool { return s.answered != s.pool.eras.Now() }

// Spoil has the resource closed at its return.
func (s *Slot[R]) Spoil() { s.broken = true }

// Over says whether the resource has expired or is retired, whatever its owner thinks of it. Anybody may ask.
func (s *Slot[R]) Over(now int64) bool {
	return s.expires != 0 && now >= s.expires || s.pool.eras.Retired(s.opened)
}

// Fit says whether the resource may be lent once more: it is neither spoiled nor over.
func (s *Slot[R]) Fit(now int64) bool { return !s.broken && !s.Over(now) }

// Broke notes that the resource broke, so that others may have broken with it; not if a context ended on it. After a second
// break within a second, or one of a resource that was pinged because others broke, every resource opened before is retired:
// database/sql makes three attempts, and the third has to find a new connection as it would on the plain driver.
func (s *Slot[R]) Broke(ended bool) {
	before, p := s.broken, s.pool
	if s.broken = true; before || ended {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.eras.Retired(s.opened) && p.eras.Broke(s.probed, p.now()) { // else others said so before
		p.retireLocked()
	}
}

// Release returns the slot after it was held for hold nanoseconds, 0 if nothing was done with it. since is when it was
// last used, 0 for just now. The slot goes to the next waiter, to the idle list, or is closed; then Release returns when
// it is closed.
func (s *Slot[R]) Release(hold, since int64) {
	p := s.pool
	now := p.now()
	p.mu.Lock()
	p.returnLocked(s)
	s.idleAt = cmp.Or(since, now)
	if hold > 0 {
		p.queue.Observe(hold)
	}
	kept := p.keepLocked(s, now)
	p.mu.Unlock()
	if !kept {
		p.close(s)
	}
}

// Discard returns the slot and closes the resource. It returns when that is done.
func (s *Slot[R]) Discard() {
	p := s.pool
	p.mu.Lock()
	p.returnLocked(s)
	p.mu.Unlock()
	p.close(s)
}

// Demoted notes that the server behind the resource takes no writes any more. The resource is closed at its return, and
// the older ones are not lent again: new ones may reach another server.
func (s *Slot[R]) Demoted() {
	s.broken = true
	p := s.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.eras.Retired(s.opened) && p.eras.Demoted(p.now()) {
		p.retireLocked()
	}
}

// idleSinceLocked says since when nobody has used the resource.
func (s *Slot[R]) idleSinceLocked() (since int64, idle bool) {
	if s.lease != nil {
		return s.lease.Idle()
	}
	return s.idleAt, slices.Contains(s.pool.idle, s)
}

// takeFromLeaseLocked takes the slot of an idle lease; false if there is none.
func (s *Slot[R]) takeFromLeaseLocked() bool {
	if s.lease == nil {
		return false
	}
	since, ok := s.lease.TakeIdle()
	if ok {
		s.pool.returnLocked(s)
		s.idleAt = since
	}
	return ok
}

// seizeLocked takes an idle resource, from the pool or from its lease; false if a caller was faster.
func (s *Slot[R]) seizeLocked() bool {
	p := s.pool
	if s.lease != nil {
		return s.takeFromLeaseLocked()
	}
	before := len(p.idle)
	p.idle = slices.DeleteFunc(p.idle, func(other *Slot[R]) bool { return other == s })
	return len(p.idle) < before
}
