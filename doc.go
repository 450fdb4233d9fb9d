// Package lifeguard is a database/sql driver that wraps another driver and looks after the connection pool.
//
// Changing one word is the whole installation:
//
//	db, err := sql.Open("lifeguard", "postgres://app:secret@db/shop?connection_limit=10&pool_timeout=20")
//
// Importing the package registers the driver "lifeguard", which wraps github.com/lib/pq. [Register] wraps any other
// driver under a name of your own, [Open] wraps a registered one for one handle, and [OpenDB] takes a
// [database/sql/driver.Connector].
//
// # What it does
//
// Behind every handle stands one pool with an exact limit, an acquire timeout and first-come-first-served order.
// The handle's own "connections" are leases on the pool's physical connections: as long as nobody waits, a lease
// stays with the handle and the next checkout costs one compare-and-swap; as soon as somebody waits, it goes to the
// longest waiter. A wait ends after pool_timeout with a [*PoolTimeoutError] that names who holds the connections.
// The parameters are fields of [Config] and can be written into the DSN; all of them are described there.
//
// # What it refuses to do
//
// It does not parse, rewrite or route SQL, retry statements that may have run, hide the errors of the wrapped
// driver, or change how arguments and results are converted: what the wrapped driver does, a handle opened through
// lifeguard does too. It does not balance load over several servers. It keeps no global configuration.
package lifeguard
