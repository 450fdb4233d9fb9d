// Package handle is what a *sql.DB holds: the connector, and leases, statements, transactions and rows, each of which
// stands for something of the wrapped driver.
//
// A lease stands for exactly one session, for the whole of its life. Its record, under a mutex of its own, says who has
// it and what runs; reports, shutdown and reclaim read and change the record under the same mutex.
//
// All waiting happens in Connect. The package refuses to choose who is served (internal/pool), to talk to a server
// (internal/session), and to judge how long is too long (internal/leak).
package handle
