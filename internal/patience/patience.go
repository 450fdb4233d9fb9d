package patience

import (
	"context"
	"sync"
	"time"
)

// Question is what a caller wants to know.
type Question struct {
	Ask   func() bool
	Asked func()        // the question has ended, however it did; before the caller or Late learns of it
	Leave func()        // the caller leaves without an answer; Late follows, and not before Leave has returned
	Late  func(ok bool) // the answer came after the caller had left
}

// Await asks, and waits until the answer comes, ctx ends, or patience is over; 0 is without an end. A question that ends its
// goroutine has the answer false.
func (q Question) Await(ctx context.Context, patience time.Duration) (ok, answered bool) {
	var mu sync.Mutex
	left := false // guarded by mu
	done := make(chan bool, 1)
	go func() { // ends with the question
		answer := false
		defer func() { // also when the question calls runtime.Goexit
			q.Asked()
			mu.Lock()
			gone := left
			if !gone {
				done <- answer
			}
			mu.Unlock()
			if gone {
				q.Late(answer)
			}
		}()
		answer = q.Ask()
	}()
	var timeout <-chan time.Time
	if patience > 0 {
		timer := time.NewTimer(patience)
		defer timer.Stop()
		timeout = timer.C
	}
	select {
	case ok = <-done:
		return ok, true
	case <-ctx.Done():
	case <-timeout:
	}
	mu.Lock()
	defer mu.Unlock()
	select {
	case ok = <-done:
		return ok, true
	default:
	}
	left = true
	q.Leave()
	return false, false
}
