package lifeguard

import (
	"time"

	"github.com/go-lifeguard/lifeguard/internal/look"
)

// Stats is a snapshot of a pool. The counters count since the pool was opened.
type Stats struct {
	Limit   int // connection_limit
	Open    int // physical connections: InUse + Idle
	InUse   int // checked out
	Idle    int // kept for the next checkout
	Waiting int // callers waiting for a connection

	Acquired         uint64        // checkouts
	Waits            uint64        // checkouts that had to wait, however they ended
	Timeouts         uint64        // waits that ended with pool_timeout
	Canceled         uint64        // waits that the caller's context ended, by its deadline or its cancelling
	Opened           uint64        // connections opened
	Closed           uint64        // connections closed
	DialErrors       uint64        // attempts to open a connection that failed
	Leaks            uint64        // connections reported as held too long
	LostRows         uint64        // rows dropped without Close, found by the garbage collector
	Reclaimed        uint64        // connections taken back from their holders
	SlowQueries      uint64        // operations of at least slow_query_threshold
	StatementHits    uint64        // operations that ran on a kept statement
	StatementMisses  uint64        // operations that had to prepare one
	StatementRetries uint64        // operations that ran once more because a kept statement was out of date
	WaitDuration     time.Duration // sum of all waits

	FleetLimit     int // fleet_limit, the lowest of the fleet's processes; 0 without one
	FleetProcesses int // processes in the fleet, this one included
	FleetHeld      int // shares of fleet_limit that this process has, one for each connection it may open
	FleetWanted    int // more that it needs now
}

// Look is for package poolpage: it has the handle's driver, and no more of this package than its public API.
func (d *poolDriver) Look() *look.Pool { return d.pool.pool.Look() }
