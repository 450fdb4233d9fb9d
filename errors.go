package lifeguard

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-lifeguard/lifeguard/internal/assembly"
	"github.com/go-lifeguard/lifeguard/internal/fleet"
	"github.com/go-lifeguard/lifeguard/internal/handle"
	"github.com/go-lifeguard/lifeguard/internal/leak"
	"github.com/go-lifeguard/lifeguard/internal/libpq"
	"github.com/go-lifeguard/lifeguard/internal/pool"
	"github.com/go-lifeguard/lifeguard/internal/session"
)

// Errors that a caller may want to tell apart with [errors.Is].
var (
	// ErrPoolTimeout matches every [*PoolTimeoutError]: a wait for a connection ended in vain, by pool_timeout or by the
	// deadline of the caller's context.
	ErrPoolTimeout = errors.New("lifeguard: no connection within pool_timeout")

	// ErrPoolClosed is the answer of a pool that is closed or shutting down, also to callers that wait already.
	ErrPoolClosed = pool.ErrClosed

	// ErrReclaimed is returned by every use of a connection that was taken back from its holder, by leak_reclaim_after or
	// because its rows were dropped.
	ErrReclaimed = handle.ErrReclaimed

	// ErrTooManyWaiting is returned at once to a caller that would wait while max_waiting others do.
	ErrTooManyWaiting = pool.ErrTooManyWaiting

	// ErrOutcomeUnknown matches the error of a statement or commit that may have run: its connection broke after the
	// server may have got it. It needs at_most_once.
	ErrOutcomeUnknown = session.ErrOutcomeUnknown

	// ErrSocketTimeout matches the error of every operation that socket_timeout ended.
	ErrSocketTimeout = session.ErrSocketTimeout
)

// PoolTimeoutError says why a checkout waited in vain, until pool_timeout or until the deadline of the caller's own
// context. Find it with [errors.As] and [*PoolTimeoutError]. It matches [ErrPoolTimeout] with [errors.Is], and
// [context.DeadlineExceeded] too if that ended the wait. Its Timeout method reports true, as for [net.Error].
type PoolTimeoutError struct {
	Pool    string        // name of the pool: pool_name, or host:port/database
	Waited  time.Duration // how long the caller waited
	Limit   int           // connection_limit at that moment
	InUse   int           // connections checked out
	Waiting int           // callers still waiting, this one not counted
	Holders []Holder      // holders of connections, longest first
	Err     error         // why no connection could be opened or used; nil if the pool was full

	Fleet *FleetShortage // which processes had the connections of fleet_limit; nil if that was not the cause

	context error // context.DeadlineExceeded if the caller's deadline ended the wait
}

// FleetShortage says that a wait was in vain because the processes of a fleet had all connections of fleet_limit.
type FleetShortage struct {
	Limit   int // fleet_limit
	Members []FleetMember
}

// FleetMember is a process of a fleet.
type FleetMember struct {
	Name string // its application_name and address, as far as the server shows them
	PID  int64  // of the server's process for its fleet session
	Held int    // connections of fleet_limit that it has
	Self bool   // it is this process
}

func newFleetShortage(s fleet.Snapshot) *FleetShortage {
	f := &FleetShortage{Limit: s.Limit}
	for _, p := range s.Peers {
		one := FleetMember{Name: p.Name, PID: int64(p.ID), Held: p.Held, Self: p.ID == s.Self}
		if one.Self {
			one.Held = s.Held
		}
		f.Members = append(f.Members, one)
	}
	slices.SortStableFunc(f.Members, func(a, b FleetMember) int { return b.Held - a.Held })
	return f
}

func (f *FleetShortage) writeTo(b *strings.Builder) {
	fmt.Fprintf(b, ": the fleet has no connection left (fleet_limit=%d", f.Limit)
	for i, m := range f.Members {
		if i == placesInError {
			fmt.Fprintf(b, ", and %d more processes", len(f.Members)-i)
			break
		}
		fmt.Fprintf(b, ", %d held by ", m.Held)
		if m.Self {
			b.WriteString("this process")
		} else {
			fmt.Fprintf(b, "%s (pid %d)", m.Name, m.PID)
		}
	}
	b.WriteString(")")
}

func (e *PoolTimeoutError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "lifeguard: no connection from pool %q within %s", e.Pool, assembly.Readable(e.Waited))
	if e.context != nil {
		b.WriteString(", when the caller's deadline passed")
	}
	if e.Err != nil {
		// A dead server and a full pool call for different hands, so the holders are left out here.
		fmt.Fprintf(&b, ": %s", e.Err)
		if hint := connectHint(e.Err, e.Limit); hint != "" {
			fmt.Fprintf(&b, " (%s)", hint)
		}
		return b.String()
	}
	if e.Fleet != nil {
		e.Fleet.writeTo(&b)
	}
	fmt.Fprintf(&b, " (connection_limit=%d, %d in use, %d waiting)", e.Limit, e.InUse, e.Waiting)
	if len(e.Holders) == 0 {
		return b.String()
	}
	writePlaces(&b, e.Holders)
	longest := &e.Holders[0]
	fmt.Fprintf(&b, "; longest held %s", assembly.Readable(longest.Held))
	longest.writeTo(&b)
	return b.String()
}

// placesInError is how many places an error names.
const placesInError = 5

// writePlaces counts the holders of each place in the code: "; 5 of 5 by main.export (export.go:88), running".
func writePlaces(b *strings.Builder, holders []Holder) {
	states := map[string]map[string]int{}
	counts := map[string]int{}
	var places []string
	for i := range holders {
		place := holders[i].where()
		if states[place] == nil {
			states[place] = map[string]int{}
			places = append(places, place)
		}
		states[place][holders[i].state()]++
		counts[place]++
	}
	slices.SortStableFunc(places, func(a, b string) int { return counts[b] - counts[a] })
	for i, place := range places {
		if i == placesInError {
			fmt.Fprintf(b, "; %d more places", len(places)-i)
			break
		}
		fmt.Fprintf(b, "; %d of %d by %s", counts[place], len(holders), place)
		for _, state := range []string{running, idleInTx, idle} {
			switch n := states[place][state]; n {
			case 0:
			case counts[place]:
				fmt.Fprintf(b, ", %s", state)
			default:
				fmt.Fprintf(b, ", %d %s", n, state)
			}
		}
	}
}

// Is matches ErrPoolTimeout, and what ended the wait.
func (e *PoolTimeoutError) Is(target error) bool {
	return target == ErrPoolTimeout || target == e.context && target != nil
}

// Timeout reports true, as net.Error has it.
func (e *PoolTimeoutError) Timeout() bool { return true }

// Unwrap gives the last error of opening a connection, if there was one.
func (e *PoolTimeoutError) Unwrap() error { return e.Err }

// timeoutError becomes a PoolTimeoutError when it is looked at. In an overload there are many, most of which nobody
// prints; to resolve stacks and read statements for each would take the processor from those who could be served.
type timeoutError struct {
	pool  *Pool
	why   *pool.TimeoutError
	holds []leak.Hold
	at    int64
	fleet fleet.Snapshot // where its budget was the cause

	once     sync.Once
	resolved *PoolTimeoutError
}

func (e *timeoutError) resolve() *PoolTimeoutError {
	e.once.Do(func() {
		e.resolved = &PoolTimeoutError{
			Pool: e.pool.name, Waited: e.why.Waited, Limit: e.why.Limit, InUse: e.why.InUse, Waiting: e.why.Waiting,
			Err: e.why.Dial, context: e.why.Context,
		}
		if e.why.Short {
			e.resolved.Fleet = newFleetShortage(e.fleet)
		}
		for i := range e.holds {
			e.resolved.Holders = append(e.resolved.Holders, e.pool.holder(&e.holds[i], e.at))
		}
	})
	return e.resolved
}

func (e *timeoutError) Error() string { return e.resolve().Error() }
func (e *timeoutError) Timeout() bool { return true }
func (e *timeoutError) Unwrap() error { return e.why.Dial }

func (e *timeoutError) Is(target error) bool {
	return target == ErrPoolTimeout || target == context.DeadlineExceeded && e.why.Context != nil
}

// As gives errors.As the public form.
func (e *timeoutError) As(target any) bool {
	if t, ok := target.(**PoolTimeoutError); ok {
		*t = e.resolve()
		return true
	}
	return false
}

// connectHint says what to change when a server refuses connections because it has too many.
func connectHint(err error, limit int) string {
	switch libpq.Code(err) {
	case "53300", "1040", "1203":
		return fmt.Sprintf("the server has no room for this pool of up to %d connections: lower connection_limit, "+
			"or raise max_connections on the server", limit)
	}
	return ""
}
