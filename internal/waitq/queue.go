package waitq

import (
	"iter"
	"time"
)

const (
	// window is how far back the queue looks to choose its order, and half of it the grain. Shorter, and a handful of
	// waiters would decide; longer, and a burst would be felt after its end.
	window = 100 * time.Millisecond

	// quorum is the fewest heads of the queue within the window that may change the order.
	quorum = 4

	// longHold is a hold, in nanoseconds, that counts in full however short the others were.
	longHold = int64(10 * time.Millisecond)
)

// A Waiter is one place in a queue. It may be used again once it has left the queue.
type Waiter[T any] struct {
	Value    T
	Since    int64 // when it arrived, in nanoseconds of the user's clock
	Deadline int64 // when it gives up; 0 for never

	prev, next *Waiter[T]
	queued     bool
}

// Queued says whether the waiter is in a queue.
func (w *Waiter[T]) Queued() bool { return w.queued }

// A Queue is not safe for concurrent use. The zero Queue is empty.
type Queue[T any] struct {
	head, tail *Waiter[T]
	len        int
	hold       int64 // moving average of how long the resource is held, in ns

	// Two halves of the window, used in turn: heads seen, and those that could not have been served in time.
	half        int64
	seen, late  [2]int
	newestFirst bool
}

// Len is the number of waiters.
func (q *Queue[T]) Len() int { return q.len }

// Oldest is the longest waiter, nil if there is none.
func (q *Queue[T]) Oldest() *Waiter[T] { return q.head }

// NewestFirst says whether the last waiter that was served was the newest.
func (q *Queue[T]) NewestFirst() bool { return q.newestFirst }

// Hold is how long the resource is usually held, in nanoseconds; 0 while that is not known.
func (q *Queue[T]) Hold() int64 { return q.hold }

// Observe tells the queue how long the resource was held, in nanoseconds.
func (q *Queue[T]) Observe(hold int64) {
	if q.hold == 0 {
		q.hold = hold
		return
	}
	// A transaction of minutes among queries of milliseconds must not pass for the usual case.
	q.hold += (min(hold, max(8*q.hold, longHold)) - q.hold) / 8
}

// Push appends a waiter.
func (q *Queue[T]) Push(w *Waiter[T]) {
	w.queued, w.prev, w.next = true, q.tail, nil
	if q.tail == nil {
		q.head = w
	} else {
		q.tail.next = w
	}
	q.tail = w
	q.len++
}

// PushBack returns a waiter to the place that its Since gives it. It has waited before, so few are ahead of it.
func (q *Queue[T]) PushBack(w *Waiter[T]) {
	next := q.head
	for next != nil && next.Since <= w.Since {
		next = next.next
	}
	if next == nil {
		q.Push(w)
		return
	}
	w.queued, w.prev, w.next = true, next.prev, next
	if next.prev == nil {
		q.head = w
	} else {
		next.prev.next = w
	}
	next.prev = w
	q.len++
}

// Remove takes a waiter out, and says whether it was in.
func (q *Queue[T]) Remove(w *Waiter[T]) bool {
	if !w.queued {
		return false
	}
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
	w.queued, w.prev, w.next = false, nil, nil
	q.len--
	return true
}

// Next takes out the waiter that is served now, nil if there is none.
func (q *Queue[T]) Next(now int64) *Waiter[T] {
	w := q.head
	if w == nil {
		return nil
	}
	q.judge(w, now)
	if q.newestFirst {
		w = q.tail
	}
	q.Remove(w)
	return w
}

// judge counts the head of the queue and chooses the order.
func (q *Queue[T]) judge(head *Waiter[T], now int64) {
	if half := now / int64(window/2); half != q.half {
		if half != q.half+1 {
			q.seen, q.late = [2]int{}, [2]int{}
		}
		q.half = half
		q.seen[half&1], q.late[half&1] = 0, 0
	}
	i := q.half & 1
	q.seen[i]++
	if head.Deadline != 0 && head.Deadline-now <= q.hold {
		q.late[i]++
	}
	seen, late := q.seen[0]+q.seen[1], q.late[0]+q.late[1]
	q.newestFirst = seen >= quorum && 2*late > seen
}

// All iterates over the waiters, longest first. The loop may remove the waiter that it is given.
func (q *Queue[T]) All() iter.Seq[*Waiter[T]] {
	return func(yield func(*Waiter[T]) bool) {
		for w := q.head; w != nil; {
			next := w.next
			if !yield(w) {
				return
			}
			w = next
		}
	}
}
