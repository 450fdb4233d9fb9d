// Package stmtcache runs queries on prepared statements that it keeps by their text, and knows when not to trust them.
//
// On a kept statement a query takes one round trip instead of two or three. The names, literals and parameters of a statement
// mean what they meant when it was prepared. The package hides the difference to one that is prepared now:
//
//   - It reads every text that runs, and keeps only texts that it understands. Another counts as a change.
//   - After a text that may change what others mean, statements are prepared again: those of the session, or those of the
//     pool if other clients see the change.
//   - No statement is used for more than five seconds ([validity]): nothing tells of changes by clients outside the pool.
//   - After an error that such a change can cause, the statement is prepared anew. The caller gets the error only if a fresh
//     statement could give it as well.
//
// The package refuses to know transactions beyond texts and [Cache.Ended], timeouts, how a query is cancelled, pools, leases
// and results. It runs everything as it is on drivers that it does not know.
package stmtcache
