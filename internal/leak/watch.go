package leak

import (
	"slices"
	"time"
)

// watch is what the janitor knows about a checkout that is due or was reported. It ends with the checkout.
type watch struct {
	checkout  uint64
	leakAt    int64 // age at which the next report of a leak is due
	runningAt int64 // age at which the next report of a running operation is due
	ran       bool  // an operation was running when a report was due
	lost      int   // the latest operation whose rows were lost; 0: none
	leaked    bool  // it was reported as a leak
	last      Report
}

// watch begins to watch a checkout. One that the lease had before has ended meanwhile.
func (j *Janitor) watch(l Lease, h *Hold, now int64) *watch {
	w := j.watches[l]
	if w != nil && w.checkout == h.Checkout {
		return w
	}
	if w != nil {
		j.ended(l, w, now)
	}
	w = &watch{checkout: h.Checkout, leakAt: int64(j.cfg.Threshold), runningAt: int64(j.cfg.Threshold)}
	j.watches[l] = w
	return w
}

// scan looks at every hold.
func (j *Janitor) scan(now int64) {
	for l, w := range j.watches {
		if h, ok := l.Hold(); !ok || h.Checkout != w.checkout {
			j.ended(l, w, now)
		}
	}
	for _, l := range slices.Collect(j.cfg.Leases) { // a copy: nothing is done under a lock of the pool
		if h, ok := l.Hold(); ok && (j.watches[l] != nil || now-h.Since >= int64(j.cfg.Threshold)) {
			j.judge(l, j.watch(l, &h, now), h, now)
		}
	}
}

// judge decides what is to be done about a hold.
func (j *Janitor) judge(l Lease, w *watch, h Hold, now int64) {
	age := now - h.Since
	due := age >= w.leakAt
	switch {
	case h.Running: // slow, not forgotten
		w.ran = w.ran || due
		if age >= w.runningAt && now-h.Began >= j.tick { // an operation that has just begun is not slow
			w.runningAt = doubled(w.runningAt, age)
			j.reports = append(j.reports, Report{Hold: h, Held: time.Duration(age), StillRunning: true})
		}
	case w.leaked && j.cfg.ReclaimAfter > 0 && !h.Raw && h.quiet(now) >= int64(j.cfg.ReclaimAfter) &&
		l.Reclaim(h.Checkout, h.Operations):
		j.took(l, Report{Hold: h, Held: time.Duration(age), Kind: w.last.Kind})
	case !due:
	case w.ran:
		w.ran = false // a slow operation has just ended: its holder gets the time of a look to go on
	default:
		w.leakAt = doubled(w.leakAt, age)
		if !w.leaked {
			j.leaks.Add(1)
		}
		j.leaked(l, w, Report{Hold: h, Held: time.Duration(age), Kind: w.last.Kind, First: !w.leaked, Again: w.leaked})
	}
}

// leaked reports a leak that stays in its holder's hands.
func (j *Janitor) leaked(l Lease, w *watch, r Report) {
	l.MarkLeaked(w.checkout)
	r.Leaked = true
	w.leaked, w.last = true, r
	j.reports = append(j.reports, r)
}

// took reports a connection that was taken back, which ends its checkout.
func (j *Janitor) took(l Lease, r Report) {
	delete(j.watches, l)
	j.reclaimed.Add(1)
	r.Leaked, r.Reclaimed = true, true
	j.reports = append(j.reports, r)
}

// ended forgets a checkout that is over, and says so if it was reported as a leak.
func (j *Janitor) ended(l Lease, w *watch, now int64) {
	delete(j.watches, l)
	if r := w.last; w.leaked {
		j.reports = append(j.reports, Report{Hold: r.Hold, Held: time.Duration(now - r.Since), Kind: r.Kind, Returned: true})
	}
}

// doubled is the first of period, twice period, four times period and so on that is beyond age.
func doubled(period, age int64) int64 {
	for period <= age {
		period *= 2
	}
	return period
}
