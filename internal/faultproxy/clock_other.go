//go:build !linux

package faultproxy

import "time"

// clock sleeps as exactly as Go's timers do, for one goroutine.
type clock struct{}

// sleepUntil sleeps until t; false if done came first.
func (*clock) sleepUntil(t time.Time, done <-chan struct{}) bool { return sleepUntil(t, done) }

func (*clock) close() {}
