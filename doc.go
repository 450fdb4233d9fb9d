// Package lifeguard is a database/sql driver that wraps another driver and looks after the connection pool.
//
// Changing one word is the whole installation:
//
//	db, err := sql.Open("lifeguard", "postgres://app:secret@db/shop?connection_limit=10&pool_timeout=20")
//
// Importing the package registers the driver "lifeguard", which wraps github.com/lib/pq. For any other driver, [Open] wraps
// one that is registered, and [OpenDB] takes a [database/sql/driver.Connector]. [Register] wraps a driver under a name of
// your own.
//
// # What it does
//
// Behind every handle stands one pool with an exact limit, in which callers wait in the order in which they came. A wait
// ends after pool_timeout with a [*PoolTimeoutError] that names the holders of the connections. The settings are the fields
// of [Config], and parameters of the DSN. [PoolOf] gives the pool of a handle: its counters, its holders, and what can be
// changed at run time.
//
// The limit is the pool's. SetMaxOpenConns and the other setters of the handle do not change it: write connection_limit.
//
// At the end of a process, [Shutdown] waits for work under way. In tests, lifeguardtest.NoLeaks finds connections that are
// not returned. poolpage.Handler shows the pool in a browser.
//
// # What it refuses to do
//
// It does not parse, rewrite or route SQL, and it does not balance load over several servers. It does not retry statements
// that may have run, or hide the errors of the wrapped driver. Arguments and results are converted as the wrapped driver
// does it. There is no global configuration.
package lifeguard
