package faultproxy

import (
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// nearly is how far ahead of its time a Go timer is asked to wake a clock: an idle process waits for its timers in whole
// milliseconds.
const nearly = 3 * time.Millisecond

// wakeup is about what it takes an idle processor to run a goroutine again at the least. The kernel's timer is set that
// much earlier, and what is left is spent waiting.
const wakeup = 25 * time.Microsecond

// clock sleeps to within a few dozen microseconds, for one goroutine. It waits for a timer of the kernel, as for any
// other file: sleeping in a system call would take a processor away from the program that is tested.
type clock struct{ timer *os.File }

// sleepUntil sleeps until t; false if done came first.
func (c *clock) sleepUntil(t time.Time, done <-chan struct{}) bool {
	if time.Until(t) > nearly && !sleepUntil(t.Add(-nearly), done) {
		return false
	}
	wait := time.Until(t) - wakeup
	if wait <= 0 {
		spinUntil(t)
		return true
	}
	if c.timer == nil && !c.open() {
		return sleepUntil(t, done)
	}
	raw, err := c.timer.SyscallConn()
	if err != nil {
		return sleepUntil(t, done)
	}
	spec := unix.ItimerSpec{Value: unix.NsecToTimespec(int64(wait))}
	var set error
	err = raw.Control(func(fd uintptr) { set = unix.TimerfdSettime(int(fd), 0, &spec, nil) })
	if err != nil || set != nil {
		return sleepUntil(t, done)
	}
	var expirations [8]byte
	if _, err := c.timer.Read(expirations[:]); err != nil {
		return sleepUntil(t, done)
	}
	spinUntil(t)
	return true
}

func spinUntil(t time.Time) {
	for time.Now().Before(t) {
	}
}

func (c *clock) open() bool {
	fd, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC)
	if err != nil {
		return false // out of descriptors, say: less exact is better than not at all
	}
	c.timer = os.NewFile(uintptr(fd), "timerfd")
	return true
}

func (c *clock) close() {
	if c.timer != nil {
		c.timer.Close()
	}
}
