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
// Behind every handle stands one pool with an exact limit, in which callers wait in the order in which they came. A wait
// ends after pool_timeout with a [*PoolTimeoutError] that names who holds the connections. The parameters are fields of
// [Config] and can be written into the DSN; all of them are described there. [PoolOf] gives the pool of a handle: its
// counters, its holders, and what can be changed at run time.
//
// The limit is the pool's. SetMaxOpenConns and the other setters of the handle do not change it: write connection_limit.
//
// At the end of a process, [Shutdown] waits for work under way. In tests, lifeguardtest.NoLeaks finds connections that are
// not returned. poolpage.Handler shows the pool in a browser.
//
// # What it refuses to do
//
// It does not parse, rewrite or route SQL, retry statements that may have run, hide the errors of the wrapped
// driver, or change how arguments and results are converted: what the wrapped driver does, a handle opened through
// lifeguard does too. It does not balance load over several servers. It keeps no global configuration.
package lifeguard
