package alarm

import "time"

// Alarm is a timer that is set again and again, guarded by its owner's lock.
type Alarm struct {
	timer *time.Timer
	at    int64 // the owner's clock; 0 while it is not set
}

// New makes an alarm that is not set. do has to call Rang.
func New(do func()) Alarm {
	a := Alarm{timer: time.AfterFunc(time.Hour, do)}
	a.timer.Stop()
	return a
}

// Set has the alarm ring at the given time, or sooner if it was set for then.
func (a *Alarm) Set(now, at int64) {
	if a.at == 0 || at < a.at {
		a.at = at
		a.timer.Reset(time.Duration(max(at-now, 0)))
	}
}

// Rang notes that the alarm has rung.
func (a *Alarm) Rang() { a.at = 0 }

// Stop ends the alarm. What it does may be under way.
func (a *Alarm) Stop() { a.timer.Stop() }
