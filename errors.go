package lifeguard

import (
	"database/sql/driver"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Errors that a caller may want to tell apart with [errors.Is].
var (
	// ErrPoolTimeout matches every [*PoolTimeoutError]: no connection came free, or could be opened, within
	// pool_timeout.
	ErrPoolTimeout = errors.New("lifeguard: no connection within pool_timeout")

	// ErrPoolClosed is returned by checkouts from a pool that is closed or shutting down, to waiters too.
	ErrPoolClosed = errors.New("lifeguard: the pool is closed")

	// ErrReclaimed is returned by every use of a connection that was taken back from its holder.
	ErrReclaimed = errors.New("lifeguard: the connection was taken back from a holder that kept it without using it")
)

// PoolTimeoutError says why a checkout waited for the whole of pool_timeout in vain. It matches [ErrPoolTimeout] with
// [errors.Is], and its Timeout method reports true, as for [net.Error].
type PoolTimeoutError struct {
	Pool    string        // name of the pool: pool_name, or host:port/database
	Waited  time.Duration // how long the caller waited
	Limit   int           // connection_limit at that moment
	InUse   int           // connections checked out
	Waiting int           // callers still waiting, this one not counted
	Holders []Holder      // who holds the connections, longest first
	Err     error         // the last error of opening a connection, nil if the pool was simply full
}

func (e *PoolTimeoutError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "lifeguard: no connection from pool %q within %s", e.Pool, readableDuration(e.Waited))
	if e.Err != nil {
		// A dead server and a full pool call for different hands, so the holders are left out here.
		fmt.Fprintf(&b, ": %s", e.Err)
		if hint := connectHint(e.Err, e.Limit); hint != "" {
			fmt.Fprintf(&b, " (%s)", hint)
		}
		return b.String()
	}
	fmt.Fprintf(&b, " (connection_limit=%d, %d in use, %d waiting)", e.Limit, e.InUse, e.Waiting)
	if len(e.Holders) > 0 {
		h := e.Holders[0]
		fmt.Fprintf(&b, "; longest held %s", readableDuration(h.Held))
		h.writeTo(&b)
	}
	return b.String()
}

// Is makes every PoolTimeoutError match [ErrPoolTimeout].
func (e *PoolTimeoutError) Is(target error) bool { return target == ErrPoolTimeout }

// Timeout reports true, as net.Error has it.
func (e *PoolTimeoutError) Timeout() bool { return true }

// Unwrap gives the last error of opening a connection, if there was one.
func (e *PoolTimeoutError) Unwrap() error { return e.Err }

// connectError stands for an error of the wrapped driver's Connect where its text has to change: because it shows a
// part of the DSN, or because the error must not be seen by database/sql.
type connectError struct {
	text string
	err  error // nil where the chain must end here
}

func (e *connectError) Error() string { return e.text }
func (e *connectError) Unwrap() error { return e.err }

// hideBadConn ends the chain of an error that matches driver.ErrBadConn: database/sql would answer it with two more
// attempts, each of which would wait for the whole of pool_timeout again.
func hideBadConn(err error) error {
	if errors.Is(err, driver.ErrBadConn) {
		return &connectError{text: "the driver could not open a connection: " + err.Error()}
	}
	return err
}

// readableDuration rounds d so that three digits remain: 4m12s, 20s, 1.53s, 500ms.
func readableDuration(d time.Duration) string {
	switch {
	case d >= 10*time.Second:
		d = d.Round(time.Second)
	case d >= time.Second:
		d = d.Round(10 * time.Millisecond)
	case d >= time.Millisecond:
		d = d.Round(10 * time.Microsecond)
	}
	s := d.String()
	if rest, ok := strings.CutSuffix(s, "m0s"); ok {
		s = rest + "m"
	}
	if rest, ok := strings.CutSuffix(s, "h0m"); ok {
		s = rest + "h"
	}
	return s
}

// shortFunction cuts the folder of the import path from a function's name: example.com/shop/export.All is export.All.
func shortFunction(name string) string { return name[strings.LastIndexByte(name, '/')+1:] }
