package pool

import (
	"math"
	"slices"
	"time"
)

// maintain closes resources that are too old, or idle for too long, and opens those that MinOpen misses. It runs when
// the next is due and not before: an idle pool has nothing to do.
func (p *Pool[R]) maintain() {
	p.mu.Lock()
	now := p.now()
	p.upkeep.at = 0
	if p.closed {
		p.mu.Unlock()
		return
	}
	var old, ask []*Slot[R]
	surplus := p.open - p.cfg.MinOpen
	for _, s := range p.slots {
		since, idle := p.idleSinceLocked(s)
		due := s.expires != 0 && now >= s.expires
		if idle && !due && surplus > 0 && p.cfg.MaxIdleTime > 0 && now-since >= int64(p.cfg.MaxIdleTime) {
			due = true
		}
		if idle && due && p.seizeLocked(s) {
			surplus--
			old = append(old, s)
			if s.expires != 0 && now >= s.expires {
				p.counts.ExpiredClosed++
			} else {
				p.counts.IdleClosed++
			}
		}
		if idle && !due && p.keepaliveDue(s, since) <= now && p.seizeLocked(s) {
			s.idleAt, s.askedAt = since, now
			ask = append(ask, s)
		}
	}
	p.armUpkeepLocked(now)
	p.mu.Unlock()
	for _, s := range ask {
		go p.keepAlive(s) // ends with the ping, which has probeTime
	}
	for _, s := range old {
		p.close(s)
	}
}

// keepaliveDue is when an idle resource is to be pinged.
func (p *Pool[R]) keepaliveDue(s *Slot[R], since int64) int64 {
	if p.cfg.Keepalive <= 0 {
		return math.MaxInt64
	}
	return max(since, s.askedAt) + int64(p.cfg.Keepalive)
}

// keepAlive pings a resource that the caller owns, and puts it back as if it had lain idle meanwhile.
func (p *Pool[R]) keepAlive(s *Slot[R]) {
	ok := false
	defer func() { // also when the driver calls runtime.Goexit
		if !ok {
			s.Broke()
			p.close(s)
			return
		}
		s.Answered()
		p.mu.Lock()
		since := s.idleAt
		kept := p.keepLocked(s, p.now())
		if s.client == nil {
			s.idleAt = since // a ping is no use
		}
		p.mu.Unlock()
		if !kept {
			p.close(s)
		}
	}()
	ok = p.ping(s)
}

// idleSinceLocked says since when nobody has used a resource.
func (p *Pool[R]) idleSinceLocked(s *Slot[R]) (since int64, idle bool) {
	if s.lease != nil {
		return s.lease.Idle()
	}
	return s.idleAt, slices.Contains(p.idle, s)
}

// seizeLocked takes an idle resource, from the pool or from its lease; false if a caller was faster.
func (p *Pool[R]) seizeLocked(s *Slot[R]) bool {
	if s.lease != nil {
		if !s.lease.TakeIdle() {
			return false
		}
		p.returnLocked(s)
		return true
	}
	i := slices.Index(p.idle, s)
	if i < 0 {
		return false
	}
	p.idle = slices.Delete(p.idle, i, i+1)
	return true
}

// armUpkeepLocked sets the timer for the next resource that can be due. One that is in use by then is looked at again.
func (p *Pool[R]) armUpkeepLocked(now int64) {
	if p.closed || p.cfg.MaxLifetime <= 0 && p.cfg.MaxIdleTime <= 0 && p.cfg.Keepalive <= 0 {
		return
	}
	next := int64(0)
	sooner := func(at int64) {
		if next == 0 || at < next {
			next = at
		}
	}
	for _, s := range p.slots {
		since, idle := p.idleSinceLocked(s)
		if s.expires != 0 && (idle || now < s.expires) {
			sooner(s.expires)
		}
		if !idle {
			since = now
		}
		if due := p.keepaliveDue(s, since); due != math.MaxInt64 {
			sooner(max(due, now+int64(time.Millisecond)))
		}
		if p.cfg.MaxIdleTime > 0 && p.open > p.cfg.MinOpen {
			sooner(max(since+int64(p.cfg.MaxIdleTime), now+int64(time.Millisecond)))
		}
	}
	if next != 0 {
		p.upkeep.setLocked(now, next)
	}
}
