package activity

import "time"

// SetClock has the view tell by that clock how old an answer is. It is for before the first question.
func (v *View) SetClock(now func() time.Time) { v.now = now }
