package pool

import (
	"context"
	"time"
)

// probeTime is how long a resource that may be dead has for an answer. One that needs longer takes longer to find out
// about than to replace.
const probeTime = 2 * time.Second

// minPatience is more than a ping takes on a network that works.
const minPatience = 100 * time.Millisecond

// Restless says whether a resource has lain idle for so long, over a second, that it is pinged before use where there is
// time for it.
func (s *Slot[R]) Restless(now int64) bool { return now-s.idleAt > int64(time.Second) }

// Probe pings a resource that may be dead, and waits for the answer until ctx ends or patience is over; 0 is without an
// end. True: it answered. False: the slot is no longer the caller's. The ping goes on without the caller for up to
// probeTime, and the slot is given back or closed by its outcome: a caller's impatience says nothing about a resource.
func (s *Slot[R]) Probe(ctx context.Context, patience time.Duration) bool {
	p := s.pool
	suspect := s.Suspect()
	done := make(chan bool, 1)
	left := false // guarded by p.mu: the caller has gone
	answered := false
	p.mu.Lock()
	p.probing++
	p.mu.Unlock()
	end := func() {
		p.mu.Lock()
		p.probing--
		if !left {
			done <- answered
			p.mu.Unlock()
			return
		}
		p.mu.Unlock()
		if s.settleProbe(answered, suspect) {
			s.Release(0)
		}
	}
	go func() { // ends with the ping, which has probeTime
		defer end() // also when the driver calls runtime.Goexit
		answered = s.ping()
	}()
	var timeout <-chan time.Time
	if patience > 0 {
		timer := time.NewTimer(patience)
		defer timer.Stop()
		timeout = timer.C
	}
	select {
	case ok := <-done:
		return s.settleProbe(ok, suspect)
	case <-ctx.Done():
	case <-timeout:
	}
	p.mu.Lock()
	select {
	case ok := <-done:
		p.mu.Unlock()
		return s.settleProbe(ok, suspect)
	default:
	}
	left = true
	p.returnLocked(s)
	p.mu.Unlock()
	return false
}

// settleProbe notes the outcome for the owner of the slot, and closes a resource that did not answer.
func (s *Slot[R]) settleProbe(ok, suspect bool) bool {
	if ok {
		s.Answered()
		s.probed = suspect
		return true
	}
	s.Broke()
	s.Discard()
	return false
}

// ping asks the resource within the pool's own limit.
func (s *Slot[R]) ping() bool {
	ctx, cancel := context.WithTimeout(s.pool.ctx, probeTime)
	defer cancel()
	return s.pool.cfg.Ping(ctx, s.Resource) == nil
}
