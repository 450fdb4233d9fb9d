package lifeguard

import (
	"runtime"
	"sync/atomic"
	"time"
)

// counters are those of Stats. A checkout is counted in its lease's state, and here when the lease ends.
type counters struct {
	acquired, waits, timeouts, canceled, opened, closed, hits, misses, slowQueries atomic.Uint64
	leaks, lostRows, reclaimed                                                     atomic.Uint64
	lostLater                                                                      atomic.Uint64 // lostRows of checkouts that were reported before
	waited                                                                         atomic.Int64
}

// moves brackets what takes counts from one place to another, so that Stats knows when it has read in the middle of that.
type moves struct{ begun, ended atomic.Uint64 }

func (m *moves) begin() { m.begun.Add(1) }
func (m *moves) end()   { m.ended.Add(1) }

// highest is the most that a counter was said to be.
type highest struct{ atomic.Uint64 }

// raise gives that, which v may be now.
func (h *highest) raise(v uint64) uint64 {
	for {
		old := h.Load()
		if v <= old || h.CompareAndSwap(old, v) {
			return max(v, old)
		}
	}
}

// Stats is a snapshot of a pool. The counters count since the pool was opened.
type Stats struct {
	Limit   int // connection_limit
	Open    int // physical connections: InUse + Idle
	InUse   int // checked out
	Idle    int // kept for the next checkout
	Waiting int // callers waiting for a connection

	Acquired        uint64        // checkouts
	Waits           uint64        // checkouts that had to wait, whatever came of it
	Timeouts        uint64        // waits that ended with ErrPoolTimeout
	Canceled        uint64        // waits that ended with the error of the caller's context
	Opened          uint64        // connections opened
	Closed          uint64        // connections closed
	Leaks           uint64        // connections reported as held too long
	LostRows        uint64        // rows dropped without Close, found by the garbage collector
	Reclaimed       uint64        // connections taken back from their holders
	SlowQueries     uint64        // operations of at least slow_query_threshold
	StatementHits   uint64        // operations that ran on a kept statement
	StatementMisses uint64        // operations that had to prepare one
	WaitDuration    time.Duration // sum of all waits
}

// maxLooks is how often Stats looks again because something moved. That takes well under a microsecond, unless who moves it
// is kept from his processor in the middle, and a look not much more.
const maxLooks = 100

// Stats takes no lock that a checkout or a return takes, so it may be called as often as one likes. Its figures are
// read one after another and can be apart by what happened meanwhile, but no counter ever counts down.
func (p *Pool) Stats() Stats {
	st := p.lookSteadily()
	st.Acquired = p.told.acquired.raise(st.Acquired)
	st.StatementHits = p.told.hits.raise(st.StatementHits)
	st.StatementMisses = p.told.misses.raise(st.StatementMisses)
	return st
}

// lookSteadily is look when nothing moves, or after many attempts one that may miss what does.
func (p *Pool) lookSteadily() Stats {
	for range maxLooks {
		ended := p.moves.ended.Load()
		if p.moves.begun.Load() == ended {
			if st := p.look(); p.moves.begun.Load() == ended {
				return st
			}
		}
		runtime.Gosched()
	}
	return p.look()
}

func (p *Pool) look() Stats {
	st := Stats{
		Limit:        int(p.limitNow.Load()),
		Waiting:      int(p.waiting.Load()),
		Acquired:     p.counters.acquired.Load(),
		Waits:        p.counters.waits.Load(),
		Timeouts:     p.counters.timeouts.Load(),
		Canceled:     p.counters.canceled.Load(),
		Opened:       p.counters.opened.Load(),
		Closed:       p.counters.closed.Load(),
		SlowQueries:  p.counters.slowQueries.Load(),
		Leaks:        p.counters.leaks.Load(),
		LostRows:     p.counters.lostRows.Load(),
		Reclaimed:    p.counters.reclaimed.Load(),
		WaitDuration: time.Duration(p.counters.waited.Load()),

		StatementHits:   p.counters.hits.Load(),
		StatementMisses: p.counters.misses.Load(),
	}
	for _, s := range *p.sessions.Load() {
		st.Open++
		st.StatementHits += s.hits.Load()
		st.StatementMisses += s.misses.Load()
		if l := s.lease.Load(); l != nil {
			counted := l.counted.Load() // first: it never overtakes the other
			st.Acquired += l.state.checkouts() - counted
		}
		if s.idle() {
			st.Idle++
		} else {
			st.InUse++
		}
	}
	return st
}
