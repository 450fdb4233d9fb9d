package pool

import (
	"context"
	"time"

	"github.com/go-lifeguard/lifeguard/internal/patience"
)

// probeTime is how long a resource that may be dead has for an answer. One that needs longer takes longer to find out
// about than to replace.
const probeTime = 2 * time.Second

// minPatience is more than a ping takes on a network that works.
const minPatience = 100 * time.Millisecond

// RestlessTime is how long a resource may lie idle that is used without a ping where there is time for one.
const RestlessTime = time.Second

// Restless says whether a resource has lain idle for longer than RestlessTime.
func (s *Slot[R]) Restless(now int64) bool { return now-s.idleAt > int64(RestlessTime) }

// Probe pings a resource that may be dead, and waits for the answer until ctx ends or the caller's patience is over; 0 is
// without an end. True: it answered. False: the slot is no longer the caller's. leave, which may be nil, is called with the
// pool's lock held when the caller leaves without an answer. The ping goes on for up to probeTime, and the slot is given back or
// closed by its outcome: a caller's impatience says nothing about a resource.
func (s *Slot[R]) Probe(ctx context.Context, impatience time.Duration, leave func()) bool {
	p, suspect := s.pool, s.Suspect()
	s.countProbe(1)
	ok, answered := patience.Question{
		Ask:   s.ping, // has probeTime
		Asked: func() { s.countProbe(-1) },
		Leave: func() {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.returnLocked(s)
			if leave != nil {
				leave()
			}
		},
		Late: func(ok bool) {
			if s.settleProbe(ok, suspect) {
				s.Release(0, 0)
			}
		},
	}.Await(ctx, impatience)
	return answered && s.settleProbe(ok, suspect)
}

func (s *Slot[R]) countProbe(n int) {
	s.pool.mu.Lock()
	defer s.pool.mu.Unlock()
	s.pool.probing += n
}

// settleProbe notes the outcome for the owner of the slot, and closes a resource that did not answer.
func (s *Slot[R]) settleProbe(ok, suspect bool) bool {
	if ok {
		s.Answered()
		s.probed = suspect
		return true
	}
	s.Broke(false)
	s.Discard()
	return false
}

// ping asks the resource within the pool's own limit.
func (s *Slot[R]) ping() bool {
	ctx, cancel := context.WithTimeout(s.pool.ctx, probeTime)
	defer cancel()
	return s.pool.cfg.Ping(ctx, s.Resource) == nil
}
