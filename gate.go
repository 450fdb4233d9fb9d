package lifeguard

import (
	"context"
	"math"
	"time"
)

// newestFirstFor is how long the queue goes on serving the newest waiter first after it last saw a waiter who could
// not be served in time. The longer it is, the later the order returns to first come, first served after a burst;
// a tenth of a second is a few dozen queries, and shorter than any deadline people set.
const newestFirstFor = 100 * time.Millisecond

// waiter is a caller in the queue. It is used again and again.
type waiter struct {
	prev, next *waiter
	queued     bool
	ticket     uint64 // the lower, the earlier it came
	handle     *connector
	ctx        context.Context
	since      int64       // pool clock; when it came
	deadline   int64       // pool clock; the sooner of pool_timeout and ctx's deadline, 0 if there is neither
	timer      *time.Timer // nil until the first pool_timeout; stopped while nobody waits
	ready      chan grant  // of capacity one: whoever takes a waiter out of the queue sends to it exactly once
}

// grant is what a waiter waits for: a session, or the reason why there will be none.
type grant struct {
	session *session
	err     error
}

// queue is who waits for a connection, longest first. All of it is guarded by Pool.mu.
//
// It is served in order while everybody can be served in time. Once there is more work than connections, that order is
// the worst of all: each waiter is served at the very end of its patience and cancelled in the middle of its query,
// so that the pool works for nobody. The queue notices by its longest waiter: if the time left to it is no longer
// than a connection is usually held, the newest waiter is served first for a while, and those who cannot be served in
// time anyway are the ones who time out.
type queue struct {
	head, tail  *waiter
	len         int
	tickets     uint64 // the last one given
	lastWait    int64  // of the last that was served, in nanoseconds
	holds       holdEstimate
	newestUntil int64 // pool clock; until then the newest waiter is served first
}

func (q *queue) push(w *waiter) {
	q.tickets++
	q.insert(w, q.tail, q.tickets)
}

// pushBack puts a waiter into the place that it had before.
func (q *queue) pushBack(w *waiter, ticket uint64) {
	// It has waited already, so few are before it.
	var before *waiter
	for next := q.head; next != nil && next.ticket < ticket; next = next.next {
		before = next
	}
	q.insert(w, before, ticket)
}

// insert puts w behind before, nil for the first place.
func (q *queue) insert(w, before *waiter, ticket uint64) {
	w.ticket, w.queued, w.prev = ticket, true, before
	if before == nil {
		w.next, q.head = q.head, w
	} else {
		w.next, before.next = before.next, w
	}
	if w.next == nil {
		q.tail = w
	} else {
		w.next.prev = w
	}
	q.len++
}

// wait is how long somebody has to expect to wait who comes now, in nanoseconds; more than anybody waits where the newest
// is served first, as he may be served at once or never.
func (q *queue) wait(now int64, connections int) int64 {
	switch {
	case now < q.newestUntil:
		return math.MaxInt64
	case q.len == 0:
		return q.holds.mean / int64(connections)
	}
	// Between two holds there is more than a hold: see by the last one how long it takes.
	return max(int64(q.len+1)*q.holds.mean/int64(connections), q.lastWait)
}

func (q *queue) remove(w *waiter) {
	if w.prev == nil {
		q.head = w.next
	} else {
		w.prev.next = w.next
	}
	if w.next == nil {
		q.tail = w.prev
	} else {
		w.next.prev = w.prev
	}
	w.prev, w.next, w.queued = nil, nil, false
	q.len--
}

// next takes the waiter out of the queue whose turn it is, nil if nobody waits. Waiters whose context is over are told
// so on the way: a connection is never handed to somebody who has left.
func (q *queue) next(now int64) *waiter {
	for q.head != nil {
		w := q.head
		if w.deadline != 0 && w.deadline-now <= q.holds.expected() {
			q.newestUntil = now + int64(newestFirstFor)
		}
		if now < q.newestUntil {
			w = q.tail
		}
		q.remove(w)
		if err := w.ctx.Err(); err != nil {
			w.ready <- grant{err: err}
			continue
		}
		q.lastWait = now - w.since
		return w
	}
	return nil
}

// fail tells every waiter for whom match is true that there will be no connection.
func (q *queue) fail(err error, match func(*waiter) bool) {
	for w := q.head; w != nil; {
		next := w.next
		if match(w) {
			q.remove(w)
			w.ready <- grant{err: err}
		}
		w = next
	}
}

// holdEstimate follows how long connections are held, as TCP follows round trips (RFC 6298): a smoothed mean and a
// smoothed deviation, in nanoseconds.
type holdEstimate struct{ mean, deviation int64 }

func (e *holdEstimate) observe(held int64) {
	if e.mean == 0 {
		e.mean, e.deviation = held, held/2
		return
	}
	// A single transaction of minutes among queries of milliseconds must not pass for the usual case.
	held = min(held, 4*e.expected())
	diff := held - e.mean
	e.mean += diff / 8
	e.deviation += (max(diff, -diff) - e.deviation) / 4
}

// expected is how long a connection is held in all but rare cases.
func (e *holdEstimate) expected() int64 { return e.mean + 2*e.deviation }
