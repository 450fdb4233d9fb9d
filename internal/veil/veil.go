package veil

import (
	"errors"
	"sync/atomic"
	"time"

	"github.com/go-lifeguard/lifeguard/internal/callsite"
	"github.com/go-lifeguard/lifeguard/internal/observe"
)

// Library is one library. The zero value is one of which nothing is known. It is safe for concurrent use.
type Library struct {
	Asks       Flag // IsValid is called
	GoesOn     Flag // several operations run in one that database/sql knows
	Resets     Flag // ResetSession is called
	NoResetter Flag // ResetSession is not: a lease was used while it lay idle

	// IsValid is not called: a lease came back without it after one operation alone, of a kind, in a lease's first checkout
	// or a later one. Libraries do something of their own to a connection that they get, or that was in the handle.
	first, later [observe.Connect]Flag
}

// MayEnd says whether the end of an operation may be the end of a checkout, which nobody tells. What goes on may be
// another checkout, unless those are seen.
func (l *Library) MayEnd() bool { return !l.Asks.Seen() && (!l.GoesOn.Seen() || l.Resets.Seen()) }

// CameBack notes that a lease came back unseen after one operation.
func (l *Library) CameBack(kind observe.Kind, first bool) { l.hides(kind, first).See() }

// Ends says whether an operation that may end a checkout does.
func (l *Library) Ends(kind observe.Kind, first bool) bool {
	return l.hides(kind, first).Seen() && !l.GoesOn.Seen()
}

func (l *Library) hides(kind observe.Kind, first bool) *Flag {
	if first {
		return &l.first[kind]
	}
	return &l.later[kind]
}

// Rest is how long a lease stays its holder's after an operation that seems to be the last, while nobody has said so. A
// library that is known to go on may be held up, and would find the connection another caller's.
func (l *Library) Rest() time.Duration {
	if l.GoesOn.Seen() {
		return 250 * time.Millisecond
	}
	return 50 * time.Millisecond
}

// methods of sql.DB that are one operation of a kind. A Prepare is if it failed, or if nothing ran after it.
var methods = [observe.Connect][]string{
	observe.Exec: {"ExecContext"}, observe.Query: {"QueryContext"}, observe.Prepare: {"ExecContext", "QueryContext"},
	observe.Begin: {"BeginTx"}, observe.Commit: {"BeginTx"}, observe.Rollback: {"BeginTx"}, observe.Ping: {"PingContext"},
}

// Alone says whether the stack of a checkout proves that database/sql took the connection for one operation of this kind,
// or a transaction.
func Alone(pcs []uintptr, kind observe.Kind) bool { return callsite.OwnedByDB(pcs, methods[kind]...) }

// AloneForLast says whether an operation of this kind can be the last of what the connection was taken for: libraries ping by
// a query, and ask for warnings after a statement, but what they begin by a text goes on.
func AloneForLast(pcs []uintptr, kind observe.Kind) bool {
	if kind == observe.Begin || kind == observe.Commit || kind == observe.Rollback {
		return Alone(pcs, kind)
	}
	return callsite.OwnedByDB(pcs, "ExecContext", "QueryContext", "PingContext")
}

// AloneForAny is Alone where nothing is known of the operation.
func AloneForAny(pcs []uintptr) bool {
	return callsite.OwnedByDB(pcs, "ExecContext", "QueryContext", "BeginTx", "PingContext")
}

// Flag is something that was seen or not.
type Flag struct{ seen atomic.Bool }

func (f *Flag) Seen() bool { return f.seen.Load() }

// See notes it. It is called often, and writes once.
func (f *Flag) See() {
	if !f.seen.Load() {
		f.seen.Store(true)
	}
}

// ErrGoesOn is what a library is told that hides IsValid and runs a further operation after one that seemed to be the last.
// It is no driver.ErrBadConn, after which database/sql would repeat those before.
var ErrGoesOn = errors.New("lifeguard: a library between database/sql and lifeguard hides IsValid, and ran a further operation when its " +
	"caller's seemed to be over; by then the connection was given back. Nothing of it was sent. Write db.SetMaxIdleConns(-1)")
