package pool

import "time"

// alarm is a timer that is set again and again, guarded by the pool's lock.
type alarm struct {
	do    func()
	timer *time.Timer
	at    int64 // pool clock; 0 while it is not set
}

// setLocked has the alarm ring at the given time, or sooner if it was set for then.
func (a *alarm) setLocked(now, at int64) {
	if a.at != 0 && a.at <= at {
		return
	}
	a.at = at
	d := time.Duration(max(at-now, 0))
	if a.timer == nil {
		a.timer = time.AfterFunc(d, a.do)
		return
	}
	a.timer.Reset(d)
}

func (a *alarm) stopLocked() {
	if a.timer != nil {
		a.timer.Stop()
	}
}
