package pool

import (
	"cmp"
	"context"
	"slices"
	"time"
)

// Budget bounds what is open beside the limit, together with other pools. A dial begins with a token, which the resource
// keeps until it is closed. Take and Return are called with the pool's lock held, and do not wait. With a nil Budget
// there is always one.
type Budget[R any] struct {
	Take   func(missing int) (token int, ok bool) // one of so many; if not, Dial has to be called when there is one
	Return func(token int)
	Open   func(ctx context.Context, token int) (R, error) // in place of Config.Open

	pool   *Pool[R]
	owed   int   // guarded by pool.mu; of the resources that come back, how many are given up
	doomed []int // guarded by pool.mu; tokens whose resources are
	term   int64 // guarded by pool.mu; how long the others are open at least
}

// of makes it the pool's.
func (b *Budget[R]) of(p *Pool[R]) *Budget[R] {
	if b == nil {
		b = &Budget[R]{
			Take: func(int) (int, bool) { return 0, true }, Return: func(int) {},
			Open: func(ctx context.Context, _ int) (R, error) { return p.cfg.Open(ctx) },
		}
	}
	b.pool = p
	return b
}

// Dial begins the dials for which there are tokens, and says how many more would begin now, and whether callers need them:
// they wait, or get the error of an outage at once, whose end only a dial can show.
func (b *Budget[R]) Dial() (missing int, urgent bool) {
	p := b.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	p.dialling.dialLocked(p.now())
	return p.dialling.missing, p.queue.Len() > 0 || p.dialling.down != nil
}

// Yield has the pool give resources up: firm ones, those that are idle first and then those that come back; besides,
// rested ones beyond MinOpen that have been idle for rest, the longest first; and those of the tokens doomed. One that
// is used stays open for term. It replaces what an earlier call said. Those that are just closing count.
func (b *Budget[R]) Yield(firm, rested int, rest, term time.Duration, doomed []int) {
	p := b.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	closing := p.open - len(p.slots)
	rested = min(rested, firm+rested-closing)
	b.owed, b.doomed, b.term = max(firm-closing, 0), doomed, int64(term)
	p.updateWantedLocked() // before the look: see Pool.wanted
	now, oldest := p.now(), slices.Clone(p.slots)
	idleAt := func(s *Slot[R]) int64 { since, _ := s.idleSinceLocked(); return since }
	slices.SortStableFunc(oldest, func(a, b *Slot[R]) int { return cmp.Compare(idleAt(a), idleAt(b)) })
	for _, s := range oldest {
		since, idle := s.idleSinceLocked()
		condemned := slices.Contains(doomed, s.token)
		surplus := rested > 0 && len(p.slots) > p.cfg.MinOpen && now-since >= int64(rest)
		if !idle || !condemned && b.owed == 0 && !surplus || !s.seizeLocked() {
			continue
		}
		switch {
		case condemned:
		case b.owed > 0:
			b.owed--
		default:
			rested--
		}
		p.dropLocked(s)
		go p.close(s) // ends with the resource's Close
	}
	p.updateWantedLocked()
}

// owesLocked says whether a resource has to be given up. One that nobody has used must not have been opened in vain.
func (b *Budget[R]) owesLocked(s *Slot[R]) bool {
	switch {
	case slices.Contains(b.doomed, s.token):
	case b.owed > 0 && s.used && b.pool.now()-s.born >= b.term:
		b.owed--
	default:
		return false
	}
	b.pool.dropLocked(s)
	return true
}
