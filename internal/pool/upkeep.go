package pool

import (
	"math"
	"time"

	"github.com/go-lifeguard/lifeguard/internal/alarm"
)

// upkeep is the pool's one maintenance timer: lifetimes, idle times and keepalives.
type upkeep[R any] struct {
	alarm alarm.Alarm
	pool  *Pool[R]
}

// maintain closes resources that are too old, or idle for too long, and opens those that MinOpen misses. It runs when
// the next is due and not before: an idle pool has nothing to do.
func (u *upkeep[R]) maintain() {
	p := u.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.now()
	u.alarm.Rang()
	if p.closed {
		return
	}
	surplus := p.open - p.cfg.MinOpen
	for _, s := range p.slots {
		since, idle := s.idleSinceLocked()
		due := s.expires != 0 && now >= s.expires
		if idle && !due && surplus > 0 && p.cfg.MaxIdleTime > 0 && now-since >= int64(p.cfg.MaxIdleTime) {
			due = true
		}
		if idle && due && s.seizeLocked() {
			surplus--
			go p.close(s) // ends with the resource's Close
			if s.expires != 0 && now >= s.expires {
				p.counts.ExpiredClosed++
			} else {
				p.counts.IdleClosed++
			}
		}
		if idle && !due && u.keepaliveDue(s, since) <= now && s.seizeLocked() {
			s.askedAt = now
			go u.keepAlive(s) // ends with the ping, which has probeTime
		}
	}
	u.armLocked(now)
}

// keepaliveDue is when an idle resource is to be pinged.
func (u *upkeep[R]) keepaliveDue(s *Slot[R], since int64) int64 {
	every := int64(u.pool.cfg.Keepalive)
	if every <= 0 {
		return math.MaxInt64
	}
	return max(since, s.askedAt) + every
}

// keepAlive pings a resource that the caller owns, and puts it back as if it had lain idle meanwhile: a ping is no use.
func (u *upkeep[R]) keepAlive(s *Slot[R]) {
	p := u.pool
	ok := false
	defer func() { // also when the driver calls runtime.Goexit
		if !s.settleProbe(ok, false) {
			return
		}
		p.mu.Lock()
		kept := p.keepLocked(s, p.now())
		p.mu.Unlock()
		if !kept {
			p.close(s)
		}
	}()
	ok = s.ping()
}

// armLocked sets the timer for the next resource that can be due. One that is in use by then is looked at again.
func (u *upkeep[R]) armLocked(now int64) {
	p := u.pool
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
		since, idle := s.idleSinceLocked()
		if s.expires != 0 && (idle || now < s.expires) {
			sooner(s.expires)
		}
		if !idle {
			since = now
		}
		if due := u.keepaliveDue(s, since); due != math.MaxInt64 {
			sooner(max(due, now+int64(time.Millisecond)))
		}
		if p.cfg.MaxIdleTime > 0 && p.open > p.cfg.MinOpen {
			sooner(max(since+int64(p.cfg.MaxIdleTime), now+int64(time.Millisecond)))
		}
	}
	if next != 0 {
		u.alarm.Set(now, next)
	}
}
