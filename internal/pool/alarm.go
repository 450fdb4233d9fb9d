package pool

import "time"

// alarm is a timer that is set again and again, guarded by the pool's lock.
type alarm struct {
	*time.Timer
	at int64 // pool clock; 0 while it is not set
}

func newAlarm(do func()) alarm {
	a := alarm{Timer: time.AfterFunc(time.Hour, do)}
	a.Stop()
	return a
}

// setLocked has the alarm ring at the given time, or sooner if it was set for then.
func (a *alarm) setLocked(now, at int64) {
	if a.at == 0 || at < a.at {
		a.at = at
		a.Reset(time.Duration(max(at-now, 0)))
	}
}
