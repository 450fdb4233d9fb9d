package era

import (
	"sync/atomic"
	"time"
)

const (
	// together is how long after a break another one is of the same cause.
	together = int64(time.Second)

	// demotedPause is the least time between two retirements by Demoted.
	demotedPause = int64(10 * time.Second)
)

// Eras count breaks. Now and Retired take no lock; the owner's is held for the others. Times are of the owner's clock, and
// never 0.
type Eras struct {
	now, retired       atomic.Int64
	brokeAt, demotedAt int64
}

// Now is the present era.
func (e *Eras) Now() int64 { return e.now.Load() }

// Retired says whether what was opened in an era is not to be used any more.
func (e *Eras) Retired(opened int64) bool { return opened < e.retired.Load() }

// Retire ends the use of all that is open.
func (e *Eras) Retire() { e.retired.Store(e.now.Add(1)) }

// Broke notes a break, and says whether all that is open has to be retired: it is the second one within a second, or others
// were suspected already. If not, the others are suspect from now on.
func (e *Eras) Broke(suspected bool, at int64) (retire bool) {
	retire = suspected || e.brokeAt != 0 && at-e.brokeAt < together
	e.brokeAt = at
	if !retire {
		e.now.Add(1)
	}
	return retire
}

// Demoted notes that a server takes no writes any more, and says whether all that is open has to be retired.
func (e *Eras) Demoted(at int64) (retire bool) {
	retire = e.demotedAt == 0 || at-e.demotedAt >= demotedPause
	if retire {
		e.demotedAt = at
	}
	return retire
}
