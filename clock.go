package lifeguard

import (
	"sync/atomic"
	"time"
)

const (
	// quickGap is how close together two readings of a lease's clock have to be for the lease to count as quick. This is
	// about databases in the same process. A server on the same machine may answer in 12 µs, and must not count: setting
	// the timer of clockTick makes the runtime wake a second thread, after which each query takes several times as long.
	quickGap = int64(4 * time.Microsecond)

	// quickRun is how many such readings in a row it takes.
	quickRun = 16

	// quickRepeats is how often a quick lease then repeats one.
	quickRepeats = 255

	// quickTick is the most by which a reading can lag behind.
	quickTick = time.Millisecond
)

// leaseClock tells a holder the time. A checkout and an operation look at the clock twice, which on a database that
// answers in a fraction of a microsecond would be a good part of all that is done; a lease that is used that quickly
// repeats the last reading a few times. It belongs to the holder.
type leaseClock struct {
	ticks *atomic.Int64 // clockTick.count
	last  int64
	tick  int64 // ticks at that reading
	quick uint8 // readings in a row within quickGap
	spare uint8 // times that the last reading may still be repeated
}

// repeats says whether the last reading may be repeated, once more.
func (c *leaseClock) repeats() bool {
	if c.spare == 0 || c.tick != c.ticks.Load() {
		return false
	}
	c.spare--
	return true
}

// now is the pool clock, as the holder sees it.
func (l *lease) now() int64 {
	if l.clock.repeats() {
		return l.clock.last
	}
	return l.lookAtClock()
}

func (l *lease) lookAtClock() int64 {
	c, now := &l.clock, l.pool.now()
	switch {
	case now-c.last > quickGap:
		c.quick, c.spare = 0, 0
	case c.quick < quickRun:
		c.quick++
	case !l.timed:
		c.spare = quickRepeats
		c.tick = l.pool.tick.begin()
	}
	c.last = now
	return now
}

// clockTick ends the time for which readings may be repeated. Its timer runs only while there are quick leases.
type clockTick struct {
	count   atomic.Int64
	running atomic.Bool
	timer   *time.Timer
}

func newClockTick() *clockTick {
	t := &clockTick{}
	t.timer = time.AfterFunc(time.Hour, func() {
		t.running.Store(false)
		t.count.Add(1)
	})
	t.timer.Stop()
	return t
}

// begin gives a count that changes within quickTick.
func (t *clockTick) begin() int64 {
	count := t.count.Load()
	if t.running.CompareAndSwap(false, true) {
		t.timer.Reset(quickTick)
	}
	return count
}
