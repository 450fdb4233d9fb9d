package pool

import (
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
	var old []*Slot[R]
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
		}
	}
	p.armUpkeepLocked(now)
	p.mu.Unlock()
	for _, s := range old {
		p.close(s)
	}
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
	if p.closed || p.cfg.MaxLifetime <= 0 && p.cfg.MaxIdleTime <= 0 {
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
		if p.cfg.MaxIdleTime > 0 && p.open > p.cfg.MinOpen {
			if !idle {
				since = now
			}
			sooner(max(since+int64(p.cfg.MaxIdleTime), now+int64(time.Millisecond)))
		}
	}
	if next != 0 {
		p.upkeep.setLocked(now, next)
	}
}
