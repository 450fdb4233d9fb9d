package pool

import (
	"time"

	"github.com/go-lifeguard/lifeguard/internal/account"
	"github.com/go-lifeguard/lifeguard/internal/histogram"
)

// Stats is the state of a pool at one moment.
type Stats = account.Stats

// Stats takes the pool's lock for as long as it takes to look at each slot.
func (p *Pool[R]) Stats() Stats {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.statsLocked()
}

func (p *Pool[R]) statsLocked() Stats {
	st := Stats{
		Counts: p.counts, Limit: p.limit, MaxIdle: p.maxIdle, Open: len(p.slots), Closing: p.open - len(p.slots),
		Dialling: len(p.dialling.inFlight), Missing: p.dialling.missing, Waiting: p.queue.Len(), NewestFirst: p.queue.NewestFirst(),
		Idle: p.idleLocked(),
	}
	st.InUse = st.Open - st.Idle
	if w := p.queue.Oldest(); w != nil {
		st.LongestWait = time.Duration(p.now() - w.Since)
	}
	return st
}

// maxPictured is how many waiters a picture shows, the longest first: the lock must not be held for thousands.
const maxPictured = 100

// Picture takes the pool's lock for as long as it takes to look at each slot, and at the waiters that it shows.
func (p *Pool[R]) Picture() account.Picture[R] {
	p.mu.Lock()
	defer p.mu.Unlock()
	pic := account.Picture[R]{Stats: p.statsLocked(), Slots: make([]account.Pictured[R], 0, len(p.slots))}
	for _, s := range p.slots {
		since, idle := s.idleSinceLocked()
		pic.Slots = append(pic.Slots, account.Pictured[R]{Resource: s.Resource, Serial: s.serial, Born: s.born, IdleAt: since, Lease: s.lease, Idle: idle})
	}
	for _, d := range p.dialling.inFlight {
		pic.Dials = append(pic.Dials, d.started)
	}
	for w := range p.queue.All() {
		if len(pic.Waiters) == maxPictured {
			break
		}
		pic.Waiters = append(pic.Waiters, account.Waiter{Since: w.Since, Deadline: w.Deadline, Lease: w.Value.lease})
	}
	return pic
}

// Waits is how long callers have waited, all waits that have ended. Stats are of the same moment.
func (p *Pool[R]) Waits() (Stats, histogram.Histogram) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.statsLocked(), p.waits
}
