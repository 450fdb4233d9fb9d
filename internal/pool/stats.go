package pool

import "time"

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
	Waiting        int
	LongestWait    time.Duration
	NewestFirst    bool // the order in force
}

// Stats takes the pool's lock for as long as it takes to look at each slot.
func (p *Pool[R]) Stats() Stats {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.statsLocked()
}

func (p *Pool[R]) statsLocked() Stats {
	st := Stats{
		Counts: p.counts, Limit: p.limit, MaxIdle: p.maxIdle, Open: len(p.slots), Closing: p.open - len(p.slots),
		Dialling: len(p.dialling.inFlight), Waiting: p.queue.Len(), NewestFirst: p.queue.NewestFirst(),
		Idle: p.idleLocked(),
	}
	st.InUse = st.Open - st.Idle
	if w := p.queue.Oldest(); w != nil {
		st.LongestWait = time.Duration(p.now() - w.Since)
	}
	return st
}
