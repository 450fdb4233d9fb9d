// Package pool decides which caller gets which connection, and when one is opened or closed.
//
// It is one mutex, a list of idle resources, a queue of waiters, the dials under way and one maintenance timer.
// A Budget may bound it further. Its clients are handles: each acquires slots, lends them out as leases, and returns
// them. A lease that lies idle in its handle can be taken back at any time.
//
// The package refuses to know what a resource is. It knows no SQL, no database/sql, no reports and no errors of
// drivers: functions of its Config open, close and ping resources, and say which errors a retry can mend.
package pool
