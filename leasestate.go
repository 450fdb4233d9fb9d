package lifeguard

import (
	"runtime"
	"sync/atomic"
)

// States of a lease. Whoever moves it out of leaseIdle, by compare-and-swap, owns the session from then on; out of the
// other states only the holder's goroutine moves it, except that leaseHeld and leaseBusy may turn into leaseLocked, and
// back, at any moment, and that the janitor may turn leaseHeld into leaseReclaimed, and owns the session from then on. A
// bare lease has none, and is moved by its handle alone.
const (
	leaseIdle      uint64 = iota // in the handle's free list
	leaseHeld                    // checked out
	leaseBusy                    // checked out, and an operation runs
	leaseLocked                  // checked out, and a report is reading lease.hold: for a few instructions
	leaseDoomed                  // checked out, but to be closed by the holder's goroutine at its next step
	leaseEnding                  // the handle was told that it is not valid, and is about to close it
	leaseGone                    // closed, or its session is just being taken from it
	leaseReclaimed               // taken back from its holder, who does not know yet
	leaseBare                    // in the handle's free list without a session, which it gets at the next checkout

	leaseStates   uint64 = 15  // mask
	leaseActivity uint64 = 16  // which of hold.activity is the present one
	leaseRaw      uint64 = 32  // the holder got the driver's connection, whose use cannot be seen: see Unwrap
	leaseTouched  uint64 = 64  // the holder did something since the janitor last looked
	leaseInTx     uint64 = 128 // the holder is in a transaction
	leaseReclaims uint64 = 256 // for good: the connection may be taken back from its holder
	leaseCheckout uint64 = 512 // the bits above count checkouts, which makes counting free
)

// leaseState is the state of a lease. It is one word, because each further atomic write would be felt: a checkout, an
// operation's begin and end, and a return are one each at the most, and about the only thing that lifeguard adds to an
// idle pool.
type leaseState struct{ word atomic.Uint64 }

func (s *leaseState) load() uint64      { return s.word.Load() & leaseStates }
func (s *leaseState) checkouts() uint64 { return s.word.Load() / leaseCheckout }
func (s *leaseState) inTx() bool        { return s.word.Load()&leaseInTx != 0 }

// quiet says whether the holder may go on, and nobody has to be told that he does.
func (s *leaseState) quiet() bool {
	return s.word.Load()&(leaseStates|leaseReclaims)-leaseHeld <= leaseLocked-leaseHeld
}

// try goes from one state to another if nothing is in the way, which is nearly always so. It is small enough to be
// inlined, move is not.
func (s *leaseState) try(from, to uint64) bool {
	word := s.word.Load()
	return word&leaseStates == from && s.word.CompareAndSwap(word, word-from+to)
}

// move goes from one state to another, waiting while the lease is locked; false if it is in neither of the two.
func (s *leaseState) move(from, to uint64) bool {
	for !s.try(from, to) {
		switch s.load() {
		case from: // changed back in this moment
		case leaseLocked:
			runtime.Gosched()
		default:
			return false
		}
	}
	return true
}

// lock keeps the holder from changing the lease while a report reads its hold, and returns what to give to unlock;
// false if it is not checked out.
func (s *leaseState) lock() (word uint64, ok bool) {
	for {
		word := s.word.Load()
		switch state := word & leaseStates; state {
		case leaseHeld, leaseBusy:
			if s.word.CompareAndSwap(word, word-state+leaseLocked) {
				return word, true
			}
		case leaseLocked:
			runtime.Gosched()
		default:
			return 0, false
		}
	}
}

func (s *leaseState) unlock(word uint64) { s.word.Store(word) }

// enter is move(leaseHeld, leaseBusy) by the holder, and tells the janitor that he is there.
func (s *leaseState) enter() bool {
	for {
		word := s.word.Load()
		switch word & leaseStates {
		case leaseHeld:
			if s.word.CompareAndSwap(word, (word-leaseHeld+leaseBusy)|leaseTouched) {
				return true
			}
		case leaseLocked:
			runtime.Gosched()
		default:
			return false
		}
	}
}
