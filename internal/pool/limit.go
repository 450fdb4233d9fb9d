package pool

import "slices"

// SetLimit changes the limit and how many resources are kept idle. Below the number that is open, idle ones are closed
// at once and those in use at their return; no waiter is dropped.
func (p *Pool[R]) SetLimit(limit, maxIdle int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.now()
	if limit > p.guard {
		// The guard grows first: never does the pool ask it for more than it admits.
		p.guard = limit
		p.cfg.Resize(limit)
	}
	p.limit, p.maxIdle = limit, maxIdle
	for _, s := range slices.Clone(p.slots) {
		if over := p.overLocked(); !over {
			break
		}
		if _, idle := p.idleSinceLocked(s); idle && p.seizeLocked(s) {
			p.slots = slices.DeleteFunc(p.slots, func(other *Slot[R]) bool { return other == s })
			go p.close(s) // ends with the resource's Close
		}
	}
	p.settleLocked(now)
}

// overLocked says whether an idle resource has to go.
func (p *Pool[R]) overLocked() bool {
	return len(p.slots) > p.limit || p.maxIdle < p.limit && p.idleLocked() > p.maxIdle
}

// Limit is the present limit, and MaxIdle how many resources are kept idle.
func (p *Pool[R]) Limit() (limit, maxIdle int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.limit, p.maxIdle
}

// Reset closes every resource that was opened before now instead of lending it again: idle ones at once, those in use at
// their return.
func (p *Pool[R]) Reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.retired.Store(p.era.Add(1))
	p.closeLater(p.recallLocked(func(Lease, *Client[R]) bool { return true }))
}
