package waitq

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func push(q *Queue[int], n int, since, deadline int64) *Waiter[int] {
	w := &Waiter[int]{Value: n, Since: since, Deadline: deadline}
	q.Push(w)
	return w
}

func values(q *Queue[int]) (all []int) {
	for w := range q.All() {
		all = append(all, w.Value)
	}
	return all
}

func TestOrder(t *testing.T) {
	var q Queue[int]
	assert.Nil(t, q.Next(0))
	for i := range 5 {
		push(&q, i, int64(i), 0)
	}
	assert.Equal(t, 0, q.Oldest().Value)
	for i := range 5 {
		assert.Equal(t, i, q.Next(10).Value)
	}
	assert.Nil(t, q.Next(10))
	assert.Zero(t, q.Len())
}

// A waiter that returns has the place that it would have had if it had never left.
func TestPushBack(t *testing.T) {
	for since, want := range map[int64][]int{0: {9, 1, 2, 3}, 1: {1, 9, 2, 3}, 2: {1, 2, 9, 3}, 3: {1, 2, 3, 9}, 7: {1, 2, 3, 9}} {
		var q Queue[int]
		for i := 1; i <= 3; i++ {
			push(&q, i, int64(i), 0)
		}
		q.PushBack(&Waiter[int]{Value: 9, Since: since})
		assert.Equal(t, want, values(&q), "since %d", since)
		assert.Equal(t, 4, q.Len())
	}
}

func TestRemoveWhileIterating(t *testing.T) {
	var q Queue[int]
	for i := range 6 {
		push(&q, i, 0, 0)
	}
	for w := range q.All() {
		if w.Value%2 == 0 {
			assert.True(t, q.Remove(w))
			assert.False(t, q.Remove(w))
		}
	}
	assert.Equal(t, []int{1, 3, 5}, values(&q))
}

const ms = int64(time.Millisecond)

// With a majority of heads that cannot be served in time the newest is served, and only as long as there is one.
func TestOverloadTurnsTheOrder(t *testing.T) {
	var q Queue[int]
	q.Observe(20 * ms)
	now := int64(time.Second)
	for i := range 40 {
		push(&q, i, now, now+10*ms) // nobody can be served in time
	}
	var served []int
	for range 6 {
		served = append(served, q.Next(now).Value)
	}
	assert.Equal(t, []int{0, 1, 2, 39, 38, 37}, served, "the fourth head decides")
	assert.True(t, q.NewestFirst())

	for w := range q.All() {
		w.Deadline = now + int64(time.Hour)
	}
	now += int64(window)
	assert.Equal(t, 3, q.Next(now).Value, "the window is over")
	assert.False(t, q.NewestFirst())
}

// One impatient waiter among patient ones changes nothing for the others.
func TestOneImpatientWaiter(t *testing.T) {
	var q Queue[int]
	q.Observe(20 * ms)
	now := int64(time.Second)
	for i := range 400 {
		deadline := int64(0)
		if i%3 == 0 {
			deadline = now // always late
		}
		push(&q, i, now, deadline)
	}
	for i := range 400 {
		require.Equal(t, i, q.Next(now).Value)
		now += ms
	}
}

func TestHold(t *testing.T) {
	var q Queue[int]
	assert.Zero(t, q.Hold())
	q.Observe(100)
	assert.EqualValues(t, 100, q.Hold())
	q.Observe(1 << 40)
	assert.LessOrEqual(t, q.Hold(), longHold/4, "one long hold")
	for range 100 {
		q.Observe(1000)
	}
	assert.InDelta(t, 1000, q.Hold(), 100)
}

// Whatever is done to it, the queue holds exactly the waiters that were pushed and neither served nor removed.
func TestRandom(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	var q Queue[int]
	var in []*Waiter[int]
	now := int64(0)
	for i := range 20_000 {
		now += r.Int64N(5 * ms)
		switch r.IntN(5) {
		case 0, 1:
			in = append(in, push(&q, i, now, now+r.Int64N(200*ms)))
		case 2:
			if w := q.Next(now); w != nil {
				at := slices.Index(in, w)
				require.GreaterOrEqual(t, at, 0)
				in = slices.Delete(in, at, at+1)
				if r.IntN(4) == 0 {
					q.PushBack(w)
					in = append(in, w)
				}
			}
		case 3:
			if len(in) > 0 {
				at := r.IntN(len(in))
				require.True(t, q.Remove(in[at]))
				in = slices.Delete(in, at, at+1)
			}
		case 4:
			q.Observe(r.Int64N(100 * ms))
		}
		require.Equal(t, len(in), q.Len())
	}
	n := 0
	last := int64(-1)
	for w := range q.All() {
		require.True(t, w.Queued())
		require.GreaterOrEqual(t, w.Since, last, "in the order of arrival")
		last = w.Since
		n++
	}
	assert.Equal(t, len(in), n)
}
