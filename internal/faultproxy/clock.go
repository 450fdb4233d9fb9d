package faultproxy

import "time"

// sleepUntil sleeps to within the millisecond that Go's timers are exact to; false if done came first.
func sleepUntil(t time.Time, done <-chan struct{}) bool {
	wait := time.Until(t)
	if wait <= 0 {
		return true
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-done:
		return false
	}
}
