package veil

import (
	"errors"
	"sync/atomic"
	"time"
)

// Library is one library. The zero value is one of which nothing is known. It is safe for concurrent use.
type Library struct {
	Asks       Flag     // IsValid is called
	Hides      [16]Flag // IsValid is not: a lease came back without it, after one operation of a kind alone
	GoesOn     Flag     // several operations run in one that database/sql knows
	Resets     Flag     // ResetSession is called
	NoResetter Flag     // ResetSession is not: a lease was used while it lay idle
}

// MayEnd says whether the end of an operation may be the end of a checkout, which nobody tells. What goes on may be
// another checkout, unless those are seen.
func (l *Library) MayEnd() bool { return !l.Asks.Seen() && (!l.GoesOn.Seen() || l.Resets.Seen()) }

// Ends says whether an operation that may end a checkout does, given its kind.
func (l *Library) Ends(kind int) bool { return l.Hides[kind].Seen() && !l.GoesOn.Seen() }

// Flag is something that was seen or not.
type Flag struct{ seen atomic.Bool }

func (f *Flag) Seen() bool { return f.seen.Load() }

// See notes it. It is called often, and writes once.
func (f *Flag) See() {
	if !f.seen.Load() {
		f.seen.Store(true)
	}
}

// Rest is how long a lease stays its holder's after an operation that seems to be the last, while nobody has said so.
const Rest = 50 * time.Millisecond

// ErrGoesOn is what a library is told that hides IsValid and runs a further operation after one that seemed to be the last.
// It is no driver.ErrBadConn, after which database/sql would repeat those before.
var ErrGoesOn = errors.New("lifeguard: a library between database/sql and lifeguard hides IsValid, and ran a further operation when its " +
	"caller's seemed to be over; by then the connection was given back. Nothing of it was sent. Write db.SetMaxIdleConns(-1)")
